"""Evidence over all projects: counts, freshness, what is written."""

import dataclasses
import datetime
import json
import re
from xml.etree import ElementTree

import pytest
import torch

from common.config import ROOT
from common.engine.comparison import evidence
from common.engine.comparison.dependencies import GPU_KERNELS, RECORDS, SEVERAL_PROCESSES
from common.engine.comparison.evidence import age, changed_files, freshness, stale_projects
from common.engine.comparison.pages import COLOURS, WORDS, Row, counts, evidence_picture
from common.engine.comparison.runs import PlannedRun, baseline_files
from common.engine.comparison.schema import Comparison
from common.kernels.pair import info_nce, pair_softplus, pair_stats
from common.kernels.sharded import plan
from common.kernels.specs.weights import Diagonal
from tests.published import published_rows
from tests.unit.engine.comparison_runs import result_of

VALUES = {"a": [0.5, 0.6, 0.7], "b": [0.4, 0.5, 0.6]}


@pytest.fixture
def published(tmp_path, monkeypatch):
    """A spec and its fresh result."""
    spec = Comparison(metric="score", arms={"a": {}, "b": {}}, claims=["a > b"])
    result = result_of(tmp_path / "runs", VALUES, ["a > b"])

    class Config:
        config_hash, alone = "c0ffee00", True

    monkeypatch.setattr(evidence, "PlannedRun", lambda *_: Config)
    return spec, json.loads(json.dumps(result))


def test_a_result_of_todays_code_is_fresh(published):
    assert freshness("dcl", *published) == "fresh"


def test_what_only_writes_down_leaves_it_fresh(published):
    """A result from before the rule lists such files; no other one is passed over."""
    spec, result = published
    assert not RECORDS & set(result["files"])
    unread = {min(RECORDS): "0", "data/models/text-encoder/README.md": "0"}
    before = {**result, "code": "0", "files": {**result["files"], **unread}}
    assert freshness("dcl", spec, before) == "fresh"
    before["files"]["common/engine/trainer.py"] = "0"
    assert freshness("dcl", spec, before) == "stale: common/engine/trainer.py changed"


def test_kernels_of_a_gpu_make_results_of_gpus_stale_alone(published):
    """A run on a CPU cannot launch them: there the dispatcher refuses."""
    spec, result = published
    name = next(n for n in sorted(result["files"]) if n.startswith(GPU_KERNELS))
    before = {**result, "code": "0", "files": {**result["files"], name: "0"}}
    for gpu, state in ((None, "fresh"), ("H100", f"stale: {name} changed")):
        own = {**before, "hardware": {**result["hardware"], "gpu": gpu}}
        assert freshness("dcl", spec, own) == state
    other = next(n for n in sorted(result["files"]) if n.startswith("common/kernels/blocked/"))
    before["files"] = {**result["files"], other: "0"}
    assert freshness("dcl", spec, before) == f"stale: {other} changed"


def test_what_several_processes_run_makes_results_of_several_stale_alone(published, monkeypatch):
    """One process has no shards: `as_sharding` answers None before anything else of it is called."""
    spec, result = published
    name = "common/kernels/sharded/plan.py"
    assert name in SEVERAL_PROCESSES
    assert name in result["files"]
    assert all((ROOT / path).is_file() for path in SEVERAL_PROCESSES)
    before = {**result, "code": "0", "files": {**result["files"], name: "0"}}
    assert freshness("dcl", spec, before) == "fresh"
    monkeypatch.setattr(evidence.PlannedRun(), "alone", False)
    assert freshness("dcl", spec, before) == f"stale: {name} changed"


def test_a_run_is_alone_with_one_device_on_one_machine():
    spec = Comparison(arms={"a": {}, "b": {"trainer.devices": 2}, "c": {"trainer.num_nodes": 2}})
    alone = {arm: PlannedRun("dcl", spec, arm, 0).alone for arm in spec.arms}
    assert alone == {"a": True, "b": False, "c": False}


def test_runs_carry_their_arm_whether_or_not_they_are_tracked():
    """`make runs WHERE=arm=a` found nothing of a comparison that W&B did not see."""
    spec = Comparison(arms={"a": {}, "b": {}})
    for overrides, quiet in (((), True), (("tracking.wandb=offline",), False)):
        words = PlannedRun("dcl", spec, "a", 0, overrides).command()
        assert 'tracking.tags=["arm:a"]' in words
        assert ("tracking.wandb=disabled" in words) == quiet


