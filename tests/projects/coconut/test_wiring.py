"""Error rates, tasks and samples: what the evaluation and the batches read, by hand."""

import json
from contextlib import nullcontext
from types import SimpleNamespace

import pytest
import torch

from common.data.corrupt import CorruptCounter
from common.data.speech.transcripts import SpokenTarget
from common.engine.workspace import Workspace
from projects.coconut import data, evaluate, stages
from projects.coconut.data import (
    Samples,
    TaskData,
    TaskSpeech,
    build_scenario,
    build_tokenizer,
    memory_slots,
)
from projects.coconut.evaluate import all_tasks, figures, last_metrics, write_predictions
from projects.coconut.incremental import quota_per_class
from tests.projects.coconut.conftest import config, module_of

RIGHT = SpokenTarget("play_music", (("artist", "abba"),), "put it on")
WRONG = SpokenTarget("play_radio", (("artist", "abba"),), "put it in")


def spoken(*targets):
    """Utterances with their targets."""
    return SimpleNamespace(
        targets=list(targets), keys=[str(i) for i in range(len(targets))], class_names=["x", "y"]
    )


@pytest.mark.parametrize("slots", [True, False])
def test_error_rates_of_the_last_task_are_of_whole_texts(monkeypatch, slots):
    asked = []
    monkeypatch.setattr(evaluate, "full_text", lambda t, slots: asked.append(slots) or "ab cd")
    monkeypatch.setattr(evaluate, "word_error_rate", lambda outputs, gold: 0.5)
    monkeypatch.setattr(evaluate, "character_error_rate", lambda outputs, gold: 0.25)
    shared = SimpleNamespace(
        cfg=SimpleNamespace(data=SimpleNamespace(slots=slots)),
        test=SimpleNamespace(spoken=spoken(RIGHT, RIGHT, RIGHT)),
        scenario=SimpleNamespace(num_tasks=2),
        test_tasks=torch.tensor([0, 1, 1]),
    )
    module = SimpleNamespace(history=SimpleNamespace(correct=torch.tensor([[1, 0, 1]])))
    metrics = last_metrics(shared, module, [RIGHT, RIGHT, WRONG])
    assert set(asked) == {slots}
    assert (metrics["last_wer"], metrics["last_cer"]) == (0.5, 0.25)
    assert (metrics["last_accuracy_task1"], metrics["last_accuracy_task2"]) == (1, 0.5)


def test_error_rates_of_transcripts_are_over_their_own_words(monkeypatch):
    """Old classes did not move in the only pair that is known."""
    asked = []
    results = SimpleNamespace(matrix=lambda: None, counts=lambda: None)
    history = SimpleNamespace(
        results=lambda tasks: results,
        word_error_rates=lambda edits, words: asked.append((edits, words.tolist())) or [1.0],
        edits_full="full",
        edits_transcript="said",
        cosine=torch.tensor([torch.nan, 0.8]),
    )
    monkeypatch.setattr(evaluate, "continual_metrics", lambda *_: {})
    monkeypatch.setattr(evaluate, "average_accuracy_items", lambda results: torch.ones(1))
    monkeypatch.setattr(evaluate, "figures", lambda *_: None)
    monkeypatch.setattr(evaluate, "full_text", lambda t, slots: "one two three four five")
    shared = SimpleNamespace(
        cfg=SimpleNamespace(data=SimpleNamespace(slots=False)),
        test=SimpleNamespace(spoken=spoken(RIGHT)),
        evaluated_tasks=None,
    )
    workspace = SimpleNamespace(items=lambda *_: None)
    metrics = all_tasks(shared, SimpleNamespace(history=history), workspace)
    assert asked == [("full", [5]), ("said", [3])]
    assert metrics["old_class_cosine"] == pytest.approx(0.8)


def test_a_task_has_no_curve_before_it_was_trained(monkeypatch):
    drawn = []
    monkeypatch.setattr(evaluate, "task_names", lambda shared: ["a", "b"])
    monkeypatch.setattr(evaluate, "task_heat_map", lambda *_: None)
    monkeypatch.setattr(evaluate, "task_curves", lambda curves, name: drawn.append(curves))
    monkeypatch.setattr(evaluate, "accuracy_after_each_task", lambda *_: torch.zeros(2))
    matrix = torch.tensor([[0.9, 0.1], [0.8, 0.7]])
    figures(None, matrix, None, [0.0], SimpleNamespace(figure=lambda *_: None))
    assert drawn[0]["a"] == pytest.approx([0.9, 0.8])
    assert drawn[0]["b"][0] != drawn[0]["b"][0]  # NaN
    assert drawn[0]["b"][1] == pytest.approx(0.7)


