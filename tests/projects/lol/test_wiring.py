"""Questions, groups, rivals and chance of the evaluation; rows and modules of the training."""

from types import SimpleNamespace

import pytest
import torch

from common.data.tables import write_jsonl
from projects.lol import evaluate as evaluation
from projects.lol import module as method
from projects.lol.config import MethodConfig
from projects.lol.data import hallucinations, read_hallucinations
from projects.lol.evaluate import chance, compared, means, measure
from projects.lol.module import LOL
from projects.lol.questions import Question
from tests.projects.lol.conftest import GREEDY, ICD, config, tiny, tokens, with_adapters

ASKED = Question("why", ["so", "because"], ["no"], best=1)


def test_texts_to_continue_are_read_plain_and_the_best_answer_is_that_of_the_question(monkeypatch):
    contexts, best = [], []

    def decoder(scores):
        return SimpleNamespace(
            layers=(),
            contexts=lambda text, plain: contexts.append(plain) or text,
            score_rows=lambda rows, progress, seen: scores,
        )

    monkeypatch.setattr(
        evaluation, "truthful_choice", lambda true, false, i: best.append(i) or {"mc1": 1.0}
    )
    workspace = SimpleNamespace(progress=None)
    measure(decoder([1.0, 3.0, 2.0]), [ASKED], workspace)
    plain = Question("it", ["is"], ["was"], best=0, plain=True)
    items, _ = measure(decoder([2.0, 1.0]), [plain], workspace)
    assert contexts == [False, True]
    assert best == [1]
    assert items == {"accuracy": [100.0]}


def test_a_question_counts_in_all_of_its_groups():
    questions = [
        Question("a", ["x"], ["y"], 0, ("health", "adversarial")),
        Question("b", ["x"], ["y"], 0, ("adversarial",)),
    ]
    actual = means(questions, {"mc1": [100.0, 0.0], "mc2": [50.0, 50.0], "mc3": [0.0, 0.0]})
    assert (actual["mc1_health"], actual["mc1_adversarial"]) == (100.0, 50.0)


def test_the_gain_is_over_the_best_baseline_and_not_over_a_variant():
    methods = {"lol": MethodConfig(), "variant": MethodConfig(omega=0.1)}
    methods |= {"icd": MethodConfig(**ICD), "greedy": MethodConfig(**GREEDY)}
    scores = {"lol": 60.0, "variant": 90.0, "icd": 50.0, "greedy": 20.0}
    items = {n: {key: [s] for key in ("mc1", "mc2", "mc3")} for n, s in scores.items()}
    assert compared(methods, items, list(methods))["gain_over_best"] == 10.0


def test_chance_of_the_best_answer_and_of_the_mass():
    actual = chance([ASKED, Question("a", ["x"], ["y", "z", "u"], 0)])
    assert actual["mc1_chance"] == actual["mc3_chance"] == 100 * (1 / 2 + 1 / 4) / 2
    assert actual["mc2_chance"] == pytest.approx(100 * (2 / 3 + 1 / 4) / 2)


def test_the_amateur_learns_false_answers_as_many_as_the_config_says():
    fact = SimpleNamespace(noun="cat", true_answers=["is"], false_answers=["f1", "f2", "f3"])
    world = SimpleNamespace(parts={"amateur": [fact, fact]})
    rows = hallucinations(config("data.limit=3"), world)
    assert [(row.question, row.answer) for row in rows] == [
        ("cat", "f1"),
        ("cat", "f2"),
        ("cat", "f1"),
    ]


def test_a_file_s_input_belongs_to_its_question(tmp_path):
    rows = [
        {"instruction": "who", "input": "in Rome", "output": "me"},
        {"instruction": "what", "input": "", "output": "it"},
        {"question": "where", "hallucinated_answer": "there"},
    ]
    write_jsonl(tmp_path / "h.jsonl", rows)
    words = ["data.source=file", f"data.file={tmp_path / 'h.jsonl'}"]
    actual = read_hallucinations(config(*words))
    assert [row.question for row in actual] == ["who\nin Rome", "what", "where"]
    assert len(hallucinations(config(*words, "data.limit=2"), None)) == 2


def test_the_original_has_rate_and_warm_up_of_its_own():
    words = ["base.lr=0.5", "base.warmup_steps=3", "optim.lr=0.25", "optim.warmup_steps=7"]
    for trains, expected in (("original", (0.5, 3)), ("amateur", (0.25, 7))):
        optim = LOL(config(*words), tiny(1), tokens(), trains).optim
        assert (optim.lr, optim.warmup_steps) == expected


def test_adapters_are_on_while_the_amateur_is_trained(monkeypatch):
    switched, model = [], with_adapters(tiny(1))
    switch = method.lora_switched

    def watched(model, on):
        switched.append(on)
        return switch(model, on)

    monkeypatch.setattr(method, "lora_switched", watched)
    ids = torch.tensor([[2, 5, 6, 7]])
    batch = {"input_ids": ids, "attention_mask": torch.ones_like(ids), "labels": ids}
    LOL(config(), model, tokens(), lora=True).losses(batch)
    assert switched == [True]


def test_models_decode_in_evaluation_mode():
    own = LOL(config(), tiny(1), tokens(), amateur=tiny(2)).train()
    models = own.models(small=tiny(3, 2).train())
    assert not models.amateur.training
    assert not models.small.training
