"""A stale result is renewed by equal numbers of today's code, and by nothing else."""

import json

import pytest

from common.config import UserError
from common.engine import verbs
from common.engine.comparison import evidence, results
from common.engine.comparison.evidence import freshness
from common.engine.comparison.schema import Comparison
from common.engine.renewal import published as renewal
from tests.unit.engine.comparison_runs import PROJECT, FakeRun, result_of

VALUES = {"a": [0.5, 0.6, 0.7], "b": [0.4, 0.5, 0.6]}
NAN = float("nan")


@pytest.fixture
def stale(tmp_path, monkeypatch):
    """Folder of a published result whose code is another, and what `verify` is to find there."""
    more = {"metrics": {"b": {"undefined": NAN}}, "baselines": {"chance": 0.1}}
    result = result_of(tmp_path / "old", VALUES, ["a > b"], **more)
    result |= {"code": "0", "files": {**result["files"], "common/config.py": "0"}}
    for arm in result["arms"].values():
        arm["config_hash"] = "0"  # an option has come that the runs do without
    spec = Comparison(
        metric="score",
        arms={"a": {}, "b": {}},
        claims=["a > b"],
        baselines=["chance"],
        seeds=[0, 1, 2],
    )
    (tmp_path / "results").mkdir()
    (tmp_path / "results" / f"{PROJECT}.json").write_text(json.dumps(result))
    card = tmp_path / "projects" / PROJECT / "README.md"
    card.parent.mkdir(parents=True)
    card.write_text("<!-- results:begin -->\n<!-- results:end -->\n")
    for module in (renewal, results, evidence):
        monkeypatch.setattr(module, "ROOT", tmp_path)
    monkeypatch.setattr(results, "plot", lambda *_: None)
    monkeypatch.setattr(renewal, "run_all", lambda *_, **__: None)

    class Config:
        config_hash, alone = "c0ffee00", True

    monkeypatch.setattr(evidence, "PlannedRun", lambda *_: Config)

    def runs(values=VALUES, spec=spec, seed=1, **metrics):
        own = {"undefined": NAN, **metrics}
        plan = [
            FakeRun(tmp_path / "new", "a", seed, values["a"][1]),
            FakeRun(tmp_path / "new", "b", seed, values["b"][1], **own),
            FakeRun(tmp_path / "new", "chance", 0, 0.1, baseline=True),
        ]
        monkeypatch.setattr(renewal, "planned_runs", lambda *_: [(spec, ["a", "b"], plan)])
        return spec

    return tmp_path, runs


def published(folder):
    return json.loads((folder / "results" / f"{PROJECT}.json").read_text())


def test_equal_numbers_renew_it(stale):
    folder, runs = stale
    spec = runs()
    assert freshness(PROJECT, spec, published(folder)).startswith("stale: common/config.py")
    assert renewal.verify(PROJECT) == []
    result = published(folder)
    assert freshness(PROJECT, spec, result) == "fresh"
    assert result["code"] == "0"  # what the numbers were made by stays on record
    assert result["verified"]["seeds"] == [1]
    card = (folder / "projects" / PROJECT / "README.md").read_text()
    assert "seeds [1] and the baselines again" in card
    assert "equal to the last digit" in card


def test_a_renewed_result_is_stale_again_when_the_code_changes_again(stale):
    folder, runs = stale
    spec = runs()
    renewal.verify(PROJECT)
    result = published(folder)
    files = {**result["verified"]["files"], "common/config.py": "1"}
    result["verified"] |= {"code": "1", "files": files}
    assert freshness(PROJECT, spec, result) == "stale: common/config.py changed"
    result = published(folder)
    result["verified"]["config_hashes"]["a"] = "1"
    assert freshness(PROJECT, spec, result) == "stale: config changed"


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"values": {"a": [0, 0.6 + 1e-16], "b": [0, 0.5]}}, ("a", "score", 0.6)),
        ({"other": 2.0}, ("b", "other", 1.0)),
        ({"score_chance": None}, ("b", "score_chance", 0.1)),
    ],
)
def test_any_other_number_leaves_it_stale(stale, change, expected):
    folder, runs = stale
    before = published(folder)
    spec = runs(**change)
    if expected[0] == "a":  # the smallest step that a number can make
        path = folder / "new/a-1/metrics.json"
        path.write_text(json.dumps({**json.loads(path.read_text()), "score": 0.6000000000000001}))
    (found,) = renewal.verify(PROJECT)
    assert (found.metric, found.published) == expected[1:]
    assert json.dumps(published(folder)) == json.dumps(before)
    assert freshness(PROJECT, spec, published(folder)).startswith("stale")
    with pytest.raises(
        UserError, match=f"1 metrics are not what was published.*\n.*{found.metric}"
    ):
        verbs.verify(PROJECT, [], None, 1, "1")


def test_times_of_the_machine_are_no_difference(stale):
    folder, runs = stale
    spec = runs()
    path = folder / "results" / f"{PROJECT}.json"
    result = json.loads(path.read_text())
    result["arms"]["a"]["metrics"]["train_seconds"] = [1.0, 2.0, 3.0]
    path.write_text(json.dumps(result))
    assert renewal.verify(PROJECT) == []
    assert freshness(PROJECT, spec, published(folder)) == "fresh"


def test_a_missing_metric_or_another_baseline_value_is_a_difference(stale):
    folder, runs = stale
    runs()
    for name, content in (("a-1", {"score": 0.6, "other": 1.0}), ("chance-0", {"score": 0.2})):
        (folder / "new" / name / "metrics.json").write_text(json.dumps(content))
    found = {(d.metric, d.now) for d in renewal.verify(PROJECT)}
    assert {("score_chance", None), ("score", 0.2)} <= found
    assert ("score", 0.6) not in found


def test_refusals(stale):
    folder, runs = stale
    runs(spec=Comparison(metric="score", arms={"a": {}, "b": {"x": 1}}, claims=["a > b"]))
    with pytest.raises(UserError, match="has changed since the result"):
        renewal.verify(PROJECT)
    for run in (folder / "new").iterdir():
        run.rename(folder / f"unused-{run.name}")
    runs(seed=9)
    with pytest.raises(UserError, match=r"published with seeds \[0, 1, 2\], not \{9\}"):
        renewal.verify(PROJECT, "9,")
    (folder / "results" / f"{PROJECT}.json").unlink()
    with pytest.raises(UserError, match="no published result: make compare PROJECT=dcl"):
        renewal.verify(PROJECT)
