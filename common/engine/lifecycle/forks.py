"""A process that has loaded what every run needs, and forks itself for each of them.

Loading torch, Lightning and transformers takes as long as many a short run. `Forks` starts one such
process per folder of code; where it can't be had, runs begin in processes of their own as before.
Its own side, `serve`, is also run on the code of another folder, so this file imports the standard
library alone.

A fork takes no threads along. The process therefore forks once on trial, which makes libraries that
mind forks (OpenBLAS) end theirs, and gives up if any thread is left then.
"""

import contextlib
import fcntl
import importlib
import importlib.util
import json
import os
import runpy
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import IO, Any

RUN = "common.cli"  # the module that a run is a command line of
LOOK = 0.05  # seconds between two looks at a process that is waited for


class Unavailable(Exception):
    """No process can be forked: it has ended, or would leave threads behind."""


class ForkedProcess:
    """The process of a run, which holds the lock of its log; as `runs.RunProcess`.

    Args:
        server: which has forked it, its parent.
        pid: its number, also that of its group.
        grace: seconds between asking it to end and killing it.
    """

    def __init__(self, server: "Server", pid: int, grace: float) -> None:
        self.server, self.pid, self.grace = server, pid, grace
        self.code: int | None = None

    def ended(self) -> int | None:
        """Its exit code, 0 where nobody knows it; None while it runs."""
        if self.code is None:
            try:
                self.code = self.server.ask(poll=self.pid)["code"]
            except (
                Unavailable
            ):  # its parent was killed: nobody is told how, its metrics tell whether well
                self.code = None if _runs(self.pid) else 0
        return self.code

    def ask_to_end(self) -> None:
        """Ask it and the processes that it started to end."""
        self._signal(signal.SIGTERM)

    def end(self) -> None:
        """Wait until it has ended, and kill what doesn't."""
        deadline = time.monotonic() + self.grace
        while self.ended() is None and time.monotonic() < deadline:
            time.sleep(LOOK)
        self._signal(signal.SIGKILL)
        while self.ended() is None:
            time.sleep(LOOK)

    def _signal(self, number: int) -> None:
        if self.ended() is None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self.pid, number)


class Server:
    """A process that forks itself for runs.

    Args:
        modules: that it loads; those that the folder doesn't have are left out.
        environment: of it and of every run.
        folder: that it works in; None for this process's.

    Raises:
        Unavailable: it did not start.
    """

    def __init__(
        self, modules: Sequence[str], environment: Mapping[str, str], folder: Path | None = None
    ) -> None:
        self.popen = subprocess.Popen(
            [sys.executable, __file__, *modules],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
            env=dict(environment),
            cwd=folder,
            text=True,
        )
        try:
            self._read()  # that it is ready
        except Unavailable:
            self.close()
            raise

    def start(self, words: Sequence[str], log: Path, grace: float) -> ForkedProcess | None:
        """Fork a process for a run.

        Args:
            words: behind ``python -m common.cli``.
            log: file that its output is added to, and whose lock it holds.
            grace: seconds between asking it to end and killing it.

        Returns:
            None while another process holds the lock.

        Raises:
            Unavailable: it can't be forked.
        """
        answer = self.ask(words=list(words), log=str(log.absolute()))
        if "error" in answer:
            raise Unavailable(answer["error"])
        return None if answer["pid"] is None else ForkedProcess(self, answer["pid"], grace)

    def ask(self, **request: Any) -> dict[str, Any]:
        """The answer to a request.

        Raises:
            Unavailable: there is none any more.
        """
        assert self.popen.stdin is not None
        with _uninterrupted():  # an answer that is left behind would be the next request's
            try:
                print(json.dumps(request), file=self.popen.stdin, flush=True)
            except (OSError, ValueError):
                raise Unavailable from None
            return self._read()

    def _read(self) -> dict[str, Any]:
        assert self.popen.stdout is not None
        line = self.popen.stdout.readline()
        if not line:
            raise Unavailable
        return json.loads(line)  # type: ignore[no-any-return]

    def close(self) -> None:
        """End it; its runs go on."""
        for pipe in (self.popen.stdin, self.popen.stdout):
            assert pipe is not None
            with contextlib.suppress(OSError):
                pipe.close()
        self.popen.wait()


