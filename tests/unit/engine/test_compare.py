"""`make compare` and `make compare-all`: what is published, what is kept, what runs again."""

import pytest

from common import __version__
from common.config import UserError, load
from common.engine.comparison import compare, results, runs
from common.engine.comparison.runs import PlannedRun
from common.engine.comparison.schema import Comparison
from common.registry import config_class
from tests.unit.engine.comparison_runs import FakeRun, result_of, runs_of, spec_of

LOW, MIDDLE, HIGH = [0.1, 0.2, 0.3], [0.4, 0.5, 0.6], [0.5, 0.6, 0.7]


@pytest.mark.parametrize(
    ("options", "published"),
    [
        ({}, True),
        ({"arms": ["full"]}, True),
        ({"arms": ["all"]}, True),
        ({"seeds": "3"}, True),  # all of them
        ({"seeds": "1"}, False),
        ({"seeds": "7,8,9"}, False),
        ({"arms": ["a"]}, False),
        ({"overrides": ["optim.lr=1"]}, False),
    ],
)
def test_only_a_whole_comparison_is_published(tmp_path, monkeypatch, options, published):
    from common.engine.comparison.spec import choose_arms, choose_seeds

    monkeypatch.setattr(results, "ROOT", tmp_path)
    spec = spec_of("abc", [], default_arms=["a", "b"])

    def planned(project, overrides=(), seeds=None, arms=(), only=""):
        (chosen,) = choose_arms([spec], arms)
        numbers = choose_seeds(spec, seeds)
        return [(spec, chosen, [FakeRun(tmp_path, a, s, 0.5) for s in numbers for a in chosen])]

    written = []
    monkeypatch.setattr(compare, "planned_runs", planned)
    monkeypatch.setattr(compare, "read_comparisons", lambda project: [spec])
    monkeypatch.setattr(compare, "publish", lambda project, result: written.append(result))
    _, reason = compare.compare("dcl", **options)
    assert bool(written) == published
    assert bool(reason) != published


@pytest.fixture
def two_comparisons(tmp_path, monkeypatch):
    """A project with a published comparison and one that never ran; the list of what is written."""
    monkeypatch.setattr(results, "ROOT", tmp_path)
    main = result_of(tmp_path / "main", {"a": HIGH, "b": LOW}, ["a > b"])
    results.write_results("dcl", [main])
    made = {(run.arm, run.seed): run for run in runs_of(tmp_path / "late", {"a": LOW, "b": HIGH})}
    specs = [spec_of("ab", ["a > b"]), spec_of("ab", ["b > a"], name="late")]
    written = []
    monkeypatch.setattr(compare, "read_comparisons", lambda project: specs)
    monkeypatch.setattr(compare, "PlannedRun", lambda _, spec, arm, seed, __: made[arm, seed])
    monkeypatch.setattr(compare, "publish", lambda project, result: written.append(result))
    return written


def test_one_comparison_alone_is_published_and_the_others_stay(two_comparisons):
    comparisons, _ = compare.compare("dcl", only="late")
    assert [comparisons] == two_comparisons
    main, late = comparisons
    assert main["values"]["a"].of("score") == HIGH  # as published: other runs of a have LOW
    assert (late["name"], late["claims"][0]["verdict"]) == ("late", "supported")
    assert late["values"]["a"].of("score") == LOW
    alone, reason = compare.compare("dcl", only="late", seeds="1")  # printed, not written
    assert ([c["name"] for c in alone], len(two_comparisons)) == (["late"], 1)
    assert reason


def test_one_comparison_alone_needs_the_others_published(two_comparisons, monkeypatch):
    results.result_path("dcl").unlink()
    monkeypatch.setattr(compare, "run_all", lambda *_, **__: pytest.fail("ran"))
    with pytest.raises(UserError, match="leaves 'main'.*has not run; make compare PROJECT=dcl"):
        compare.compare("dcl", only="late")
    assert two_comparisons == []


# -- reuse of runs --------------------------------------------------------------------------------


@pytest.fixture
def code(monkeypatch):
    """`code(commit, dirty)`: the code is in that state."""

    def set_code(commit, dirty=False):
        monkeypatch.setattr(runs, "code_state", lambda: {"commit": commit, "dirty": dirty})
        runs.present_code.cache_clear()

    yield set_code
    runs.present_code.cache_clear()


