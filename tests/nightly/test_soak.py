"""Many runs in one folder, started, killed and continued at random: no row is lost, doubled or
mixed.
"""

import random
import time

import pytest

from tests.interrupted import same
from tests.nightly import runs

pytestmark = pytest.mark.nightly

NUM_RUNS = 8
PROJECT = "dcl"


@pytest.mark.timeout(0)
def test_runs_side_by_side_do_not_disturb_each_other(tmp_path, pytestconfig, capsys):
    """Runs of eight seeds; those that end begin anew under another name, until the time is over.

    One kill comes in half the time that a run takes alone, so that each of the eight lives about as
    long as it needs beside the others on two cores: some end, some are killed several times.
    """
    rng, minutes = random.Random(0), pytestconfig.getoption("--soak-minutes")
    (tmp_path / "alone").mkdir()
    (tmp_path / "many").mkdir()
    expected, start = {}, time.monotonic()
    for seed in range(NUM_RUNS):
        run = runs.Run(PROJECT, tmp_path / "alone", f"s{seed}", f"seed={seed}")
        run.start()
        assert run.ends() == 0
        expected[seed] = run.result()
    alone = (time.monotonic() - start) / NUM_RUNS
    until, finished, generation = time.monotonic() + 60 * minutes, [], 0
    active = [
        runs.Run(PROJECT, tmp_path / "many", f"s{seed}-0", f"seed={seed}")
        for seed in range(NUM_RUNS)
    ]
    for run in active:
        run.start()
    kills = 0
    while time.monotonic() < until:
        time.sleep(rng.uniform(0.0, alone))
        seed = rng.randrange(NUM_RUNS)
        run = active[seed]
        if run.process.poll() is None:
            run.kill()
            kills += 1
        if run.is_done:
            finished.append((seed, run))
            generation += 1
            run = active[seed] = runs.Run(
                PROJECT, tmp_path / "many", f"s{seed}-{generation}", f"seed={seed}"
            )
        run.start()
    for seed, run in enumerate(active):
        if run.ends() != 0 or not run.is_done:
            run.start()
            assert run.ends() == 0, (tmp_path / "many" / f"{PROJECT}-{run.name}.log").read_text()[
                -2000:
            ]
        finished.append((seed, run))
    with capsys.disabled():
        print(f"\n{len(finished)} runs ended, {kills} kills, {alone:.0f} s a run alone")
    assert kills > 0
    for seed, run in finished:
        result = run.result()
        assert result["rows"] == expected[seed]["rows"], run.name
        assert result["metrics"] == expected[seed]["metrics"], run.name
        assert same(result["states"], expected[seed]["states"]), run.name
