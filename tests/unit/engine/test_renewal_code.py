"""`VERIFY=code` runs the code that published a result beside today's, and renews by equal runs
alone.
"""

import json
import subprocess
import sys
from dataclasses import replace
from hashlib import sha256
from types import SimpleNamespace

import pytest

from common.config import ROOT, UserError, to_yaml
from common.engine import verbs
from common.engine.comparison import judge, results
from common.engine.comparison.runs import PlannedRun
from common.engine.comparison.spec import read_comparison
from common.engine.renewal import earlier, outcome, published
from tests.unit.engine.comparison_runs import PROJECT, result_of

CODE = "abcdef01"
CURVE = "stage,step,name,value\nfit,10,train/loss,0.5\nfit,20,train/loss,0.4\nfit,20,sys/peak_memory_mib,7\n"


def git(folder, *words):
    own = ["-c", "user.name=a", "-c", "user.email=a@b.c"]
    done = subprocess.run(
        ["git", *own, *words], cwd=folder, capture_output=True, text=True, check=True
    )
    return done.stdout.strip()


def write_run(folder, metrics=None, curve=CURVE, items=(0.0, 1.0)):
    (folder / "items").mkdir(parents=True, exist_ok=True)
    (folder / "metrics.json").write_text(json.dumps(metrics or {"score": 0.6, "undefined": None}))
    (folder / "metrics.csv").write_text(curve)
    (folder / "items/score.json").write_text(json.dumps(list(items)))
    return folder


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({}, []),
        ({"curve": CURVE.replace("mib,7", "mib,8")}, []),  # the machine's, not the code's
        (
            {"metrics": {"score": 0.6000000000000001, "undefined": None}},
            [("score", 0.6, 0.6000000000000001)],
        ),
        ({"metrics": {"score": 0.6, "undefined": None, "new": 1.0}}, [("new", None, 1.0)]),
        ({"curve": CURVE.replace("0.4", "0.41")}, [("curve fit,20,train/loss", 0.4, 0.41)]),
        (
            {"curve": CURVE.replace("fit,20,train/loss,0.4\n", "")},
            [("curve fit,20,train/loss", 0.4, None)],
        ),
        ({"items": (1.0, 0.0)}, [("items/score.json", None, None)]),
        (
            {
                "metrics": {
                    "score": 0.6,
                    "undefined": None,
                    "cost_rtd_seconds": 7.0,
                    "speedup_2x4": 2.0,
                }
            },
            [],
        ),
    ],
)
def test_metrics_curves_and_items_have_to_be_equal(tmp_path, change, expected):
    then, now = write_run(tmp_path / "then"), write_run(tmp_path / "now", **change)
    found = outcome.between(then, now, "a")
    assert (outcome.fingerprint(then) == outcome.fingerprint(now)) == (not expected)
    assert [(d.metric, d.published, d.now) for d in found] == expected


def test_no_more_than_three_lines_of_a_curve_are_named(tmp_path):
    curve = CURVE + "".join(f"fit,{n},train/loss,1\n" for n in range(30, 90, 10))
    then, now = (
        write_run(tmp_path / "then", curve=curve),
        write_run(tmp_path / "now", curve=curve.replace(",1\n", ",2\n")),
    )
    assert len(outcome.between(then, now, "a")) == outcome.LISTED


@pytest.mark.parametrize(
    ("elsewhere", "equal"),
    [("base,10,train/loss,0.9\n", True), ("base,10,train/loss,0.8\n", False), ("", False)],
)
def test_a_shared_stage_may_be_trained_by_another_arm(tmp_path, elsewhere, equal):
    """Two arms wait for one stage; which of them trains it is a matter of time."""
    then = write_run(tmp_path / "then", curve=CURVE + "base,10,train/loss,0.9\n")
    now = write_run(tmp_path / "now")
    other = write_run(tmp_path / "other", curve=CURVE + elsewhere)
    for pair, beside in (((then, now), ([], [now, other])), ((now, then), ([now, other], []))):
        found = outcome.between(*pair, "a", beside)
        assert [d.metric for d in found] == ([] if equal else ["curve base,10,train/loss"])


