"""One smoke run of each project, shared by all tests that look at one."""

import fcntl
import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.reads import Reads, settings_read

# every step is kept, so that a test can go on from any of them
EVERY_STEP = ("trainer.checkpoint_every_n_steps=1", "trainer.keep_checkpoints=1000")


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Hold a file's lock: workers of one session do one after the other."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


class SmokeRuns:
    """Finished smoke runs, trained when they are first asked for.

    Args:
        folder: where runs go; workers of one session share it.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __call__(self, project: str, config: str = "smoke", *words: str) -> Path:
        """The folder of a finished run; nobody changes it.

        Args:
            project: slug.
            config: another one than smoke, as small.
            words: settings of a variant.
        """
        from common.engine.run import train
        from common.registry import config_class

        name = re.sub(r"[^\w.]+", "-", "-".join((project, config, *words)))
        with locked(self.folder / f"{name}.lock"):
            finished = self.folder / f"{name}.json"
            if not finished.exists():
                own = [f"runs_dir={self.folder / name}", "run_id=full", *EVERY_STEP, *words]
                with settings_read(config_class(project)) as reads:
                    run = train(project, config, own)
                finished.write_text(json.dumps({"run": str(run), "reads": sorted(reads)}))
            return Path(json.loads(finished.read_text())["run"])

    def reads(self, project: str) -> Reads:
        """Settings that the smoke run read."""
        self(project)
        content = json.loads((self.folder / f"{project}-smoke.json").read_text())
        return {(section, name) for section, name in content["reads"]}

    def export(self, project: str) -> Path:
        """The exported model of the smoke run; nobody changes it."""
        from common.engine.trained import export

        run = self(project)
        with locked(self.folder / f"{project}-export.lock"):
            if not (run / "export").exists():
                export(project, "smoke", [f"runs_dir={run.parents[2]}"], str(run), None)
            return run / "export"


def metrics_of(run: Path) -> dict[str, float]:
    """What a run or an evaluation measured."""
    metrics: dict[str, float] = json.loads((run / "metrics.json").read_text(encoding="utf-8"))
    return metrics


def losses_of(run: Path) -> dict[str, dict[int, float]]:
    """Training losses by stage and step."""
    losses: dict[str, dict[int, float]] = {}
    for row in (run / "metrics.csv").read_text(encoding="utf-8").splitlines()[1:]:
        stage, step, name, value = row.split(",")
        if name == "train/loss":
            losses.setdefault(stage, {})[int(step)] = float(value)
    return losses
