"""Damaged checkpoints, second writers, full disks and signals, seen from the whole run."""

import errno
import json
import os
import shutil
import signal
import threading
import time
from dataclasses import replace

import pytest

import tests.toy
from common.config import UserError
from common.engine import checkpoint as ckpt
from common.engine import tracking
from common.engine.lifecycle import lock
from common.engine.lifecycle.run import Run
from tests.interrupted import final_state, flip, same
from tests.unit.engine.lifecycle.test_lock import locked_by

OFTEN = ("trainer.checkpoint_every_n_steps=2", "trainer.keep_checkpoints=5")


def meta(folder):
    return json.loads((folder / "meta.json").read_text(encoding="utf-8"))


@pytest.fixture
def hooked(monkeypatch):
    """`hooked(between=f, evaluate=f)` calls f between the stages, or in the evaluation."""

    def install(between=lambda: None, evaluate=lambda: None):
        plain = tests.toy.build

        def build(cfg):
            experiment = plain(cfg)

            def stages():
                for index, stage in enumerate(experiment.stages()):
                    if index:
                        between()
                    yield stage

            def evaluated(module, workspace):
                evaluate()
                return experiment.evaluate(module, workspace)

            return replace(experiment, stages=stages, evaluate=evaluated)

        monkeypatch.setattr(tests.toy, "build", build)

    return install


def test_what_a_killed_process_was_writing_does_not_stay(tmp_path):
    for name in (".meta.json.0a1b2c3d.tmp", "notes.txt", "export.tmp"):
        (tmp_path / name).touch()
    with Run(tmp_path, "toy", "smoke", owner=True):
        assert {p.name for p in tmp_path.iterdir()} >= {"notes.txt", "export.tmp"}
        assert not list(tmp_path.glob(".*.tmp"))


def test_a_folder_that_is_deleted_while_its_run_works_is_named(toy, hooked, tmp_path):
    folder = tmp_path / "runs/toy/smoke/r"
    hooked(between=lambda: shutil.rmtree(folder))
    with pytest.raises(UserError, match="was deleted or moved while its run worked: start"):
        toy("run_id=r", *OFTEN)
    assert not folder.exists()


# -- damaged checkpoints ---------------------------------------------------------------------------


def test_the_newest_intact_checkpoint_is_taken_and_the_damaged_are_named(toy, broken_at, capsys):
    whole = toy(*OFTEN, "run_id=whole")
    broken_at("stage0", 5)
    with pytest.raises(RuntimeError):
        toy(*OFTEN, "run_id=r")
    broken_at(None)
    folder = whole.parent / "r/checkpoints/stage0"
    flip(folder / "step-00000004.ckpt")
    assert toy("resume=r") == whole.parent / "r"
    said = capsys.readouterr().out
    assert "step-00000004.ckpt does not match its checksum; it is passed over" in said
    assert "stage0: continues after step 2" in said
    assert (folder / "step-00000004.ckpt.damaged").exists()
    assert same(final_state(whole.parent / "r", "stage1"), final_state(whole, "stage1"))


def test_when_none_is_intact_the_run_stops_until_the_user_decides(toy, broken_at, tmp_path):
    broken_at("stage0", 5)
    with pytest.raises(RuntimeError):
        toy(*OFTEN, "run_id=r")
    broken_at(None)
    folder = tmp_path / "runs/toy/smoke/r/checkpoints/stage0"
    flip(folder / "step-00000002.ckpt")
    (folder / "step-00000004.ckpt").write_bytes(b"")
    for _ in range(2):  # the first refusal must not make the second one start anew
        with pytest.raises(UserError) as error:
            toy("resume=r")
        said = str(error.value)
        assert "no checkpoint of stage 'stage0' is intact" in said
        assert "step-00000002.ckpt does not match its checksum" in said
        assert "step-00000004.ckpt is empty" in said
        assert f"delete {folder} to fit this stage from its beginning" in said
    for path in folder.iterdir():
        path.unlink()
    folder.rmdir()
    assert meta(toy("resume=r"))["state"] == "finished"


