"""Generated programs, run against their tests in a process of their own."""

import contextlib
import os
import resource
import secrets
import signal
import subprocess
import sys
import tempfile

MEMORY = 2 << 30  # bytes of a program

# Standard input is a token, a line end and the program. The token goes to the given file after the
# program's last line, and nothing else tells success: not the exit code, which a program can
# choose.
DRIVER = r"""
from os import _exit, write
from sys import argv, stdin
done = int(argv.pop())
token, program = stdin.buffer.read().split(b"\n", 1)
try:
    exec(program.decode("utf-8", "surrogatepass"), {})
except BaseException:
    _exit(1)
write(done, token)
_exit(0)
"""


def passes(program: str, timeout: float = 3.0) -> bool:
    """Whether a Python program reaches its end without an error.

    As in the official harness it is executed by `exec` with empty globals: code under
    ``if __name__ == "__main__"`` does not run, and a program that exits before its end fails.

    It runs in an empty folder, without the environment and the packages of the user, with limits of
    time and memory and without large files. That keeps accidents small and is not a sandbox: run
    programs of a model that you don't trust on a machine that you can lose.

    Source: Chen et al. 2021, "Evaluating Large Language Models Trained on Code", section 2.3 and
    released code, arXiv 2107.03374.

    Args:
        program: source text that ends with its tests.
        timeout: seconds.

    >>> passes("assert 1 + 1 == 2"), passes("assert 1 + 1 == 3")
    (True, False)
    """
    token = secrets.token_hex(16).encode()
    with (
        tempfile.TemporaryDirectory() as folder,
        tempfile.TemporaryFile() as source,
        tempfile.TemporaryFile() as done,
    ):
        source.write(token + b"\n" + program.encode("utf-8", "surrogatepass"))
        source.seek(0)
        process = subprocess.Popen(
            [sys.executable, "-I", "-S", "-c", DRIVER, str(done.fileno())],
            cwd=folder,
            env={},
            stdin=source,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            pass_fds=[done.fileno()],
            start_new_session=True,
            preexec_fn=lambda: _limit(timeout),
        )
        try:
            process.wait(timeout)
        except subprocess.TimeoutExpired:
            return False
        finally:  # what it may have started too
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
        done.seek(0)
        return done.read() == token


def _limit(seconds: float) -> None:
    cpu = int(seconds) + 1
    resource.setrlimit(resource.RLIMIT_CPU, (cpu, cpu))
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, 1 << 20))
