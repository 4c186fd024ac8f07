"""Teacher logits of text pairs: computed once, joined to the pairs by content.

A row of a file holds the pair's content hash and its logits. The order of rows is that of the
pairs; the hash of every row is compared, so that a filtered or reordered set is noticed.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from common.config import UserError
from common.data.offline import content_key
from common.data.row_map.chunks import RowFunction, RowSeed
from common.data.row_map.mapper import Display, MappedRows, RowMap, map_rows
from common.data.row_map.options import RowMapConfig
from common.data.row_map.parts import Parts
from common.data.tables import read_jsonl
from common.distributed.process import barrier, is_rank_zero
from common.encoders.modes import evaluated
from common.encoders.text.cross_encoder import CrossEncoder

Pair = tuple[str, str]


@dataclass
class ScorePairs:
    """Row function: pairs -> content hash and logits, in evaluation mode.

    Attributes:
        classifier: the teacher.
        order: columns of its logits that are kept, in this order.
        batch_size: pairs of a pass.
        accelerator: ``cfg.trainer.accelerator``.
        bf16: matrix products in bfloat16, as in training with ``bf16-mixed``.
    """

    classifier: CrossEncoder
    order: list[int]
    batch_size: int = 256
    accelerator: str = "cpu"
    bf16: bool = False

    def __call__(self, rows: Sequence[Any], seeds: Sequence[RowSeed]) -> list[dict[str, Any]]:
        """One row for each pair ``[first, second]``."""
        pairs = [(str(a), str(b)) for a, b in rows]
        with evaluated(self.classifier, self.accelerator):
            scores = self._scores(pairs)
        logits = (scores if scores.ndim == 2 else scores[:, None])[:, self.order]
        return [
            {"key": content_key(pair), "logits": row}
            for pair, row in zip(pairs, logits.tolist(), strict=True)
        ]

    def _scores(self, pairs: list[Pair]) -> Tensor:
        device = self.classifier.device.type
        with torch.autocast(device, torch.bfloat16, enabled=self.bf16):
            return self.classifier.score(pairs, self.batch_size)


def score_pairs(
    build: Callable[[], RowFunction],
    pairs: Sequence[Pair],
    folder: Path,
    settings: dict[str, Any],
    *,
    chunk_size: int = 4096,
    options: RowMapConfig | None = None,
    display: Callable[[str, int], Display] | None = None,
) -> MappedRows:
    """Write the logits of pairs, in their order, in files of `chunk_size`; see `map_rows`.

    Args:
        build: makes a `ScorePairs`, or another row function with such rows.
        pairs: N pairs.
        folder: of these pairs and this teacher.
        settings: what tells the teacher apart.
        chunk_size: pairs in a file, and lost at most by a kill.
        options: share and engine.
        display: progress.

    Raises:
        UserError: the folder was made from other pairs or by another teacher.
    """
    step = RowMap("teacher logits", build, settings, chunk_size=chunk_size)
    return map_rows(step, [list(pair) for pair in pairs], folder, options, display)


def stored_scores(
    build: Callable[[], RowFunction],
    pairs: Sequence[Pair],
    folder: Path,
    settings: dict[str, Any],
    chunk_size: int = 4096,
    display: Callable[[str, int], Display] | None = None,
) -> Tensor:
    """Logits (N, C) of pairs: computed by one process where they are not stored, then read by all.

    Raises:
        UserError: see `score_pairs` and `joined`.
    """
    if is_rank_zero():
        score_pairs(build, pairs, folder, settings, chunk_size=chunk_size, display=display)
    barrier()
    return joined(pairs, read_scores(folder), folder)


def read_scores(path: str | Path) -> list[dict[str, Any]]:
    """Rows of a folder that `score_pairs` wrote, or of a JSON-lines file of any other teacher.

    A row of such a file has ``logits`` and either ``key``, or the texts ``first`` and ``second``.

    Raises:
        UserError: nothing there, parts missing, or rows without these columns.
    """
    path = Path(path).expanduser()
    if path.is_dir():
        return list(Parts.opened(path).rows())
    rows = read_jsonl(path, ("logits",))
    for number, row in enumerate(rows, start=1):
        if "key" not in row:
            if not {"first", "second"} <= row.keys():
                raise UserError(f"{path}, line {number}: needs first and second, or key")
            if not (isinstance(row["first"], str) and isinstance(row["second"], str)):
                raise UserError(f"{path}, line {number}: first and second are texts")
            row["key"] = content_key((row["first"], row["second"]))
    return rows


def joined(pairs: Sequence[Pair], rows: Iterable[dict[str, Any]], where: object) -> Tensor:
    """Logits (N, C) float32 of pairs, by index; length and content hash of every row are compared.

    Args:
        pairs: N pairs.
        rows: see `read_scores`.
        where: names them in messages.

    Raises:
        UserError: another number of rows, other pairs or another order, or rows of unequal length.
    """
    rows = list(rows)
    if len(rows) != len(pairs):
        raise UserError(
            f"{where} has teacher logits of {len(rows)} pairs, but there are {len(pairs)}: score "
            "the same pairs again (make run TASK=score)"
        )
    for index, (pair, row) in enumerate(zip(pairs, rows, strict=True)):
        if row["key"] != content_key(pair):
            raise UserError(
                f"{where}: row {index} belongs to another pair than '{pair[0][:40]}' | "
                f"'{pair[1][:40]}': the pairs were reordered or filtered, score them again "
                "(make run TASK=score)"
            )
    if len({len(row["logits"]) for row in rows}) != 1:
        raise UserError(f"{where}: rows of logits of unequal length")
    return torch.tensor([row["logits"] for row in rows], dtype=torch.float32)