def planned(tmp_path, arm="infonce", seed=3):
    spec = read_comparison(PROJECT)
    return PlannedRun(
        PROJECT, spec, next(iter(spec.arms), arm), seed, [f"runs_dir={tmp_path / 'runs'}"]
    )


@pytest.mark.parametrize("base", ["mini", "mini_that_was"])
def test_the_earlier_run_is_one_of_the_code_in_its_folder(tmp_path, base):
    """Also where its comparison started from a config of another name."""
    cli = tmp_path / "tree/common/cli.py"
    cli.parent.mkdir(parents=True)
    (cli.parent / "__init__.py").touch()
    cli.write_text(
        "import json, sys, pathlib\n"
        "words = dict(w.split('=', 1) for w in sys.argv if '=' in w)\n"
        "folder = pathlib.Path(words['runs_dir'], sys.argv[2], sys.argv[3], words['run_id'])\n"
        "(folder / 'metrics.json').write_text(json.dumps([__file__, str(pathlib.Path.cwd())]))\n"
    )
    like = planned(tmp_path)
    run = earlier.EarlierRun(like, tmp_path / "tree", CODE, base)
    assert run.path.parent == like.path.absolute().parent.with_name(base)
    assert run.run_id != like.run_id
    assert CODE in run.run_id
    started = run.start(1)
    assert started is not None
    started.process.end()
    assert started.finished()
    assert run.metrics() == [str(cli), str(tmp_path / "tree")]


def test_settings_beat_what_compare_yaml_sets():
    spec = read_comparison(PROJECT)
    arm, own = next((arm, own) for arm, own in spec.arms.items() if own)
    key, value = next(iter(own.items()))
    run = PlannedRun(PROJECT, spec, arm, 3)
    assert f"{key}={json.dumps(value)}" in run.overrides
    short = earlier.shortened(run, [f"{key}={json.dumps(value)}", "trainer.log_every_n_steps=7"])
    assert sum(word.startswith(f"{key}=") for word in short.overrides) == 1
    assert short.config().trainer.log_every_n_steps == 7
    assert "seed=3" in short.overrides


@pytest.fixture
def repository(tmp_path, monkeypatch):
    """A repository with two commits, the first of which wrote the result file."""
    root = tmp_path / "repository"
    (root / "results").mkdir(parents=True)
    git(root, "init", "-q")
    (root / "results" / f"{PROJECT}.json").write_text("{}")
    (root / "code.py").write_text("then")
    git(root, "add", "-A")
    git(root, "commit", "-qm", "published")
    (root / "code.py").write_text("now")
    git(root, "commit", "-qam", "later")
    for module in (earlier, judge):
        monkeypatch.setattr(module, "ROOT", root)
    return root


def test_the_code_is_that_of_the_commit_that_published(repository, tmp_path):
    commit = earlier.published_by(PROJECT)
    assert commit == git(repository, "rev-parse", "HEAD~1")
    earlier.copy_tree(commit, tmp_path / "tree")
    assert (tmp_path / "tree/code.py").read_text() == "then"
    file = repository / "results" / f"{PROJECT}.json"
    file.write_text(json.dumps({"note": "another sentence"}, indent=4))
    git(repository, "commit", "-qam", "texts")
    assert earlier.published_by(PROJECT) == commit
    file.write_text(json.dumps({"note": "another sentence", "code": "abc"}))
    git(repository, "commit", "-qam", "run anew")
    assert earlier.published_by(PROJECT) == git(repository, "rev-parse", "HEAD")
    git(repository, "reset", "-q", "--hard", "HEAD~2")
    with pytest.raises(UserError, match="no commit at hand wrote results/nothing.json"):
        earlier.published_by("nothing")
    assert earlier.commit_of("HEAD~1") == commit  # the result names a commit, whatever was typed
    with pytest.raises(UserError, match="VERIFY=typo: not a commit"):
        earlier.commit_of("typo")