def test_a_run_without_any_checkpoint_says_that_it_begins_anew(toy, broken_at, capsys):
    """It was killed before its first one: nothing is lost but what nobody could have kept."""
    broken_at("stage0", 1)
    with pytest.raises(RuntimeError):
        toy(*OFTEN, "run_id=r")
    assert "no checkpoint yet" not in capsys.readouterr().out
    broken_at(None)
    assert meta(toy("resume=r"))["state"] == "finished"
    assert "stage0: no checkpoint yet, begins with its first step" in capsys.readouterr().out


def test_a_finished_stage_with_damaged_weights_is_made_again(toy, hooked, tmp_path, capsys):
    whole = toy(*OFTEN, "run_id=whole")
    broken = [True]
    hooked(between=lambda: 1 / 0 if broken else None)
    with pytest.raises(ZeroDivisionError):
        toy(*OFTEN, "run_id=r")
    broken.clear()
    flip(tmp_path / "runs/toy/smoke/r/checkpoints/stage0/step-00000006.ckpt")
    folder = toy("resume=r")
    assert "stage0: continues after step 4" in capsys.readouterr().out
    for stage in ("stage0", "stage1"):
        assert same(final_state(folder, stage), final_state(whole, stage))


def test_damaged_best_weights_are_not_replaced_by_others(toy, tmp_path):
    """Steps do not bring the best ones back: the user has to decide."""
    folder = toy("run_id=r") / "checkpoints/stage0"
    (folder / "step-00000006.ckpt").rename(folder / "best.ckpt")
    ckpt.mark_finished(folder, folder / "best.ckpt", 0)
    flip(folder / "best.ckpt")
    with pytest.raises(UserError, match=rf"best.ckpt .* its checksum. Delete {folder} to fit"):
        toy("resume=r")


# -- another machine -------------------------------------------------------------------------------


def test_a_run_that_was_copied_to_another_machine_goes_on_there(toy, broken_at, tmp_path):
    """The copy has the lock of a process that this machine cannot look up."""
    whole = toy(*OFTEN, "run_id=whole")
    broken_at("stage1", 3)
    with pytest.raises(RuntimeError):
        toy(*OFTEN, "run_id=r")
    broken_at(None)
    copy = tmp_path / "elsewhere/toy/smoke/r"
    shutil.copytree(whole.parent / "r", copy)
    shutil.rmtree(whole.parent / "r")
    locked_by(copy, 1, host="another")
    words = (f"runs_dir={tmp_path / 'elsewhere'}", "resume=latest")
    with pytest.raises(UserError, match=f"delete {copy / lock.NAME}"):
        toy(*words[:1], "resume=r")
    (copy / lock.NAME).unlink()
    assert toy(*words) == copy
    assert not (whole.parent / "r").exists()
    for stage in ("stage0", "stage1"):
        assert same(final_state(copy, stage), final_state(whole, stage))


# -- one writer ------------------------------------------------------------------------------------


def test_a_second_writer_is_told_who_writes(toy, hooked, tmp_path):
    """Going on with a run that runs, and starting another one of its name."""
    folder = tmp_path / "runs/toy/smoke/r"
    folder.mkdir(parents=True)
    locked_by(folder, os.getppid())
    with pytest.raises(UserError, match=rf"is being written by process {os.getppid()}"):
        toy("run_id=r")
    assert sorted(p.name for p in folder.iterdir()) == [lock.NAME]
    (folder / lock.NAME).unlink()
    toy("run_id=r")
    assert not (folder / lock.NAME).exists()
    before = meta(folder)
    with pytest.raises(UserError, match="exists; choose another run_id, or resume=r"):
        toy("run_id=r")
    assert meta(folder) == before  # the refusal is not the end of that run
    locked_by(folder, os.getppid())
    with pytest.raises(UserError, match="is being written by process"):
        toy("resume=r")
    assert meta(folder) == before


def test_a_killed_run_is_stopped_and_a_living_one_runs(toy, broken_at, tmp_path):
    broken_at("stage0", 3)
    with pytest.raises(RuntimeError):
        toy("run_id=r")
    folder = tmp_path / "runs/toy/smoke/r"
    run = Run(folder, "toy", "smoke")
    assert run.state == "failed"
    assert meta(folder)["error"] == "power cut"
    (folder / "meta.json").write_text(json.dumps({**meta(folder), "state": "running"}))
    assert run.state == "stopped"
    locked_by(folder, os.getppid())
    assert run.state == "running"


# -- full disk -------------------------------------------------------------------------------------