def test_one_process_calls_none_of_the_sharded_code(monkeypatch):
    """But the gate: with world size 1 a loss of every kind is what it is without a group."""
    for name in ("make_plan", "Plan"):
        monkeypatch.setattr(plan, name, None)
    q, k = torch.nn.functional.normalize(torch.randn(2, 12, 8), dim=2)
    for group in (None, plan.Sharding()):
        info_nce(q, k, 5.0, group=group)
        pair_stats(q, k, 5.0, Diagonal(), columns=True, group=group)
        pair_softplus(q, k, 5.0, Diagonal(), bias=0.0, group=group)


def test_what_only_writes_down_touches_neither_weights_nor_random_numbers():
    for name in RECORDS:
        text = (ROOT / name).read_text()
        assert not re.search(
            r"state_dict|optimizer|parameters\(|manual_seed|\brandom\b|\.data\b", text
        )


def test_what_makes_it_stale(published):
    spec, result = published
    assert freshness("dcl", spec, None) == "not run"
    unknown = {k: v for k, v in result.items() if k != "files"} | {"code": "0"}
    assert freshness("dcl", spec, unknown) == "stale: code or data changed"
    files = dict(result["files"])
    first = next(name for name in sorted(files) if name.startswith("common/losses"))
    moved = {**result, "code": "0", "files": {**files, first: "0"}}
    assert freshness("dcl", spec, moved) == f"stale: {first} changed"
    assert (
        freshness("dcl", spec, {k: v for k, v in result.items() if k != "code"})
        == "stale: its code is not recorded"
    )
    for change in (
        {"arms": {"a": {}, "b": {"x": 1}}},
        {"seeds": [0, 1, 2, 3]},
        {"claims": ["b > a"]},
        {"claims": [{"claim": "a > b", "at_least": 0.1}]},
        {"baselines": ["chance"]},
        {"metric": "other"},
        {"direction": "min"},
        {"margin": 0.5},
        {
            "claims": [
                {"claim": "a > b", "not_testable": {"reason": "x", "metric": "score", "below": 9.0}}
            ]
        },
        {"claims": [{"claim": "a > b", "published": [2.0, 1.0]}]},
    ):
        changed = dataclasses.replace(spec, **change)
        assert freshness("dcl", changed, result) == "stale: compare.yaml changed", change
    baselines = {**result, "baseline_files": {"projects/dcl/baselines.py": "0"}}
    assert freshness("dcl", spec, baselines) == "stale: projects/dcl/baselines.py changed"
    result["arms"]["a"]["config_hash"] = "0"
    assert freshness("dcl", spec, result) == "stale: config changed"


def test_a_result_of_before_its_rules_were_recorded_is_asked_for_what_it_has(published):
    spec, result = published
    old = {k: v for k, v in result.items() if k not in ("bounds", "baseline_files")}
    old["claims"] = [{k: v for k, v in claim.items() if k != "rule"} for claim in result["claims"]]
    assert freshness("dcl", spec, old) == "fresh"
    assert (
        freshness("dcl", dataclasses.replace(spec, metric="other"), old)
        == "stale: compare.yaml changed"
    )


def test_baselines_have_files_of_their_own():
    files = baseline_files("dcl", Comparison(arms={"a": {}}, baselines=["untrained"]))
    assert "projects/dcl/baselines.py" in files
    assert baseline_files("dcl", Comparison(arms={"a": {}})) == {}


def row(project, verdict="supported", state="fresh", minutes=1.0, **more):
    base = {"claim": "a > b", "here": "+0.1", "paper": "ours", "below": "", "date": "2020-01-01"}
    return Row(project=project, verdict=verdict, state=state, minutes=minutes, **base | more)


def test_counts_and_age():
    rows = [
        row("x"),
        row("x", "contradicted", below="overlap"),
        row("y", "not run", "not run", None),
    ]
    assert (
        counts(rows)
        == "3 claims of 2 projects: 1 supported, 0 not shown, 1 contradicted, 0 not testable here, "
        "1 not run, 1 with a method below its best baseline without training. "
        "3 are expectations of this repository, the others say what a paper says."
    )
    told = counts([row("x", paper="70 against 60"), row("x", state="stale: a.py changed")])
    assert "1 are expectations" in told
    assert told.endswith("1 are stale: code, data or design have changed since.")
    assert age(rows[0], datetime.date(2020, 1, 11)) == "10 d"