class Forks:
    """One server per folder of code, each started with the first run that asks for it.

    Args:
        modules: that they load.
    """

    def __init__(self, modules: Sequence[str]) -> None:
        self.modules = modules
        self.servers: dict[Path | None, Server | None] = {}

    def of(self, folder: Path | None, environment: Mapping[str, str]) -> Server | None:
        """The server of a folder (None for this process's); None where it can't be had."""
        if folder not in self.servers:
            try:
                self.servers[folder] = Server(self.modules, environment, folder)
            except (Unavailable, OSError):
                self.servers[folder] = None
        return self.servers[folder]

    def close(self) -> None:
        """End the servers."""
        for server in filter(None, self.servers.values()):
            server.close()


def _runs(pid: int) -> bool:
    """Whether a process runs; one that has ended may stay until somebody asks for its code."""
    try:
        state = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()[0]
    except (OSError, IndexError):
        return False
    return state not in "XZ"


@contextlib.contextmanager
def _uninterrupted() -> Iterator[None]:
    """Put Ctrl-C off."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGINT])
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


# --- the process itself -----------------------------------------------------------------------


def serve(modules: Sequence[str]) -> None:
    """Load modules, then answer requests; in a fork, be the run that was asked for."""
    answers = os.fdopen(os.dup(1), "w")
    nowhere = os.open(os.devnull, os.O_RDWR)
    os.dup2(nowhere, 1)  # whatever modules print while they are loaded is no answer
    for name in modules:
        with contextlib.suppress(ModuleNotFoundError):
            importlib.import_module(name)
    sys.stdout.flush()  # nowhere, else every fork would write it again
    if importlib.util.find_spec(RUN.partition(".")[0]) is None or not alone():
        return
    print("{}", file=answers, flush=True)
    while line := sys.stdin.readline():
        request = json.loads(line)
        try:
            answer = (
                _poll(request["poll"]) if "poll" in request else _fork(request, answers, nowhere)
            )
        except OSError as error:  # no memory, no file: the runs that there are go on
            answer = {"error": str(error)}
        if answer is None:
            return
        print(json.dumps(answer), file=answers, flush=True)


def _poll(pid: int) -> dict[str, Any]:
    ended, status = os.waitpid(pid, os.WNOHANG)
    return {"code": os.waitstatus_to_exitcode(status) if ended else None}


def _fork(request: Mapping[str, Any], answers: IO[str], nowhere: int) -> dict[str, Any] | None:
    """The answer to a request for a run; None in the run, once it has ended."""
    log = _locked(request["log"])
    if log is None:
        return {"pid": None}
    try:
        begun, beginning = os.pipe()
        pid = os.fork()
        if not pid:
            answers.close()
            os.setsid()
            os.close(begun)
            os.close(beginning)
            _become(request["words"], nowhere, log)
            return None
        os.close(beginning)
        os.read(begun, 1)  # returns once the run is a group of its own, which signals reach
        os.close(begun)
        return {"pid": pid}
    finally:
        os.close(log)  # the run has it, and with it the lock


def alone() -> bool:
    """Whether no thread runs beside this one, once libraries have ended theirs for a fork."""
    if pid := os.fork():
        os.waitpid(pid, 0)
    else:
        os._exit(0)
    return len(os.listdir("/proc/self/task")) == 1


def _locked(path: str) -> int | None:
    log = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o666)
    try:
        fcntl.flock(log, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(log)
        return None
    except OSError:  # a file system without flock
        pass
    return log


def _become(words: Sequence[str], nowhere: int, log: int) -> None:
    """Be the process of a run: its output in its log."""
    for source, target in ((nowhere, 0), (log, 1), (log, 2)):
        os.dup2(source, target)
    sys.stdin = os.fdopen(0, encoding="utf-8", closefd=False)
    sys.argv[1:] = words
    runpy.run_module(RUN, run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    here = str(Path(__file__).parent)  # whose modules have names of others
    sys.path[:] = [entry for entry in sys.path if entry != here]
    serve(sys.argv[1:])
