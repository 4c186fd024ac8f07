"""What ends a command while it works, in one sentence: full disk, memory, a process that is gone.

Also two refusals of libraries that no config shows before the first step: one row under a batch
norm, and a loss kernel that cannot run here.
"""

import errno
import re
from collections.abc import Iterator

FULL = {
    errno.ENOSPC: "no space left on the disk",
    errno.EDQUOT: "the disk quota is used up",
    errno.EFBIG: "the file is larger than the system allows",
}
MEMORY = ("OutOfMemoryError", "MemoryError")  # of torch, and Python's own
FULL_TEXT = re.compile(r"no space left on device|disk quota exceeded|file too large", re.I)
MEMORY_TEXT = re.compile(
    r"out of memory|cannot allocate memory|can't allocate memory|bad_alloc|not enough memory", re.I
)
ONE_ROW = "Expected more than 1 value per channel when training"  # torch's batch norm
WORKER = re.compile(r"DataLoader worker \(pid\(?s?\)? ?([\d, ]+)\)")
PEER = re.compile(
    r"\bgloo\b|\bnccl\b|connection (closed|reset) by peer|process ?group|TCPStore|broken pipe", re.I
)


def explain(error: BaseException) -> str | None:
    """One sentence for an error that the user can mend; None for any other error.

    Errors that others were raised on top of count as well: libraries hide a full disk behind
    errors of their own.
    """
    if type(error).__name__ == "UserError":
        return None
    for cause in _causes(error):
        text = str(cause)
        if isinstance(cause, OSError) and cause.errno in FULL:
            place = f" ({cause.filename})" if cause.filename else ""
            return f"{FULL[cause.errno]}{place}: free some, then start the command again"
        if isinstance(cause, OSError) and cause.errno == errno.EROFS:
            return f"{cause.filename or 'a folder'} is read-only: name a folder that can be written"
        if isinstance(cause, OSError) and cause.errno == errno.ENAMETOOLONG:
            return f"the path {str(cause.filename)[:80]}... is too long: take a shorter runs_dir or name"
        if isinstance(cause, PermissionError) and cause.filename:
            return f"no permission to open {cause.filename}: change its rights, or name another"
        if ONE_ROW in text:
            return "batch norm needs two or more samples a process: raise data.batch_size"
        if type(cause).__name__ == "BackendError":
            return f"{text}; loss_backend=auto takes what runs"
        if workers := WORKER.search(text):
            return (
                f"loader process {workers[1].strip()} was killed, most likely for want of memory: "
                "lower data.num_workers or data.batch_size"
            )
        if type(cause).__name__ in MEMORY or MEMORY_TEXT.search(text):
            said = text.strip().splitlines()[0] if text.strip() else "of the host"
            return (
                f"out of memory ({said}): lower data.batch_size or eval.batch_size, or take a"
                " smaller model"
            )
        if not isinstance(cause, OSError) and FULL_TEXT.search(text):  # safetensors, tokenizers
            return f"{FULL[errno.ENOSPC]}: free some, then start the command again"
    return None


def is_lost_peer(error: BaseException) -> bool:
    """Whether an error says that another process of the run is gone or does not answer."""
    kinds = ("DistBackendError", "DistNetworkError", "DistStoreError", "RuntimeError")
    return any(
        type(cause).__name__ in kinds and PEER.search(str(cause)) for cause in _causes(error)
    )


def _causes(error: BaseException) -> Iterator[BaseException]:
    """An error and those that it was raised on top of."""
    seen: set[int] = set()
    current: BaseException | None = error
    while current is not None and id(current) not in seen:
        seen.add(id(current))
        yield current
        current = current.__cause__ or current.__context__
