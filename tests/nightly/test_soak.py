"""Runs side by side, killed in their training steps and continued: no row is lost, doubled or
mixed, and no kill costs more than the steps since the last checkpoint. In half of the cases the
power fails too, and what was not synced is gone.
"""

import random
import re
import time
from collections import Counter
from pathlib import Path

import pytest

from tests.interrupted import same
from tests.nightly.runs import Forked

pytestmark = pytest.mark.nightly

# long enough for several kills in the steps of one run; coconut has three stages
STEPS = {"dcl": 80, "simcse": 80, "laclip": 80, "trend": 40, "coconut": 20}
CHECKPOINT = 7  # steps between two; divides none of the numbers above
KILLED = re.compile(r"killed in (\w+) after step (\d+)")
GOES_ON = re.compile(r"(\w+): (?:continues after step (\d+)|no checkpoint yet, begins)")
LOSS = "loss of power\n"
PAUSE = 0.05  # seconds between two looks at the runs


class Victim(Forked):
    """A run that is due to be killed a random number of logged steps after each start."""

    def __init__(self, project: str, folder: Path, number: int) -> None:
        words = (
            f"trainer.max_steps={STEPS[project]}",
            f"trainer.checkpoint_every_n_steps={CHECKPOINT}",
        )
        super().__init__(project, folder, str(number), *words)
        self.rng = random.Random(f"{project}-{number}")

    def start(self) -> None:
        """Begin, or go on from what there is."""
        super().start()
        self.last, self.left = self.position, self.rng.randint(1, 3 * CHECKPOINT)

    @property
    def is_due(self) -> bool:
        """Whether it has logged as many steps as it may."""
        if self.position != self.last:
            self.last, self.left = self.position, self.left - 1
        return self.left <= 0

    def kill(self) -> None:
        """SIGKILL, with a loss of power in half of the cases, noted in the log of the run."""
        super().kill()
        with self.log.open("a", encoding="utf-8") as log:
            log.write("\nkilled in {} after step {}\n".format(*self.position))
            if self.rng.random() < 0.5 and not self.is_done:
                self.disk.fail()
                log.write(LOSS)

    def costs(self) -> list[int]:
        """Logged steps that each kill in a stage has cost which the run then went on with."""
        costs, killed = [], None
        for line in self.log.read_text("utf-8").splitlines():
            if match := KILLED.fullmatch(line):
                killed = match
            elif killed and (match := GOES_ON.match(line)) and match[1] == killed[1]:
                costs.append(int(killed[2]) - int(match[2] or 0))
                killed = None
        return costs


@pytest.mark.timeout(0)
def test_kills_in_training_steps_cost_the_steps_since_a_checkpoint(tmp_path, pytestconfig, capsys):
    """A run of each project; another begins for each that ends, until the time is over."""
    expected = {}
    for project in STEPS:
        run = Victim(project, tmp_path, 0)
        run.start()
        assert run.ends() == 0, run.log.read_text()[-2000:]
        expected[project] = run.result()
    until = time.monotonic() + 60 * pytestconfig.getoption("--soak-minutes")
    active = [Victim(project, tmp_path, 1) for project in STEPS]
    finished: list[Victim] = []
    kills: Counter[tuple[str, str]] = Counter()
    for run in active:
        run.start()
    while active:
        time.sleep(PAUSE)
        for run in list(active):
            over = time.monotonic() > until
            if run.lives and run.is_due and not over:
                run.kill()
                if not run.is_done:
                    kills[run.project, run.position[0]] += 1
                    run.start()
            elif not run.lives:
                assert run.is_done, run.log.read_text()[-2000:]
                finished.append(run)
                active.remove(run)
                if not over:
                    number = 1 + sum(each.project == run.project for each in finished)
                    active.append(Victim(run.project, tmp_path, number))
                    active[-1].start()
    losses = sum(run.log.read_text("utf-8").count(LOSS) for run in finished)
    costs = Counter(cost for run in finished for cost in run.costs())
    with capsys.disabled():
        print(f"\n{len(finished)} runs ended, {sum(kills.values())} kills: {dict(kills)}")
        print(f"{losses} of them with a loss of power")
        print(f"kills by the steps that they cost: {dict(sorted(costs.items()))}")
    assert max(costs) <= CHECKPOINT
    for run in finished:
        result, whole = run.result(), expected[run.project]
        assert result["rows"] == whole["rows"], run.path
        assert result["metrics"] == whole["metrics"], run.path
        assert same(result["states"], whole["states"]), run.path
