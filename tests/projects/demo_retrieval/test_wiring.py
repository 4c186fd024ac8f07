"""Which inputs are answered, how answers are judged, and what the generator is asked for."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn

from projects.demo_retrieval import evaluate as evaluation
from projects.demo_retrieval import module as method
from projects.demo_retrieval.evaluate import (
    Answers,
    answered,
    gallery,
    macro_f1,
    mechanism,
    rows_to_answer,
)
from projects.demo_retrieval.module import DemoRetrieval
from projects.demo_retrieval.template import Example
from tests.projects.demo_retrieval.conftest import config, module_of

TASK = SimpleNamespace(name="task", labels=["yes", "no"], dev=["d"] * 3, test=["t"] * 3)


def example(answer="yes", task="task", context="", answers=None):
    return Example(task, "q", answers or (answer,), context)


@pytest.mark.parametrize("split", ["dev", "test"])
def test_inputs_are_of_the_part_up_to_its_limit_with_demonstrations_by_the_seed(monkeypatch, split):
    monkeypatch.setattr(evaluation, "EvalRows", lambda part, encoder, shown, seed: (part, seed))
    monkeypatch.setattr(evaluation, "demonstrations_of", lambda *_: None)
    cfg = config(f"eval.split={split}", "eval.limit=2", "seed=7")
    module = SimpleNamespace(encoder=1, bank=None)
    assert rows_to_answer(cfg, module, TASK) == ([split[0]] * 2, 7)


class Module(nn.Linear):
    """Answers with the number of a row, and ranks the second label first."""

    def __init__(self):
        super().__init__(1, 1)

    def answers(self, batch):
        return [str(i) for i in batch["rows"]]

    def ranked(self, batch, labels):
        return torch.tensor([[0.0, 1.0]] * len(batch["rows"]))


@pytest.mark.parametrize(
    ("rank", "generate", "kinds"),
    [(True, False, (0, 3)), (True, True, (3, 3)), (False, True, (3, 0))],
)
def test_answers_are_in_the_order_of_the_inputs_and_of_the_kinds_asked_for(rank, generate, kinds):
    tensors = dict.fromkeys(("input_ids", "attention_mask", "scores"), torch.zeros(1))

    class Rows(list):
        examples = tuple(example(context=c) for c in ("xxx", "x", "xx"))  # batches are by length

        def collate(self, part):
            return {**tensors, "rows": part}

    words = [f"eval.rank={str(rank).lower()}", f"eval.generate={str(generate).lower()}"]
    headline = "ranked" if rank else "generated"
    cfg = config("eval.batch_size=2", f"eval.headline={headline}", *words)
    actual = answered(cfg, Module(), TASK, Rows(range(3)))
    assert (len(actual.generated), len(actual.ranked)) == kinds
    assert actual.generated in ([], ["0", "1", "2"])
    assert set(actual.ranked) <= {"no"}


def test_chance_is_one_of_the_labels(monkeypatch):
    task = SimpleNamespace(name="task", labels=["a", "b", "c", "d"])
    rows = SimpleNamespace(examples=[example("a")])
    stands = {
        "read_tasks": SimpleNamespace(targets=[task]),
        "rows_to_answer": rows,
        "answered": Answers(["a"], []),
        "mechanism": {},
    }
    for name, value in stands.items():
        monkeypatch.setattr(evaluation, name, lambda *_, value=value: value)
    for name in ("write_manifest", "gallery"):
        monkeypatch.setattr(evaluation, name, lambda *_: None)
    workspace = SimpleNamespace(items=lambda *_: None, mean_items=lambda *_: None)
    metrics = evaluation.evaluate(config(), SimpleNamespace(bank=1), workspace)
    assert metrics["task_accuracy"] == 1
    assert metrics["task_accuracy_chance"] == metrics["accuracy_chance"] == 0.25


def test_classes_count_alike_and_answers_of_no_class_are_none():
    """By hand: F1 of "a" is 0.8, of "b" 0; "c" is no class."""
    assert macro_f1(["a", "a", "c"], ["a", "a", "b"]) == pytest.approx(0.5)
    assert macro_f1(["a", "a", "a"], ["a", "a", "b"]) == pytest.approx(0.4)


def test_any_accepted_answer_is_a_hit_and_tasks_of_demonstrations_are_told_apart():
    rows = SimpleNamespace(
        examples=[example(answers=("sure", "yes"))],
        shown=[[example("yes", "other"), example("no"), None]],
    )
    actual = mechanism(TASK, rows, Answers(["no"], ["yes"], "ranked"))
    assert actual == {"label_hit": [1], "copied": [1], "other_task": [0.5]}
    rows.shown = [[example("yes", "other"), example("maybe", "other"), example("maybe")]]
    actual = mechanism(TASK, rows, Answers(["no"], [], "generated"))
    assert actual["copied"] == [0]
    assert actual["other_task"] == pytest.approx([2 / 3])


def test_the_gallery_has_the_weights_of_the_mixture():
    seen = []
    workspace = SimpleNamespace(gallery=lambda name, shown: seen.extend(shown))

    class Rows(list):
        examples, shown = (example(),), ((example(), example()),)
        scores = torch.tensor([[0.0, 1.0]])

    gallery(Rows([0]), Answers(["yes"], []), TASK, workspace)
    weights = [r["score"] for r in seen[0]["results"]]
    np.testing.assert_allclose(weights, torch.tensor([0.0, 1.0]).softmax(0), rtol=1e-6)


def bare(*words):
    """A module without a network."""
    module = DemoRetrieval.__new__(DemoRetrieval)
    nn.Module.__init__(module)
    module.cfg, module.start, module.network = config(*words), 3, None
    module._seen = torch.zeros(2)
    return module


def test_the_decoder_begins_with_the_start_of_its_weights():
    module, seen = bare(), []

    def network(input_ids, attention_mask, decoder_input_ids):
        seen.append(decoder_input_ids.tolist())
        return SimpleNamespace(logits=None)

    module.network = network
    batch = {"labels": torch.tensor([[7, 8]]), "scores": torch.zeros(1, 2)}
    module.logits(batch | {"input_ids": None, "attention_mask": None})
    assert seen == [[[3, 7], [3, 7]]]


@pytest.mark.parametrize("coupling", ["token", "sequence"])
def test_answers_have_room_for_the_head_and_the_coupling_and_beams_of_the_config(
    monkeypatch, coupling
):
    asked = []

    def writer(name):
        def write(*_, max_new_tokens, num_beams, **__):
            asked.append((name, max_new_tokens, num_beams))
            return torch.tensor([[5]])

        return write

    monkeypatch.setattr(method, "generate", writer("token"))
    monkeypatch.setattr(method, "generate_sequence", writer("sequence"))
    words = [f"method.coupling={coupling}", "eval.max_new_tokens=4", "eval.num_beams=3"]
    module = bare(*words)
    module.tokenizer = SimpleNamespace(pad_token_id=0, batch_decode=lambda *_, **__: ["x"])
    module.encoder = SimpleNamespace(target_head=lambda e: [1, 2], end=9)
    module.answers({"examples": [1], "input_ids": 0, "attention_mask": 0, "scores": 0})
    assert asked == [(coupling, 6, 3)]


@pytest.mark.parametrize("coupling", ["token", "sequence"])
def test_labels_are_scored_behind_the_head_of_their_own_input(monkeypatch, coupling):
    asked = []

    def score(network, ids, mask, scores, head, labels, start, sequence):
        asked.append((head, len(scores), sequence))
        return torch.zeros(len(scores), 1)

    monkeypatch.setattr(method, "label_log_likelihoods", score)
    module = bare(f"method.coupling={coupling}")
    module.encoder = SimpleNamespace(ids=lambda t: [4], target_head=lambda e: [e], end=9)
    batch = dict.fromkeys(("input_ids", "attention_mask"), torch.zeros(4, 1))
    for heads, calls in (([1, 2], [([1], 1), ([2], 1)]), ([5, 5], [([5], 2)])):
        asked.clear()
        module.ranked(batch | {"scores": torch.zeros(2, 2), "examples": heads}, ["a"])
        assert asked == [(*call, coupling == "sequence") for call in calls]


@pytest.mark.parametrize(("reduction", "count"), [("tokens", 3), ("sequences", 2)])
def test_the_loss_is_a_mean_over_what_the_config_counts(monkeypatch, reduction, count):
    counts = []
    monkeypatch.setattr(method, "rag_token_nll", lambda *_: torch.ones(2))
    monkeypatch.setattr(method, "rank_mean_of_sums", lambda total, n: counts.append(float(n)))
    module = bare(f"method.reduction={reduction}", "method.coupling=token")
    monkeypatch.setattr(module, "logits", lambda batch: None)
    module.losses({"labels": torch.tensor([[1, 2], [3, -100]]), "scores": torch.zeros(2, 2)})
    assert counts == [count]


def test_each_validation_is_a_mean_of_its_own(monkeypatch):
    (module, _), logged = module_of(), []
    monkeypatch.setattr(module, "log", lambda name, value: logged.append(float(value)))
    for total, count in ((1.0, 2.0), (1.0, 4.0)):
        module._seen += torch.tensor([total, count])
        module.on_validation_epoch_end()
    assert logged == [0.5, 0.25]
