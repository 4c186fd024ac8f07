"""Generated programs, run against their tests in a process of their own."""

import contextlib
import os
import resource
import signal
import subprocess
import sys
import tempfile

MEMORY = 2 << 30  # bytes of a program


def passes(program: str, timeout: float = 3.0) -> bool:
    """Whether a Python program ends without an error.

    It runs in an empty folder, without the environment and the packages of the user, with limits of
    time and memory and without large files. That keeps accidents small and is no sandbox: run
    programs of a model that you don't trust on a machine that you can lose.

    Source: Chen et al. 2021, "Evaluating Large Language Models Trained on Code", section 2.3, arXiv
    2107.03374.

    Args:
        program: source text that ends with its tests.
        timeout: seconds.

    >>> passes("assert 1 + 1 == 2"), passes("assert 1 + 1 == 3")
    (True, False)
    """
    with tempfile.TemporaryDirectory() as folder:
        process = subprocess.Popen(
            [sys.executable, "-I", "-S", "-c", program], cwd=folder, env={},
            stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
            start_new_session=True, preexec_fn=lambda: _limit(timeout),
        )  # fmt: skip
        try:
            return process.wait(timeout) == 0
        except subprocess.TimeoutExpired:
            return False
        finally:  # what it may have started too
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def _limit(seconds: float) -> None:
    cpu = int(seconds) + 1
    resource.setrlimit(resource.RLIMIT_CPU, (cpu, cpu))
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, 1 << 20))
