"""A run that goes on is the run that was started: which one is meant, and with which settings."""

import json
import os
from dataclasses import dataclass, field, replace

import pytest
import torch

import tests.toy
import tests.toy.module
from common.config import ExperimentConfig, UserError, load
from common.engine import checkpoint as ckpt
from common.engine import run, trained
from common.engine.lifecycle import run as lifecycle_run
from common.engine.lifecycle.find import find_finished, finished_stages
from common.engine.lifecycle.run import Run
from common.engine.lifecycle.settings import (
    as_trained,
    batch_of_processes,
    check_shared,
    resolved,
    resumed_config,
)
from common.engine.workspace import Workspace
from tests.interrupted import final_state, same

OWN = ("model.dropout=0.3", "optim.lr=0.02", "trainer.checkpoint_every_n_steps=2")


def meta(folder):
    return json.loads((folder / "meta.json").read_text(encoding="utf-8"))


@pytest.fixture
def backward_clock(monkeypatch):
    """Every time is an hour before the last one: the order of runs must not come from it."""
    hours = iter(range(999, 0, -1))
    monkeypatch.setattr(lifecycle_run, "now", lambda: f"2026-01-01T{next(hours):03d}")


def break_off(toy, broken_at, *overrides, stage="stage1", step=3):
    broken_at(stage, step)
    with pytest.raises(RuntimeError, match="power cut"):
        toy(*overrides)
    broken_at(None)


def test_a_run_goes_on_with_its_own_overrides(toy, broken_at, tmp_path):
    whole = toy(*OWN, "run_id=whole")
    break_off(toy, broken_at, *OWN, "run_id=half")
    half = toy("resume=latest")
    assert half.name == "half"
    assert same(final_state(half, "stage1"), final_state(whole, "stage1"))
    assert meta(half)["state"] == "finished"
    assert "error" not in meta(half)
    assert meta(half)["resumed"][0]["changes"] == {}
    plain = toy("run_id=plain")  # the comparison can fail
    assert not same(final_state(plain, "stage1"), final_state(whole, "stage1"))


def test_other_settings_are_refused_by_name(toy, broken_at, tmp_path):
    break_off(toy, broken_at, *OWN, "run_id=r")
    before = meta(tmp_path / "runs/toy/smoke/r")
    words = ["optim.lr=0.5", "seed=7", "model.dropout=0.3", "trainer.max_steps=9"]
    with pytest.raises(UserError) as error:
        toy("resume=r", *words)
    said = str(error.value)
    assert "optim.lr (0.02 there, 0.5 now), seed (0 there, 7 now)" in said
    assert "dropout" not in said  # the run has this value already
    assert "trainer.max_steps (" not in said  # may change
    assert meta(tmp_path / "runs/toy/smoke/r") == before
    with pytest.raises(UserError, match="run_id=other and resume=r name two runs"):
        toy("resume=r", "run_id=other")


def test_an_edited_config_file_is_refused_too(toy, broken_at, tmp_path):
    break_off(toy, broken_at, "run_id=r")
    file = tmp_path / "configs/toy/smoke.yaml"
    file.write_text(file.read_text().replace("weight_decay: 0.01", "weight_decay: 0.2"))
    with pytest.raises(UserError, match=r"optim.weight_decay \(0.01 there, 0.2 in the config file"):
        toy("resume=r")


def test_data_that_were_replaced_are_refused(toy, broken_at, monkeypatch):
    """The order of rows depends on their number: some would come twice, others never."""
    break_off(toy, broken_at, *OWN)
    build = tests.toy.build

    def build_with_fewer_rows(cfg):
        return build(replace(cfg, data=replace(cfg.data, num_samples=cfg.data.num_samples - 1)))

    monkeypatch.setattr(tests.toy, "build", build_with_fewer_rows)
    with pytest.raises(UserError, match=r"'stage1' of .* began with (\d+) training rows, and now"):
        toy("resume=latest")


def test_what_may_change_is_recorded(toy, broken_at, tmp_path):
    break_off(toy, broken_at, *OWN, "run_id=r", stage="stage0", step=4)
    folder = toy("resume=r", "trainer.max_steps=8", "tracking.tags=[longer]")
    known = meta(folder)
    changes = known["resumed"][0]["changes"]
    assert changes == {"trainer.max_steps": [6, 8], "tracking.tags": [[], ["longer"]]}
    assert known["num_steps"] == known["resolved"]["trainer"]["max_steps"] == 8
    assert "max_steps: 8" in (folder / "config.yaml").read_text()
    assert final_state(folder, "stage1")["global_step"] == 8
    assert "optim.lr=0.02" in known["overrides"]
    with pytest.raises(UserError, match=r"r has finished stage0, stage1, so trainer.max_steps"):
        toy("resume=r", "trainer.max_steps=10")
    toy("resume=r", "trainer.max_steps=8")  # its own value by now