def test_a_full_disk_ends_with_one_sentence_and_the_run_goes_on_later(toy, monkeypatch, tmp_path):
    whole = toy(*OFTEN, "run_id=whole")
    plain = tracking.MetricsCSV.log_metrics

    def full(self, metrics, step=None):
        if step == 4:
            raise OSError(errno.ENOSPC, "No space left on device")
        plain(self, metrics, step)

    monkeypatch.setattr(tracking.MetricsCSV, "log_metrics", full)
    with pytest.raises(UserError, match=r"no space left on the disk: free some, .*resume=r"):
        toy(*OFTEN, "run_id=r")
    monkeypatch.setattr(tracking.MetricsCSV, "log_metrics", plain)
    assert same(final_state(toy("resume=r"), "stage1"), final_state(whole, "stage1"))


# -- signals ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("place", ["between", "evaluate"])
@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_signal_outside_the_loop_ends_the_run_at_once(toy, hooked, place, number, code, tmp_path):
    handlers = signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)
    ended = []

    def wait():
        os.kill(os.getpid(), number)
        time.sleep(0.5)
        ended.append("went on")

    hooked(**{place: wait})
    with pytest.raises(SystemExit) as stop:
        toy("run_id=r")
    assert stop.value.code == code
    assert ended == []
    folder = tmp_path / "runs/toy/smoke/r"
    assert meta(folder)["state"] == "stopped"
    assert not (folder / lock.NAME).exists()
    assert not (folder / "metrics.json").exists()
    assert (folder / "checkpoints/stage0/finished.json").exists()
    assert (signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)) == handlers


@pytest.mark.parametrize(("step", "saved"), [(2, [3]), (5, [3, 6])])
def test_a_signal_in_the_loop_saves_first(toy, monkeypatch, step, saved, tmp_path):
    """Also one in the last step, after which the stage ends."""
    plain = tests.toy.module.Toy.losses

    def losses(self, batch):
        if self.trainer.global_step == step:
            os.kill(os.getpid(), signal.SIGTERM)
        return plain(self, batch)

    monkeypatch.setattr(tests.toy.module.Toy, "losses", losses)
    with pytest.raises(SystemExit) as stop:
        toy("run_id=r")
    assert stop.value.code == 143
    folder = tmp_path / "runs/toy/smoke/r/checkpoints"
    assert [int(p.stem[5:]) for p in ckpt.saved_checkpoints(folder / "stage0")] == saved
    assert not (folder / "stage1").exists()


def test_a_signal_while_the_last_checkpoint_is_written_waits_for_it(toy, monkeypatch, tmp_path):
    plain = ckpt.RunCheckpoint.save

    def save(self, trainer, module):
        os.kill(os.getpid(), signal.SIGTERM)
        return plain(self, trainer, module)

    monkeypatch.setattr(ckpt.RunCheckpoint, "save", save)
    with pytest.raises(SystemExit) as stop:
        toy("run_id=r", "trainer.checkpoint_every_n_steps=500")  # on_train_end saves
    assert stop.value.code == 143
    folder = tmp_path / "runs/toy/smoke/r/checkpoints"
    assert ckpt.finished(folder / "stage0") == folder / "stage0/step-00000006.ckpt"
    assert not (folder / "stage1").exists()


def test_a_second_ctrl_c_does_not_wait_for_the_step(toy, monkeypatch, tmp_path):
    plain = tests.toy.module.Toy.losses

    def losses(self, batch):
        if self.trainer.global_step == 4:
            os.kill(os.getpid(), signal.SIGINT)
            os.kill(os.getpid(), signal.SIGINT)
            time.sleep(0.5)
        return plain(self, batch)

    monkeypatch.setattr(tests.toy.module.Toy, "losses", losses)
    with pytest.raises(SystemExit) as stop:
        toy("run_id=r")
    assert stop.value.code == 130
    folder = tmp_path / "runs/toy/smoke/r/checkpoints/stage0"
    assert [p.name for p in ckpt.saved_checkpoints(folder)] == ["step-00000003.ckpt"]


def test_a_run_outside_the_main_thread_works_without_handlers(toy):
    done = []
    thread = threading.Thread(target=lambda: done.append(toy("run_id=r")))
    thread.start()
    thread.join()
    assert meta(done[0])["state"] == "finished"