def test_the_unseen_speaker_is_in_a_part_of_its_own(monkeypatch):
    asked = []

    class One(list):
        targets = (RIGHT,)

    samples = SimpleNamespace(spoken=One([0]))
    shared = SimpleNamespace(cfg=config(), samples=lambda part: asked.append(part) or samples)
    monkeypatch.setattr(evaluate, "decode", lambda *_: (None, None))
    monkeypatch.setattr(evaluate, "scores", lambda *_: (torch.tensor([1, 0, 1, 1]), None, None))
    metrics = evaluate.unseen_speaker(shared, None, SimpleNamespace(items=lambda *_: None))
    assert asked == ["unseen"]
    assert metrics["unseen_speaker_accuracy"] == 0.75


def test_predictions_have_the_scenario_before_the_first_mark(tmp_path):
    target = SpokenTarget("play_music_loudly", (), "put it on")
    shared = SimpleNamespace(test=SimpleNamespace(spoken=spoken(RIGHT)))
    write_predictions(shared, [target], Workspace(tmp_path))
    (file,) = tmp_path.rglob("predictions.jsonl")
    row = json.loads(file.read_text())
    assert (row["scenario"], row["action"]) == ("play", "music_loudly")
    assert (row["intent"], row["gold_intent"]) == ("play_music_loudly", "play_music")


@pytest.mark.parametrize("slots", [True, False])
def test_the_vocabulary_has_slot_types_where_targets_have_slots(monkeypatch, slots):
    asked, parts = [], []
    monkeypatch.setattr(
        data,
        "spoken_part",
        lambda section, part, seed: parts.append(part) or SimpleNamespace(targets=[RIGHT]),
    )
    monkeypatch.setattr(
        data.TranscriptTokenizer, "train", lambda texts, kind, size: asked.extend(texts)
    )
    cfg = config()
    cfg.data.slots = slots
    build_tokenizer(cfg)
    assert ("artist" in asked) == slots
    assert parts == ["train"]


def test_the_seed_orders_classes_only_where_the_config_says(monkeypatch):
    asked = []
    monkeypatch.setattr(data, "class_order", lambda count, order, seed: asked.append(seed))
    monkeypatch.setattr(data, "ClassIncremental", lambda *_: None)
    for by_seed in (True, False):
        cfg = config("seed=6")
        cfg.data.order_by_seed = by_seed
        build_scenario(cfg)
    assert asked == [6, None]


def test_the_memory_has_places_of_earlier_classes_alone():
    cfg = config()
    places = quota_per_class(cfg.method.memory_size, data.NUM_CLASSES[cfg.data.source])
    earlier = len(build_scenario(cfg).seen(0))
    assert [memory_slots(cfg, task) for task in (0, 1)] == [0, places * earlier]
    cfg.method.setting = "offline"
    assert memory_slots(cfg, 1) == 0


class Tokenizer:
    """Ids of the letters of a text; the target has the id 99."""

    def encode(self, text):
        return [ord(letter) for letter in text]

    def encode_target(self, target, slots):
        return [99]


class Waveforms(list):
    """The second recording cannot be read."""

    def __getitem__(self, row):
        if row == 1:
            raise OSError("damaged")
        return torch.zeros(4)


@pytest.mark.parametrize(("text", "ids"), [("transcript", [[97], [98], [105]]), ("target", [[99]])])
def test_an_utterance_without_words_is_read_as_its_intent(text, ids):
    targets = [SpokenTarget(i, (), t) for i, t in (("x", "a"), ("x", "b"), ("i", ""))]
    samples = Samples(spoken(*targets), Tokenizer(), config().data, text)
    assert [t.tolist() for t in samples.text] == (ids if len(ids) > 1 else ids * 3)


def test_labels_of_a_batch_are_those_of_the_recordings_that_can_be_read():
    utterances = spoken(*[RIGHT] * 4)
    utterances.labels, utterances.waveforms = torch.tensor([5, 6, 7, 8]), Waveforms()
    samples = Samples(utterances, Tokenizer(), config().data, "transcript")
    batch = samples.batch([3, 1, 0], [-1, 2, 0], CorruptCounter("recordings", max_fraction=1.0))
    assert batch["labels"].tolist() == [8, 5]
    assert batch["is_memory"].tolist() == [False, True]


def test_validation_searches_with_its_own_beam(monkeypatch):
    asked = []
    module = module_of("eval.val_beam_size=2", "eval.beam_size=5")
    monkeypatch.setattr(
        module.network,
        "transcribe",
        lambda waveforms, lengths, search: asked.append(search.beam_size) or torch.zeros(0, 1),
    )
    module.tokenizer = SimpleNamespace()
    module.validation_step({"waveforms": None, "lengths": None, "tokens": torch.zeros(0, 1)}, 0)
    assert asked == [2]