def test_a_shallow_clone_does_not_know_who_published(repository, tmp_path, monkeypatch):
    shallow = tmp_path / "shallow"
    git(tmp_path, "clone", "-q", "--depth", "1", f"file://{repository}", str(shallow))
    assert git(
        shallow, "log", "-1", "--format=%H", "--", f"results/{PROJECT}.json"
    )  # git names its only commit
    for module in (earlier, judge):
        monkeypatch.setattr(module, "ROOT", shallow)
    with pytest.raises(UserError, match="whole history"):
        earlier.published_by(PROJECT)
    assert judge.design_commit(PROJECT, "mini")["design_commit"] is None


def test_two_commands_do_not_share_a_copy(tmp_path):
    with (
        earlier._alone(tmp_path / "runs/.code-1"),
        pytest.raises(UserError, match="another command works with"),
        earlier._alone(tmp_path / "runs/.code-1"),
    ):
        pass
    with earlier._alone(tmp_path / "runs/.code-1"):
        pass


def stub_tree(root, code=CODE, text="trainer:\n  max_steps: 5\n", files=()):
    """A tree that knows its hashes and config."""
    files = dict(files)
    for name, content in {
        "common/config.py": f"def load(*_): pass\ndef to_yaml(_): return {text!r}\n",
        "common/registry.py": "def config_class(_): pass\n",
        "common/engine/comparison/dependencies.py": (
            f"def code_hash(_): return {code!r}\ndef file_hashes(_): return {files!r}\n"
        ),
    }.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content)
        for folder in path.parents:
            if root in folder.parents:
                (folder / "__init__.py").touch()
    return root


def test_the_earlier_code_has_to_be_that_of_the_result(tmp_path):
    run = planned(tmp_path)
    text = to_yaml(run.config())
    result = {
        "name": "",
        "base": "mini",
        "seeds": [run.seed],
        "code": CODE,
        "hardware": {"gpu": None},
        "arms": {run.arm: {"config_hash": sha256(text.encode()).hexdigest()[:8]}},
    }
    plan = [(run.spec, [run.arm], [run])]

    def check(tree, settings=()):
        return earlier.check_earlier(PROJECT, result, plan, tree, "c" * 40, settings)

    same = stub_tree(tmp_path / "same", text=text)
    steps = run.config().trainer.max_steps
    base = {"": "mini"}
    assert check(same) == (CODE, base, set())
    assert check(same, ["trainer.max_steps=4"]) == (CODE, base, set())
    with pytest.raises(UserError, match="other000.*is not that of the result.*VERIFY=<commit>"):
        check(stub_tree(tmp_path / "other", "other000", text))
    # other code in what no run here can have executed
    result |= {
        "files": {"common/a.py": "1", "common/kernels/gpu/b.py": "2"},
        "hardware": {"gpu": None},
    }
    later = {"common/a.py": "1", "common/kernels/gpu/b.py": "3"}
    assert check(stub_tree(tmp_path / "later", "other000", text, later))[0] == "other000"
    with pytest.raises(UserError, match="is not that of the result"):
        check(stub_tree(tmp_path / "last", "other000", text, later | {"common/a.py": "4"}))
    with pytest.raises(
        UserError, match=f"config of '{run.arm}' at cccccccccc is not that of the result"
    ):
        check(stub_tree(tmp_path / "config", text=text + "new: 1\n"))
    changed = text.replace(f"max_steps: {steps}", "max_steps: 12345")
    result["arms"][run.arm]["config_hash"] = sha256(changed.encode()).hexdigest()[:8]
    other = stub_tree(tmp_path / "steps", text=changed)
    assert check(other) == (CODE, base, set())
    with pytest.raises(UserError, match=rf"trainer.max_steps was 12345 and is {steps}"):
        check(other, ["trainer.max_steps=4"])
    (tmp_path / "same/common/registry.py").write_text("raise ImportError('no such library')")
    with pytest.raises(UserError, match=r"cccccccccc does not start.*no such library"):
        check(same)