def test_latest_is_the_last_started_unfinished_run(toy, broken_at, backward_clock, tmp_path):
    """Neither one that failed before its first step, nor one that finished, nor the last
    touched."""
    with pytest.raises(UserError, match="no run of toy/smoke"):
        toy("resume=latest")
    toy("run_id=done")
    broken_at("stage0", 0)
    with pytest.raises(RuntimeError):
        toy("run_id=failed")
    broken_at(None)
    with pytest.raises(UserError) as error:
        toy("resume=latest")
    expected = "nothing to resume of toy/smoke"
    assert str(error.value).startswith(expected)
    assert "done (finished), failed (failed before its first step)" in str(error.value)
    break_off(toy, broken_at, "run_id=older")
    break_off(toy, broken_at, "run_id=newer")
    os.utime(tmp_path / "runs/toy/smoke/older/meta.json")
    toy("run_id=after")
    assert toy("resume=latest").name == "newer"
    assert toy("resume=latest").name == "older"
    assert toy("resume=failed").name == "failed"  # by its name it may start again


def test_latest_of_an_evaluation_is_the_run_that_finished_last(
    toy, broken_at, backward_clock, tmp_path
):
    break_off(toy, broken_at, "run_id=a")
    cfg = load(tests.toy.Config, "toy", "smoke", [f"runs_dir={tmp_path / 'runs'}"])
    with pytest.raises(UserError, match=r"no finished run .* a \(failed\)"):
        find_finished(cfg, "toy", "smoke", "latest")
    toy("run_id=b")
    toy("resume=a")
    break_off(toy, broken_at, "run_id=c")
    assert find_finished(cfg, "toy", "smoke", "latest").path.name == "a"
    words = ("toy", "smoke", [f"runs_dir={tmp_path / 'runs'}"])
    assert trained.export(*words, None, None).parent.name == "a"
    with pytest.raises(UserError, match="c is not trained to its end; continue it with resume=c"):
        trained.evaluate(*words, "c", None)


def test_latest_is_neither_a_baseline_nor_a_run_of_a_comparison(toy, tmp_path):
    """They finish after the method's run, and are of an arm that it is compared with, or of nothing
    trained.
    """
    toy("run_id=b")
    toy("run_id=compare-large-seed7-c0ffee00")
    baseline = toy("run_id=base")
    (baseline / "meta.json").write_text(json.dumps({**meta(baseline), "baseline": "constant"}))
    cfg = load(tests.toy.Config, "toy", "smoke", [f"runs_dir={tmp_path / 'runs'}"])
    assert find_finished(cfg, "toy", "smoke", "latest").path.name == "b"
    assert find_finished(cfg, "toy", "smoke", "base").path == baseline  # by its name
    before = (baseline / "metrics.json").read_text()
    with pytest.raises(UserError, match="base is a baseline: there is nothing to train"):
        toy("resume=base")
    assert (baseline / "metrics.json").read_text() == before


def test_a_run_is_evaluated_as_it_was_trained_whatever_the_config_file_says_now(toy, tmp_path):
    """A setting without weights, such as pooling, would be another one without a word."""
    folder = toy("run_id=r")
    file = tmp_path / "configs/toy/smoke.yaml"
    words = [f"runs_dir={tmp_path / 'runs'}"]
    known, schema = meta(folder), tests.toy.Config
    assert as_trained(schema, Run(folder, "toy", "smoke").settings(), known, words) == []
    file.write_text(file.read_text() + "model: {dim: 24}\n")
    kept = as_trained(schema, Run(folder, "toy", "smoke").settings(), known, words)
    assert kept == ["model.dim=16"]
    trained.evaluate("toy", "smoke", words, "r", None)
    typed = [*words, "model.dim=24"]
    assert as_trained(schema, Run(folder, "toy", "smoke").settings(), known, typed) == []
    with pytest.raises(UserError):  # what is typed holds
        trained.evaluate("toy", "smoke", typed, "r", None)


def test_an_evaluation_leaves_the_metrics_of_the_run(toy, tmp_path):
    folder = toy("run_id=r")
    (folder / "metrics.json").write_text('{"spread": 7}')
    words = ("toy", "smoke", [f"runs_dir={tmp_path / 'runs'}"])
    first, metrics = trained.evaluate(*words, "r", None)
    second, _ = trained.evaluate(*words, "r", None)
    assert first.parent == second.parent == folder
    assert first != second
    assert first.name.startswith("eval-")
    assert json.loads((first / "metrics.json").read_text()) == metrics
    assert (folder / "metrics.json").read_text() == '{"spread": 7}'
    assert Run(folder, "toy", "smoke").workspace(first.name).curves == folder / "metrics.csv"