def run_id(**settings):
    spec = Comparison(metric="m", base="smoke", arms={"a": settings}, project="dcl")
    return PlannedRun("dcl", spec, "a", 0).run_id


def test_a_run_is_reused_with_equal_config_and_commit_of_a_clean_tree(code, monkeypatch):
    """The name of a run holds both; a finished folder of that name does not run again."""
    code("a" * 40)
    clean = run_id()
    monkeypatch.setattr(runs, "STARTED", "another command")
    runs.present_code.cache_clear()
    assert run_id() == clean
    assert run_id(**{"optim.lr": 0.5}) != clean
    code("b" * 40)
    assert run_id() != clean


@pytest.mark.parametrize("commit", ["a" * 40, None])
def test_no_other_command_reuses_a_run_with_local_changes_or_without_git(code, monkeypatch, commit):
    code(commit, dirty=commit is not None)
    assert runs.present_code().count("-") == 0  # the last part of a name, for `make prune`
    first = run_id()
    assert run_id() == first  # within a command, two comparisons may share it
    monkeypatch.setattr(runs, "STARTED", "another command")
    runs.present_code.cache_clear()
    assert run_id() != first


def test_code_must_stay_while_a_comparison_runs(code, monkeypatch):
    code("a" * 40)
    run = PlannedRun("dcl", Comparison(metric="m", base="smoke", arms={"a": {}}), "a", 0)
    run.check_unchanged()
    monkeypatch.setattr(runs, "code_state", lambda: {"commit": "a" * 40, "dirty": True})
    with pytest.raises(UserError, match="the code has changed"):
        run.check_unchanged()


def test_runs_carry_their_arm_whether_or_not_they_are_tracked():
    """`make runs WHERE=arm=a` finds them."""
    spec = Comparison(arms={"a": {}, "b": {}})
    for overrides, quiet in (((), True), (("tracking.wandb=offline",), False)):
        words = PlannedRun("dcl", spec, "a", 0, overrides).command()
        assert 'tracking.tags=["arm:a"]' in words
        assert ("tracking.wandb=disabled" in words) == quiet


def test_the_arms_of_a_comparison_share_a_group_of_their_own_or_the_users():
    main, further = (Comparison(arms={"a": {}, "b": {}}, name=name) for name in ("main", "more"))

    def groups(spec, *overrides):
        commands = [PlannedRun("dcl", spec, arm, 0, overrides).command() for arm in "ab"]
        words = [[word for word in command if "=" in word] for command in commands]
        return {load(config_class("dcl"), "dcl", "mini", w).tracking.group for w in words}

    assert groups(main) == {"dcl-mini-main"}
    assert groups(further) == {"dcl-mini-more"}
    assert groups(main, "tracking.group=team") == {"team"}


# -- a release ------------------------------------------------------------------------------------


def test_a_release_goes_on_where_it_was(tmp_path, monkeypatch):
    """Measured at this version and commit is done; anything else runs."""
    monkeypatch.setattr(results, "ROOT", tmp_path)
    monkeypatch.setattr(compare, "read_comparisons", lambda project: [spec_of("ab", ["a > b"])])
    result = result_of(tmp_path / "runs", {"a": HIGH, "b": MIDDLE}, ["a > b"])
    result["measured"] |= {"version": __version__, "commit": "a" * 40, "clean": True}
    others = {"commit": "b" * 40, "clean": False, "version": "0.0.1"}
    results.write_results("done", [result])
    for key, value in others.items():
        results.write_results(key, [{**result, "measured": {**result["measured"], key: value}}])
    state = {"commit": "a" * 40, "dirty": False}
    monkeypatch.setattr(compare, "code_state", lambda: state)
    compared = []

    def fake(project, jobs, lowest_priority):
        assert lowest_priority
        compared.append(project)
        if project == "clean":
            raise UserError("no data")
        return [], ""

    monkeypatch.setattr(compare, "compare", fake)
    projects = ["done", *others, "absent"]
    assert compare.compare_all(1, projects) == ["clean: no data"]
    assert compared == [*others, "absent"]
    state["dirty"] = True  # with local changes nothing counts as measured
    compared.clear()
    compare.compare_all(1, ["done"])
    assert compared == ["done"]