def test_the_arms_base_may_have_got_another_name_before_its_settings_changed(tmp_path):
    """The result names a config that is another one at the commit: today's base has the arms'
    settings there.
    """
    run = planned(tmp_path)
    text = to_yaml(run.config())
    tree = stub_tree(tmp_path / "tree")
    result = {
        "name": "",
        "base": "mini_of_then",
        "seeds": [run.seed],
        "code": CODE,
        "hardware": {"gpu": None},
        "arms": {run.arm: {"config_hash": sha256(text.encode()).hexdigest()[:8]}},
    }

    def check(texts):
        (tree / "common/config.py").write_text(
            f"def load(_, __, base, ___): return {texts!r}[base]\ndef to_yaml(text): return text\n"
        )
        return earlier.check_earlier(
            PROJECT, result, [(run.spec, [run.arm], [run])], tree, "c" * 40, []
        )

    assert check({"mini_of_then": text + "new: 1\n", run.spec.base: text})[1] == {"": run.spec.base}
    assert check({run.spec.base: text})[1] == {"": run.spec.base}
    assert check({"mini_of_then": text, run.spec.base: "new: 1\n"})[1] == {"": "mini_of_then"}
    assert check({"mini_of_then": text})[1] == {"": "mini_of_then"}
    with pytest.raises(UserError, match="is not that of the result"):
        check({run.spec.base: "new: 1\n"})
    with pytest.raises(UserError, match=r"does not start: KeyError"):
        check({})


@pytest.fixture
def renewal(tmp_path, monkeypatch):
    """A published result of one arm whose runs are written, not run; `run_all` gets its calls'
    runs.
    """
    run = planned(tmp_path)
    spec = replace(read_comparison(PROJECT), seeds=[run.seed], baselines=[], claims=[])
    run.spec = spec
    (tmp_path / "results").mkdir()
    path = tmp_path / "results" / f"{PROJECT}.json"
    path.write_text(json.dumps(result_of(tmp_path / "old", {"a": [0.5]}, [])))
    card = tmp_path / "projects" / PROJECT / "README.md"
    card.parent.mkdir(parents=True)
    card.write_text("<!-- results:begin -->\n<!-- results:end -->\n")
    for module in (published, results):
        monkeypatch.setattr(module, "ROOT", tmp_path)
    monkeypatch.setattr(results, "plot", lambda *_: None)
    monkeypatch.setattr(earlier, "planned_again", lambda *_: [(spec, [run.arm], [run])])
    monkeypatch.setattr(earlier, "published_by", lambda _: "c" * 40)
    monkeypatch.setattr(earlier, "copy_tree", lambda _, root: root.mkdir(parents=True))
    monkeypatch.setattr(earlier, "check_earlier", lambda *_: (CODE, {"": "mini"}, set()))
    found = SimpleNamespace(run=run, path=path, card=card, asked=[], score={})
    found.settings = ["trainer.max_steps=4", f"runs_dir={tmp_path / 'runs'}"]

    def run_all(runs, *_, **__):
        found.asked.append([type(one) for one in runs])
        for one in runs:
            assert "trainer.max_steps=4" in one.command()
            meta = {
                "commit": "d" * 40,
                "dirty": False,
                "hardware": {"cpu": "this one", "cores": 2, "gpu": None},
            }
            write_run(
                one.path, metrics={"score": found.score.get(type(one), 0.6), "undefined": None}
            )
            (one.path / "meta.json").write_text(json.dumps(meta))

    monkeypatch.setattr(earlier, "run_all", run_all)
    return found