@pytest.mark.parametrize("name", ["latest", "../evil", "a/b", "..", ".hidden", ""])
def test_a_run_id_is_a_name(toy, tmp_path, name):
    with pytest.raises(UserError, match="run_id"):
        toy(f"run_id={json.dumps(name)}")
    assert not (tmp_path / "runs").exists()


def test_a_run_without_recorded_settings_is_refused_in_a_sentence(toy, tmp_path):
    """Versions before 0.1.0 recorded none; 0.1.0 recorded its time under another name."""
    folder = toy("run_id=r")
    record = meta(folder)
    earlier = {k: v for k, v in record.items() if k not in ("version", "wall_seconds")}
    (folder / "meta.json").write_text(json.dumps({**earlier, "earlier_seconds": 1.0}))
    assert toy("resume=r") == folder
    (folder / "meta.json").write_text(
        json.dumps({k: v for k, v in record.items() if k != "resolved"})
    )
    words = [f"runs_dir={tmp_path / 'runs'}"]
    for command in (
        lambda: toy("resume=r"),
        lambda: trained.evaluate("toy", "smoke", words, "r", None),
        lambda: trained.export("toy", "smoke", words, "r", None),
    ):
        with pytest.raises(UserError, match=r"r was made by a version before 0\.1\.0") as error:
            command()
        assert "\n" not in str(error.value)


@dataclass
class Source:
    weight: float = 1.0


@dataclass
class Mixed(ExperimentConfig):
    sets: dict[str, Source] = field(default_factory=dict)


def mixed(tmp_path, monkeypatch, sets):
    """A run whose config file had `sets`, as meta.json knows it; `edit(sets)` writes other ones."""
    folder = tmp_path / "configs/mixed"
    folder.mkdir(parents=True)
    monkeypatch.setattr("common.config.CONFIG_DIR", folder.parent)

    def edit(sets):
        (folder / "own.yaml").write_text(json.dumps({"trainer": {"max_steps": 2}, "sets": sets}))

    edit(sets)
    settings = resolved(load(Mixed, "mixed", "own"))
    return {"project": "mixed", "config": "own", "overrides": [], "resolved": settings}, edit


NLI, QUORA = {"nli": {"weight": 1.0}}, {"quora": {"weight": 2.0}}


@pytest.mark.parametrize(
    ("before", "now", "said"),
    [
        (NLI, NLI | QUORA, r"sets.quora \(null there, .*2.0.* in the config file now\)"),
        (NLI | QUORA, NLI, r"sets.quora \(.*2.0.* there, null in the config file now\)"),
        ({}, NLI, r"sets.nli \(null there"),
        (NLI, NLI, None),
    ],
)
def test_training_sets_that_an_edited_file_adds_or_takes_out_are_refused(
    tmp_path, monkeypatch, before, now, said
):
    """They would change the data in the middle of a run."""
    known, edit = mixed(tmp_path, monkeypatch, before)
    edit(now)
    if said is None:
        assert resumed_config(Mixed, tmp_path / "r", known, [])[1] == {}
        return
    with pytest.raises(UserError, match=said):
        resumed_config(Mixed, tmp_path / "r", known, [])


def test_a_mapping_that_the_code_has_got_since_is_no_change(tmp_path, monkeypatch):
    known, _ = mixed(tmp_path, monkeypatch, NLI)
    del known["resolved"]["sets"]
    assert resumed_config(Mixed, tmp_path / "r", known, [])[1] == {}


def test_a_finished_run_is_looked_at_with_the_training_sets_that_it_had(tmp_path, monkeypatch):
    known, edit = mixed(tmp_path, monkeypatch, NLI | QUORA)
    edit(NLI)
    kept = as_trained(Mixed, known["resolved"], known, [])
    assert resolved(load(Mixed, "mixed", "own", kept)) == known["resolved"]
    edit(NLI | QUORA | {"msmarco": {}})
    with pytest.raises(
        UserError, match="config file has got sets.msmarco since the run was trained"
    ):
        as_trained(Mixed, known["resolved"], known, [])


@pytest.mark.parametrize(
    ("local", "before", "now", "size"), [(8, 2, 4, 4), (8, 2, 1, 16), (4, 4, 2, 8), (6, 1, 3, 2)]
)
def test_another_number_of_processes_shares_the_same_global_batch(local, before, now, size):
    known = {"resolved": {"data": {"batch_size": local}}, "world_size": before}
    assert batch_of_processes("r", known, now) == size