def test_what_is_not_shown_says_where_it_excludes_the_papers_relative_effect(monkeypatch):
    """Only claims that are not shown: a supported one may exclude that effect as well, by a larger
    one.
    """
    monkeypatch.setattr(evidence, "freshness", lambda *_: "fresh")
    rows = {r.claim: r for r in evidence.evidence_rows(["simcse"])}
    small = [claim for claim, r in rows.items() if r.too_small]
    assert small == ["unsup > raw"]
    assert "], excludes the paper's relative size (+0.1783); " in rows["unsup > raw"].here
    assert rows["unsup > raw"].here.endswith("of this size, whatever the seeds")
    assert "excludes" not in rows["unsup > same_mask"].here
    assert "1 of those not shown exclude" in counts(list(rows.values()))


def test_the_queue_holds_what_is_stale_the_shortest_first():
    rows = [
        row("long", state="stale: x", minutes=9.0),
        row("fresh"),
        row("new", "not run", "not run", None),
        row("short", state="stale: x"),
    ]
    assert stale_projects(rows) == ["new", "short", "long"]


def test_evidence_is_written_into_docs_and_readme(tmp_path, monkeypatch):
    monkeypatch.setattr(evidence, "ROOT", tmp_path)
    readme = tmp_path / "README.md"
    readme.write_text("a\n<!-- evidence:begin -->\nold\n<!-- evidence:end -->\nb\n")
    monkeypatch.setattr(evidence, "list_projects", lambda: {"x": ""})
    (tmp_path / "results").mkdir()
    assert evidence.write_evidence([row("x")]) == ["docs/evidence.md", "README.md"]
    text = readme.read_text()
    assert "old" not in text
    assert "1 claims of 1 projects: 1 supported" in text
    assert text.endswith("<!-- evidence:end -->\nb\n")
    readme.write_text("no block")
    assert evidence.write_evidence([row("x")]) == ["docs/evidence.md"]


def test_the_picture_has_a_square_of_its_verdict_for_every_claim():
    rows = [
        row("one"),
        row("one", "contradicted", below="tfidf", claim="a < b"),
        row("two", "not run", "not run", None),
    ]
    drawing = evidence_picture(rows)
    root = ElementTree.fromstring(drawing)
    space = {"svg": "http://www.w3.org/2000/svg"}
    squares = [r for r in root.findall("svg:rect", space) if r.find("svg:title", space) is not None]
    assert [s.get("fill") for s in squares] == [
        COLOURS[w] for w in ("supported", "contradicted", "not run")
    ]
    assert [s.get("stroke") for s in squares] == ["#777", "#111", "#777"]
    assert squares[1].find("svg:title", space).text.startswith("a < b: contradicted")
    assert {"one", "two"} <= {t.text for t in root.findall("svg:text", space)}


@pytest.mark.parametrize(
    "projects",
    [
        ["lol", "nv_embed"],
        pytest.param(None, marks=pytest.mark.nightly, id="all"),
    ],  # all: make faults
)
def test_every_published_claim_is_listed(projects):
    rows = evidence.evidence_rows(projects) if projects else published_rows()
    assert {r.verdict for r in rows} <= {*WORDS, "not run"}
    paths = (evidence.ROOT / "results").glob("*.json")
    results = [json.loads(p.read_text()) for p in paths if not projects or p.stem in projects]
    expected = sum(len(own["claims"]) for r in results for own in (r, *r.get("more", [])))
    assert sum(r.verdict != "not run" for r in rows) == expected > 0


def test_changed_files_are_named_and_the_rest_counted():
    then = {f"common/{name}.py": "1" for name in "abcde"}
    now = {**then, "common/a.py": "2", "common/f.py": "1"}
    assert changed_files(then, now) == "common/a.py, common/f.py changed"
    assert changed_files(then, {}) == "common/a.py, common/b.py, common/c.py and 2 more changed"
    assert changed_files({}, now) == changed_files(now, now) == "code or data changed"
