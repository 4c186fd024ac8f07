"""``task.engine=ray``: chunks computed by worker processes of a Ray cluster.

Only the driver writes files, so the machines need no common disk; chunks come back in any order and
each goes to its own file.
"""

import os
import sys
from collections import deque
from collections.abc import Callable, Iterator
from typing import Any

from common.config import ROOT, UserError
from common.data.row_map.chunks import Job, RowFunction, compute
from common.data.row_map.options import RowMapConfig


def ray_contents(
    build: Callable[[], RowFunction], jobs: Iterator[Job], options: RowMapConfig
) -> Iterator[tuple[int, bytes]]:
    """(chunk, file content) of all jobs, as they are finished.

    A worker that dies is started again and repeats its chunk. Jobs are read as workers become free,
    so that no more than one chunk per worker is in memory.

    Args:
        build: makes the row function, once in every worker; picklable.
        jobs: what is to be computed.
        options: workers and what each needs.

    Raises:
        UserError: ray is not installed, the cluster cannot be reached or is too small, or the row
            function raised one.
    """
    ray = _started(options)
    remote = ray.remote(
        num_cpus=options.cpus_per_worker,
        num_gpus=options.gpus_per_worker,
        max_restarts=3,
        max_task_retries=3,
    )(_Worker)
    workers = [remote.remote(build) for _ in range(options.workers)]
    try:
        idle = deque(workers)
        flying: dict[Any, tuple[int, Any]] = {}
        for job in jobs:
            if not idle:
                yield _landed(ray, flying, idle)
            worker = idle.popleft()
            flying[worker.run.remote(job)] = job.chunk, worker
        while flying:
            yield _landed(ray, flying, idle)
    finally:
        for worker in workers:  # the cluster stays for the next step
            ray.kill(worker)


class _Worker:
    """A process with its own row function (and model)."""

    def __init__(self, build: Callable[[], RowFunction]) -> None:
        self.build, self.function = build, None

    def run(self, job: Job) -> bytes:
        """File content of a chunk."""
        # here and not in __init__, whose errors Ray reports without their type
        if self.function is None:
            self.function = self.build()  # type: ignore[assignment]
        return compute(self.function, job)  # type: ignore[arg-type]


def _landed(ray: Any, flying: dict[Any, tuple[int, Any]], idle: deque[Any]) -> tuple[int, bytes]:
    (ready, *_), _ = ray.wait(list(flying), num_returns=1)
    chunk, worker = flying.pop(ready)
    idle.append(worker)
    try:
        content: bytes = ray.get(ready)
    except ray.exceptions.RayTaskError as error:
        if isinstance(error.cause, UserError):
            raise error.cause from None
        raise
    return chunk, content


def _started(options: RowMapConfig) -> Any:
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # nothing is sent anywhere
    try:
        import ray
    except ImportError:
        raise UserError(
            "task.engine=ray needs ray, which is not in the default environment: "
            ".venv/bin/python -m pip install 'ray>=2.40' (the group `scale` of pyproject.toml)"
        ) from None
    address = options.ray_address or os.environ.get("RAY_ADDRESS")
    size: dict[str, Any] = {"address": address}
    if address is None:
        needed = int(-(-options.workers * options.cpus_per_worker // 1))
        size = {"num_cpus": max(needed, os.cpu_count() or 1), "include_dashboard": False}
    # a sum may be split by the number of threads, so a worker has as many as one process alone
    torch = sys.modules.get("torch")
    threads = os.environ.get("OMP_NUM_THREADS") or (torch.get_num_threads() if torch else None)
    variables = {"PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])}
    if threads:
        variables["OMP_NUM_THREADS"] = str(threads)
    try:
        ray.init(
            **size,
            log_to_driver=False,
            ignore_reinit_error=True,
            runtime_env={"env_vars": variables},
        )
    except (ConnectionError, ValueError, RuntimeError) as error:
        raise UserError(f"task.engine=ray cannot start or reach a cluster: {error}") from error
    have = ray.cluster_resources()
    for kind, each in (("CPU", options.cpus_per_worker), ("GPU", options.gpus_per_worker)):
        if options.workers * each > have.get(kind, 0):
            raise UserError(
                f"task.engine=ray: {options.workers} workers of {each:g} {kind} each do not fit "
                f"into this cluster's {have.get(kind, 0):g}; lower task.workers or "
                f"task.{kind.lower()}s_per_worker"
            )
    return ray