def test_a_batch_that_cannot_be_divided_is_refused_with_the_numbers_that_can():
    known = {"resolved": {"data": {"batch_size": 6}}, "world_size": 2}
    with pytest.raises(UserError, match=r"r has 12 samples .* 5 processes .* take 4 or 6"):
        batch_of_processes("r", known, 5)
    with pytest.raises(UserError, match="take 12$"):
        batch_of_processes("r", known, 13)


def test_stages_whose_batches_would_change_go_on_with_as_many_processes():
    before = {"world_size": 2}
    check_shared("stage 's' of r", before, 2, equal=False, streaming=True)
    check_shared("stage 's' of r", before, 4, equal=True, streaming=False)
    with pytest.raises(UserError, match=r"stage 's' of r has 2 .* 4: each process reads shards"):
        check_shared("stage 's' of r", before, 4, equal=True, streaming=True)
    with pytest.raises(UserError, match=r"is not data.batch_size.* take 2"):
        check_shared("stage 's' of r", before, 4, equal=False, streaming=False)


def test_a_run_goes_on_with_another_number_of_processes(toy, broken_at, tmp_path):
    """As on two processes with half of the batch each; the batch stays changed afterwards."""
    break_off(toy, broken_at, "run_id=r")
    file = tmp_path / "runs/toy/smoke/r/meta.json"
    began = meta(file.parent)
    file.write_text(json.dumps({**began, "world_size": 2}))
    run = toy("resume=r")
    batch = began["resolved"]["data"]["batch_size"]
    assert run.name == "r"
    assert meta(run)["world_size"] == 1
    assert meta(run)["resolved"]["data"]["batch_size"] == 2 * batch
    assert f"data.batch_size={2 * batch}" in meta(run)["overrides"]


def test_stages_are_in_the_order_of_their_numbers(toy):
    """File times say when something was copied, names nothing."""
    folder = toy("run_id=r") / "checkpoints"
    assert [stage.name for stage in finished_stages(folder)] == ["stage0", "stage1"]
    for number, name in enumerate(("stage1", "stage0")):
        ckpt.mark_finished(folder / name, folder / name / "step-00000006.ckpt", number)
    os.utime(folder / "stage1/finished.json", (2000, 2000))
    os.utime(folder / "stage0/finished.json", (1000, 1000))
    assert [stage.name for stage in finished_stages(folder)] == ["stage1", "stage0"]


def test_the_time_of_a_run_is_the_sum_of_its_processes(toy, broken_at, tmp_path):
    break_off(toy, broken_at, "run_id=r")
    file = tmp_path / "runs/toy/smoke/r/meta.json"
    assert meta(file.parent)["wall_seconds"] > 0
    file.write_text(json.dumps({**meta(file.parent), "wall_seconds": 1000.0}))
    assert meta(toy("resume=r"))["wall_seconds"] > 1000.0


def test_the_time_of_a_killed_process_counts_up_to_its_last_checkpoint(toy, monkeypatch, tmp_path):
    class Killed(BaseException):
        """Nothing is recorded at the end."""

    def losses(self, batch):
        if self.trainer.global_step == 4:
            raise Killed
        return plain(self, batch)

    plain, record_end = tests.toy.module.Toy.losses, Run._record_end
    monkeypatch.setattr(tests.toy.module.Toy, "losses", losses)
    monkeypatch.setattr(Run, "_record_end", lambda *_: None)
    with pytest.raises(Killed):
        toy("run_id=r", "trainer.checkpoint_every_n_steps=2")
    folder = tmp_path / "runs/toy/smoke/r"
    killed = meta(folder)
    assert killed["state"] == "running"
    assert killed["wall_seconds"] > 0
    (folder / "meta.json").write_text(json.dumps({**killed, "wall_seconds": 1000.0}))
    monkeypatch.setattr(tests.toy.module.Toy, "losses", plain)
    monkeypatch.setattr(Run, "_record_end", record_end)
    assert 1000.0 < meta(toy("resume=r"))["wall_seconds"] < 1600.0


def test_a_task_opens_a_run_as_it_was_trained_whatever_the_config_file_says_now(toy, tmp_path):
    folder = toy("run_id=r")
    file = tmp_path / "configs/toy/smoke.yaml"
    file.write_text(file.read_text() + "model: {dim: 24}\n")
    runs_dir = str(tmp_path / "runs")
    workspace = Workspace(tmp_path / "task", "toy", "smoke")
    _, experiment = run.prepare("toy", "smoke", [])
    module, path = trained.trained_module(experiment, workspace, "latest", runs_dir)
    assert path == folder
    weights = ckpt.ema_weights(ckpt.load(ckpt.finished(folder / "checkpoints/stage1")))
    for name, value in module.state_dict().items():
        assert torch.equal(value, weights[name])
