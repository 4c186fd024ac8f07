"""What happens after a task: evaluation, history, memory, the next teacher; selection in
validation.
"""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from lightning.pytorch import Trainer
from torch.utils.data import DataLoader

from common.config import UserError
from common.engine.checkpoint import check_fits
from common.engine.workspace import Workspace
from projects.coconut import evaluate as evaluation
from projects.coconut import stages as project
from projects.coconut.evaluation_options import SpeechEval
from projects.coconut.history import History
from projects.coconut.incremental import select_memory
from projects.coconut.module import Coconut
from projects.coconut.stages import (
    Task,
    decode,
    evaluate_task,
    grown_memory,
    spread,
    stages,
    teacher_hypotheses,
)
from tests.projects.coconut.conftest import config, module_of


class Unreadable:
    """Waveforms some of which cannot be read."""

    def __init__(self, waveforms, bad):
        self.waveforms, self.bad = waveforms, bad

    def __getitem__(self, row):
        if row in self.bad:
            raise OSError("cut off")
        return self.waveforms[row]


def damaged(samples, *bad):
    """Make rows of some samples unreadable."""
    samples.spoken = replace(samples.spoken, waveforms=Unreadable(samples.spoken.waveforms, bad))


@pytest.fixture
def shared():
    torch.manual_seed(0)
    return Task(config("method.kd_beam=1", "eval.beam_size=3", "method.distillation=sequence"))


# -- the next task -------------------------------------------------------------------------------


def test_item_3_a_task_begins_with_the_network_that_the_last_one_left(monkeypatch):
    """Items 2, 3: network and teacher are the trained weights; what is read off them is so without
    dropout.
    """
    modes = []
    for name in ("decode", "pooled_features"):
        own = getattr(project, name)

        def watched(shared, module, *rest, own=own):
            modes.append(any(part.training for part in module.modules()))
            return own(shared, module, *rest)

        monkeypatch.setattr(project, name, watched)
    cfg = config("data.num_tasks=2", "eval.beam_size=1")
    running = stages(cfg)
    first = next(running).module.train()
    with torch.no_grad():
        for parameter in first.network.parameters():
            parameter.add_(0.1)
    trained = {k: v.clone() for k, v in first.network.state_dict().items()}
    second = next(running).module
    assert modes == [False, False]
    for network in (second.network, second.teacher.network):
        state = network.state_dict()
        assert all(torch.equal(state[k], v) for k, v in trained.items())
    known = second.history.correct >= 0  # the test utterances of the classes seen, no others
    assert known[0].equal(Task(cfg).evaluated_tasks == 0)
    assert not known[1].any()


def test_a_recording_that_training_tolerates_does_not_stop_the_memory(shared):
    """Its row is left out; it stopped the run, or moved the rows behind it."""
    rows = shared.train_rows(0)
    module = shared.module(0).eval()
    bad = int(rows[2])
    damaged(shared.train, bad)
    with torch.no_grad():
        memory = grown_memory(shared, module, 0)
        kept = rows[rows != bad]
        batch = shared.train.batch(kept.tolist(), [-1] * len(kept), project.CorruptCounter("x"))
        features = module.network.features(batch["waveforms"], batch["lengths"])
    expected = select_memory(
        features, shared.train.spoken.labels[kept], shared.scenario.classes[0], 2, "herding"
    )
    assert memory.tolist() == kept[expected].tolist()


def test_item_18_hypotheses_of_the_readable_memory_searched_with_kd_beam(shared):
    """Item 18: the beams are `method.kd_beam`; a recording that cannot be read has no
    hypothesis."""
    module = shared.module(1, shared.module(0), torch.arange(8)).eval()
    damaged(shared.train, 2)
    searches = []

    def transcribe(waveforms, lengths, search):
        searches.append(search)
        return torch.stack([torch.tensor([2, 6 + i, 3]) for i in range(len(waveforms))])

    module.teacher.network.transcribe = transcribe
    actual = teacher_hypotheses(shared, module)
    assert [search.beam_size for search in searches] == [1]
    assert actual[:, 1].tolist() == [6, 7, 0, 8, 9, 10, 11, 12]


def test_a_test_utterance_that_cannot_be_read_is_an_error(shared):
    damaged(shared.test, 1)
    with torch.no_grad(), pytest.raises(UserError, match="evaluated recordings: 1 of 2 samples"):
        decode(shared, shared.module(0).eval(), shared.test, [0, 1])