def test_error_rates_are_over_the_words_that_were_meant():
    """Two words of three are missing; swapped, the rates would be over the words that are there."""
    gold, short = SpokenTarget("x", (), "a b c"), SpokenTarget("x", (), "a")
    shared = SimpleNamespace(
        cfg=SimpleNamespace(data=SimpleNamespace(slots=False)),
        test=SimpleNamespace(spoken=spoken(gold)),
        scenario=SimpleNamespace(num_tasks=1),
        test_tasks=torch.tensor([0]),
    )
    module = SimpleNamespace(history=SimpleNamespace(correct=torch.tensor([[1]])))
    metrics = last_metrics(shared, module, [short])
    assert metrics["last_wer"] == pytest.approx(2 / 4)
    assert metrics["last_cer"] == pytest.approx(4 / 7)
    assert metrics["last_transcript_wer"] == pytest.approx(2 / 3)


def test_the_gallery_marks_what_was_understood():
    shared = SimpleNamespace(test=SimpleNamespace(spoken=spoken(RIGHT, RIGHT)))
    rows = evaluate.examples(shared, [WRONG, RIGHT])
    assert [row["results"][0]["score"] for row in rows] == [0, 1]


@pytest.mark.parametrize("comparable", [True, False])
def test_the_last_task_is_judged_and_all_tasks_only_under_equal_settings(monkeypatch, comparable):
    judged, items = [], {}
    cfg = config()
    correct = torch.zeros(cfg.num_tasks, 1)
    correct[-1] = 1
    test = SimpleNamespace(spoken=SimpleNamespace(class_names=[], labels=None))
    monkeypatch.setattr(evaluate, "Task", lambda cfg: SimpleNamespace(test=test))
    monkeypatch.setattr(evaluate, "evaluated", lambda *_: nullcontext())
    monkeypatch.setattr(evaluate, "evaluate_task", lambda shared, module, task: judged.append(task))
    monkeypatch.setattr(evaluate, "all_tasks", lambda *_: {"avg_accuracy": 1.0})
    for name in ("last_metrics", "unseen_speaker", "write_predictions", "examples"):
        monkeypatch.setattr(evaluate, name, lambda *_: {})
    monkeypatch.setattr(evaluate, "embedding_map", lambda *_: None)
    history = SimpleNamespace(
        comparable=lambda: comparable,
        complete=lambda: True,
        correct=correct,
        features=torch.zeros(1),
    )
    workspace = SimpleNamespace(
        items=lambda name, values: items.update({name: values}),
        gallery=lambda *_: None,
        figure=lambda *_: None,
    )
    metrics = evaluate.evaluate(cfg, SimpleNamespace(history=history), workspace)
    assert judged == [cfg.num_tasks - 1]
    assert items == {"last_accuracy": [1.0]}
    assert ("avg_accuracy" in metrics) == comparable


@pytest.mark.parametrize("slots", [True, False])
def test_targets_have_slots_where_the_config_says(slots):
    class Watched(Tokenizer):
        def encode_target(self, target, slots):
            return [int(slots)]

    section = config().data
    section.slots = slots
    assert Samples(spoken(RIGHT), Watched(), section, "transcript").tokens[0].tolist() == [slots]


def test_a_stream_begins_with_the_memory_of_its_module(monkeypatch):
    """A checkpoint may have brought another one than the set was made with."""
    train = TaskSpeech(None, torch.tensor([0]), torch.tensor([-1, -1]))
    memory = torch.tensor([4, -1])
    stream = TaskData(train, lambda: memory, batch_size=1, seed=0, num_workers=0)
    monkeypatch.setattr(data.ContrastiveData, "train_dataloader", lambda self: None)
    stream.train_dataloader()
    assert train.memory == [(0, 4)]


def test_the_seed_draws_the_memory(monkeypatch):
    asked = []
    cfg = config("seed=6", "method.selection=random")
    monkeypatch.setattr(stages, "quota", lambda cfg: 1)
    monkeypatch.setattr(
        stages, "select_memory", lambda *args: asked.append(args[-1]) or torch.tensor([1])
    )
    shared = SimpleNamespace(
        cfg=cfg,
        train_rows=lambda task: torch.tensor([3, 5]),
        train=SimpleNamespace(spoken=SimpleNamespace(labels=torch.zeros(9, dtype=torch.long))),
        scenario=SimpleNamespace(classes=[[0]]),
    )
    module = SimpleNamespace(memory=torch.tensor([8]))
    assert stages.grown_memory(shared, module, 0).tolist() == [8, 5]
    assert asked == [6]