def test_a_run_that_came_out_otherwise_leaves_the_result(renewal):
    before = renewal.path.read_text()
    renewal.score[PlannedRun] = 0.7
    with pytest.raises(
        UserError, match="1 metrics are not what was of its code.*\n.*score 0.6 then, 0.7 now"
    ):
        verbs.verify(PROJECT, renewal.settings, None, 1, "code")
    assert renewal.path.read_text() == before


def test_equal_runs_renew_the_result(renewal, tmp_path, capsys):
    verbs.verify(PROJECT, renewal.settings, None, 1, "code")
    assert renewal.asked == [[earlier.EarlierRun, PlannedRun]]
    assert "curves, metrics and items are those of its code" in " ".join(
        capsys.readouterr().out.split()
    )
    stamp = json.loads(renewal.path.read_text())["verified"]
    assert stamp["earlier"] == {"commit": "c" * 40, "code": CODE, "kept": 0}
    assert stamp["overrides"] == renewal.settings
    assert stamp["config_hashes"] == {
        renewal.run.arm: renewal.run.config_hash
    }  # of the whole run, not the short one
    shown = renewal.card.read_text()
    assert "with trainer.max_steps=4" in shown
    assert "commit cccccccccc) and by commit dddddddddd, both on this one: curves, metrics" in shown
    assert not list((tmp_path / "runs").rglob(".code-*"))  # the copy of the code goes


def test_arms_are_renewed_beside_a_baseline_that_stays_stale(renewal, monkeypatch):
    run, published_with = renewal.run, {"projects/x/baselines.py": "then"}
    spec = replace(run.spec, baselines=["chance"])
    baseline = PlannedRun(PROJECT, spec, "chance", run.seed, run.common_overrides)
    assert baseline.is_baseline
    result = json.loads(renewal.path.read_text())
    renewal.path.write_text(json.dumps(result | {"baseline_files": published_with}))
    monkeypatch.setattr(earlier, "planned_again", lambda *_: [(spec, [run.arm], [baseline, run])])
    verbs.verify(PROJECT, renewal.settings, None, 1, "arms")
    assert renewal.asked == [[earlier.EarlierRun, PlannedRun]]
    stamp = json.loads(renewal.path.read_text())["verified"]
    assert stamp["baseline_files"] == published_with
    assert "of every arm with trainer.max_steps=4" in renewal.card.read_text()


def test_what_was_kept_of_a_renewal_stands_for_the_earlier_code(renewal):
    """Where it is met; a run that came out otherwise is put beside the earlier code, as on another
    machine.
    """
    verbs.verify(PROJECT, renewal.settings, None, 1, "code")
    renewal.asked.clear()
    verbs.verify(PROJECT, renewal.settings, None, 1, "code")
    assert renewal.asked == [[PlannedRun]]
    stamp = json.loads(renewal.path.read_text())["verified"]
    assert stamp["earlier"]["kept"] == len(stamp["outcomes"]) == 1
    assert "of 1 runs by what was kept of it" in renewal.card.read_text()

    renewal.asked.clear()
    renewal.score |= {PlannedRun: 0.65, earlier.EarlierRun: 0.65}  # another machine's rounding
    verbs.verify(PROJECT, renewal.settings, None, 1, "code")
    assert renewal.asked == [[PlannedRun], [earlier.EarlierRun, PlannedRun]]
    assert json.loads(renewal.path.read_text())["verified"]["earlier"]["kept"] == 0

    renewal.score[PlannedRun] = 0.66
    with pytest.raises(UserError, match=r"score 0.65 then, 0.66 now"):
        verbs.verify(PROJECT, renewal.settings, None, 1, "code")


def test_settings_go_with_the_code_alone():
    words = ["compare", PROJECT, "trainer.max_steps=4", "--verify=1"]
    done = subprocess.run(
        [sys.executable, "-m", "common.cli", *words], cwd=ROOT, capture_output=True, text=True
    )
    assert done.returncode == 2
    assert "settings, which VERIFY=code takes" in " ".join(done.stderr.split())
