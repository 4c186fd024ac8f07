"""`VERIFY=baselines` puts new numbers of baselines beside arms that stay as they were published."""

import subprocess
import sys
from dataclasses import replace

import pytest

from common.config import ROOT, UserError
from common.engine.comparison import results
from common.engine.comparison.evidence import FRESH
from common.engine.comparison.schema import Comparison
from common.engine.renewal import baselines
from tests.unit.engine.comparison_runs import META, PROJECT, FakeRun, result_of


@pytest.fixture
def renew(tmp_path, monkeypatch):
    """Renews a result with arms .6 and .5, no mark, and a baseline of .55; returns what is
    published.
    """
    claims = ["a > b", "b > a"]
    old = result_of(
        tmp_path / "old", {"a": [0.6, 0.6], "b": [0.5, 0.5]}, claims, baselines={"still": 0.3}
    )
    spec = Comparison(metric="score", arms={"a": {}, "b": {}}, claims=claims, baselines=["still"])
    told = {}

    def renew(values, spec=spec, state=FRESH):
        def planned(project, own, name, seed):
            return FakeRun(
                tmp_path / f"new-{values[name]}", name, seed, values[name], baseline=True
            )

        monkeypatch.setattr(baselines, "PlannedRun", planned)
        monkeypatch.setattr(baselines, "published_result", lambda _: old)
        monkeypatch.setattr(
            baselines, "read_comparisons", lambda _: [replace(spec, baselines=list(values))]
        )
        monkeypatch.setattr(baselines, "freshness", lambda *_: state)
        monkeypatch.setattr(baselines, "run_all", lambda runs, jobs, title: told.update(ran=runs))
        monkeypatch.setattr(baselines, "publish", lambda _, result: told.update(result=result))
        names = baselines.renew_baselines(PROJECT)
        return told["result"], names

    return renew


def test_new_numbers_of_baselines_mark_the_claims_anew(renew):
    """A mended one and a further one; arms, differences, intervals and verdicts are not touched."""
    result, names = renew({"still": 0.55, "further": 0.4})
    assert names == ["still", "further"]
    assert {n: e["metrics"]["score"] for n, e in result["baselines"].items()} == {
        "still": [0.55],
        "further": [0.4],
    }
    assert result["arms"]["a"]["values"] == [0.6, 0.6]
    first, second = result["claims"]
    assert (first["verdict"], first["below"]) == ("supported", [])
    assert second["below"] == [
        {"arm": "b", "value": 0.5, "baseline": "still", "baseline_value": 0.55}
    ]
    assert result["baselines_again"]["commit"] == META["commit"]
    assert "baselines run again on" in results.markdown(result)


def test_a_baseline_that_fell_takes_its_mark_along(renew):
    result, _ = renew({"still": 0.55})
    assert result["claims"][1]["below"]
    result, _ = renew({"still": 0.45})
    assert not result["claims"][1]["below"]


def test_stale_arms_and_claims_on_baselines_are_refused(renew):
    with pytest.raises(UserError, match=r"arms of .* are stale: a.py changed.*VERIFY=code"):
        renew({"still": 0.4}, state="stale: a.py changed")
    beside = Comparison(metric="score", arms={"a": {}, "b": {}}, claims=["a > still"])
    with pytest.raises(UserError, match="'a > still' compares with a baseline"):
        renew({"still": 0.4}, spec=beside)


def test_settings_and_seeds_are_not_taken():
    words = ["compare", PROJECT, "--verify=baselines", "--seeds=2"]
    done = subprocess.run(
        [sys.executable, "-m", "common.cli", *words], cwd=ROOT, capture_output=True, text=True
    )
    assert done.returncode == 2
    assert "VERIFY=baselines" in done.stderr