# -- history -------------------------------------------------------------------------------------


@pytest.mark.usefixtures("unrendered_figures")
def test_metrics_over_all_tasks_need_one_way_of_evaluating(tmp_path, caplog, monkeypatch):
    """An evaluation with another split or search mixed its last task with the run's earlier
    ones."""
    monkeypatch.setattr(evaluation, "embedding_map", lambda *_: None)
    monkeypatch.setattr(evaluation, "unseen_speaker", lambda *_: {})
    words = ["data.num_tasks=2", "eval.beam_size=1"]
    cfg = config(*words)
    shared = Task(cfg)
    module = shared.module(1).eval()
    with torch.no_grad():
        evaluate_task(shared, module, 0)
        assert "avg_accuracy" in evaluation.evaluate(cfg, module, Workspace(tmp_path / "same"))
        assert not caplog.records
        dev = evaluation.evaluate(
            config(*words, "eval.split=dev"), module, Workspace(tmp_path / "dev")
        )
    assert "last_accuracy" in dev
    assert not dev.keys() & {"avg_accuracy", "avg_wer", "forgetting", "old_class_cosine"}
    assert "with another eval.split" in caplog.text


def test_the_history_tells_evaluations_apart():
    for other in ({"split": "dev"}, {"beam_size": 4}, {"length_power": 0.5}, {"max_length": 9}):
        history = History(3, 1, 1)
        history.record_settings(0, SpeechEval())
        history.record_settings(2, SpeechEval())
        assert history.comparable()
        history.record_settings(1, replace(SpeechEval(), **other))
        assert not history.comparable()


def test_a_checkpoint_without_the_settings_of_its_evaluations_loads():
    """Those of before have none: whatever they were, it counts as the same."""
    module = module_of()
    module.history.record_settings(0, SpeechEval())
    state = module.state_dict()
    old = {k: v for k, v in state.items() if k != "history.settings"}
    module.load_state_dict(old)  # as a resumed run does
    assert module.history.settings.isnan().all()
    module.adapt_to(old)  # before an evaluation
    check_fits(module, old, Path("old.ckpt"))
    module.history.record_settings(2, SpeechEval(split="dev"))
    assert module.history.comparable()


# -- validation ----------------------------------------------------------------------------------


def test_a_share_of_the_validation_rows_is_that_share():
    """Three fifths were all rows, two fifths a half; one n-th is every n-th row, as before."""
    rows = list(range(30))
    assert [len(spread(rows, share)) for share in (1, 0.6, 0.4, 0.001)] == [30, 18, 12, 1]
    assert all(spread(rows, 1 / n) == rows[::n] for n in (1, 2, 3, 5, 10))
    assert spread([], 0.5) == []
    shared = Task(config("eval.val_share=0.6"))
    assert len(shared.data(2, shared.module(0)).val_sets["dev"]) == round(
        0.6 * len(shared.samples("dev").spoken)
    )


@pytest.fixture
def selection(monkeypatch):
    """What val/selection is after a validation: task, optimiser steps, [utterances, right, edits,
    words].
    """
    module = module_of("method.select_from_epoch=2")
    module.warmup_epoch_steps = 10

    def validated(task, step, counts):
        module.task = task
        monkeypatch.setattr(Coconut, "global_step", step)
        module.validation_step = lambda batch, batch_idx: setattr(module.errors, "counts", counts)
        trainer = Trainer(
            accelerator="cpu",
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
        )
        trainer.validate(module, DataLoader([0]), verbose=False)
        return float(trainer.callback_metrics["val/selection"])

    return validated


def test_selection_is_by_accuracy_then_by_lower_error_rate(selection):
    """Two validations of equal accuracy and close error rates were equal in float32."""
    better, worse, right = (
        selection(0, 0, [100, 97, *edits]) for edits in ((30, 100), (31, 100), (99, 100))
    )
    assert better > worse > right
    assert selection(0, 0, [100, 98, 99, 100]) > better


def test_early_epochs_are_not_selected_in_later_tasks(selection):
    """Two epochs of ten steps: 19 steps are too few, 20 are enough; the first task has no limit."""
    counts = [10, 9, 3, 10]
    early, late = selection(1, 19, counts), selection(1, 20, counts)
    assert early < 0 < late
    assert selection(0, 0, counts) == late
