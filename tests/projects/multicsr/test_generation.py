"""What the options of stages 1 and 2 do to decoding, and which of them make other records."""

import pytest

from common.data.row_map.chunks import RowSeed
from common.decoding.language_model import Continuation
from projects.multicsr import generation, judges
from projects.multicsr.config import Stage1Config, Stage2Config
from projects.multicsr.contrast import contrastive_answers
from projects.multicsr.generation import PLAUSIBILITY, build_writer, settings
from projects.multicsr.prompts import TASKS


@pytest.fixture
def asked(models, monkeypatch):
    """What stage 1 gives to decoding, once for each kind of sentence."""
    calls = []

    def answers(model, prompts, opposite, **options):
        calls.append({"prompts": prompts, **options})
        return [Continuation("it is wet", True, 3) for _ in prompts]

    monkeypatch.setattr(generation, "contrastive_answers", answers)
    monkeypatch.setattr(generation, "load_model", lambda name: models[name])

    def write(name="causal", **options):
        calls.clear()
        build_writer(Stage1Config(model=name, **options))(["it rains"], [RowSeed(0, 0)])
        return calls

    return write


@pytest.mark.parametrize(
    ("name", "options", "guard"),
    [
        ("causal", {}, PLAUSIBILITY),
        ("encoder-decoder", {}, 0.0),
        ("causal", {"plausibility": 0.0}, 0.0),
        ("encoder-decoder", {"plausibility": 0.3}, 0.3),
        ("causal", {"plausibility": 0.3, "enabled": False}, 0.0),
    ],
)
def test_the_guard_is_that_of_the_model_s_kind_unless_the_config_has_one(
    asked, name, options, guard
):
    """Off without the opposite branch, which is plain generation."""
    calls = asked(name, **{"enabled": True, **options})
    assert [call["plausibility"] for call in calls] == [guard] * 2


def test_sampling_draws_other_numbers_for_each_kind(asked):
    first, second = (call["rngs"][0].random() for call in asked(sample=True))
    assert first != second
    again, _ = (call["rngs"][0].random() for call in asked(sample=True))
    assert again == first
    assert [call["rngs"] for call in asked()] == [None, None]


def test_the_instruction_of_the_config_opens_the_prompts(asked):
    for name, tasks in TASKS.items():
        for call, kind in zip(asked(instruction=name), generation.KINDS, strict=True):
            assert call["prompts"][0].startswith(tasks[kind])


def test_draws_are_from_the_whole_distribution(models, monkeypatch):
    """At temperature 1, with nothing left out."""
    policies = []
    model = models["causal"]
    monkeypatch.setattr(
        model, "continuations", lambda _, policy, *__, **___: policies.append(policy)
    )
    contrastive_answers(model, ["a"], ["b"], omega=0.3, rngs=[None])
    (policy,) = policies
    assert (policy.strategy, policy.top_p, policy.temperature) == ("nucleus", 1.0, 1.0)


@pytest.mark.parametrize(
    "change",
    [
        {"model": "another"},
        {"omega": 0.5},
        {"enabled": False},
        {"plausibility": 0.0},
        {"sample": True},
        {"max_new_tokens": 9},
        {"instruction": "concise"},
        {"compare_plain": True},
        {"batch_size": 3},
        {"prompts": {"entailment": "{premise} So:", "contradiction": "{premise} But:"}},
    ],
)
def test_records_of_other_settings_are_other_records(change):
    options = {"enabled": True, "model": "one"}
    assert settings(Stage1Config(**options)) != settings(Stage1Config(**{**options, **change}))


@pytest.mark.parametrize(
    "change",
    [
        {"score_model": "another"},
        {"read": "expectation"},
        {"batch_size": 3},
        {"prompt": "{first} {second}?"},
    ],
)
def test_grades_of_other_settings_are_other_grades(change):
    plain = judges.lm_settings(Stage2Config(judge="lm"))
    assert judges.lm_settings(Stage2Config(judge="lm", **change)) != plain


def test_a_graded_answer_has_space_for_a_decimal(models, monkeypatch):
    budgets = []
    model = models["causal"]
    monkeypatch.setattr(judges, "load_model", lambda name: model)
    monkeypatch.setattr(
        model,
        "continuations",
        lambda prompts, policy, rngs, count, **_: budgets.append(count) or [],
    )
    judges.build_lm_judge(Stage2Config(judge="lm"))([("a", "b")], [])
    assert budgets[0] >= len(model.token_ids(" 4.5", special=False))


def test_overlap_grades_are_on_the_scale_of_the_rule():
    assert judges.overlap_grades([("a b", "a b"), ("a", "c")]) == pytest.approx([5, 0])


def test_the_word_judge_learns_unrelated_pairs_of_two_premises():
    """A third of the rows again, each with the hypothesis of another row."""
    seen = []

    class Watched(judges.WordJudge):
        def _features(self, pairs):
            seen.append(pairs)
            return super()._features(pairs)

    labels = ("entailment", "neutral", "contradiction")
    rows = [(f"a dog runs {i}", f"the dog sleeps {i}", labels[i % 3]) for i in range(30)]
    Watched(rows)
    labelled = [row[:2] for row in rows]
    assert seen[0][:30] == labelled
    assert len(seen[0]) == 40
    assert not set(seen[0][30:]) & set(labelled)
