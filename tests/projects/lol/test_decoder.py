"""The decoder against plain passes: scores and texts without padding, caches or batches."""

import copy
from dataclasses import replace

import numpy as np
import pytest
import torch

from common.config import UserError
from common.decoding.language_model import LanguageModel
from common.decoding.options import Policy
from common.encoders.text.language_models.causal import merge_lora
from projects.lol import tracks
from projects.lol.config import MethodConfig
from projects.lol.decoder import Models
from projects.lol.early_exit import exit_logits, furthest_layer
from projects.lol.lora import lora_switched
from projects.lol.prompts import Contexts
from tests.projects.lol.conftest import (
    ANSWERS,
    GREEDY,
    ICD,
    LAYERS,
    QUESTION,
    decoder_of,
    plain,
    same_twice,
    tiny,
)

FULL = {**LAYERS, "lambda_final": 0.8, "lambda_lower": 0.6, "omega": 0.3, "rho_refocus": 0.4}


def by_hand(decoder, answer):
    """The full score of an answer, token by token, from passes of single rows."""
    own, models = decoder.method, decoder.models
    prompts, ids = decoder._tokens(decoder.contexts(QUESTION), answer)
    theta, other = models.lm.model, models.amateur
    p, q = plain(theta, prompts["original"], ids), plain(other, prompts["original"], ids)
    s = plain(theta, prompts["instructed"], ids)
    states = {
        kind: [plain(theta, prompts[kind], ids, i) for i in own.layer_list]
        for kind in ("original", "instructed")
    }
    low_q = [plain(other, prompts["original"], ids, i) for i in own.layer_list]
    exits, exits_s = (
        torch.stack(
            [
                exit_logits(theta, x, i, norm=own.early_exit_norm)
                for x, i in zip(states[kind], own.layer_list, strict=True)
            ]
        )
        for kind in states
    )
    first, first_low, rho = p, exits, own.rho_refocus
    if own.refocus == "instruct_original":  # the instruction moves both contrasts, not their layer
        first, first_low, rho = s, exits_s, 0.0
    exits_q = torch.stack(
        [
            exit_logits(other, x, i, norm=own.early_exit_norm)
            for x, i in zip(low_q, own.layer_list, strict=True)
        ]
    )
    chosen, _ = furthest_layer(p, exits)
    total, places = 0.0, range(len(ids))
    for t in places:
        log = lambda x, t=t: x[t].log_softmax(-1)[ids[t]]  # noqa: E731
        final = log(first) - own.lambda_final * log(q)
        lower = log(first_low[chosen[t]]) - own.lambda_lower * log(exits_q[chosen[t]])
        fused = own.beta * final + own.omega * lower
        total += float(fused + rho * (log(s) - log(p)))
    return total, [own.layer_list[i] for i in chosen]


@pytest.mark.parametrize(
    ("norm", "refocus"),
    [(False, "prompt_contrast"), (True, "prompt_contrast"), (False, "instruct_original")],
)
def test_a_batch_scores_what_single_passes_score(models, norm, refocus):
    """Checklist 1, 4, 5, 8, 13: positions are aligned, exits follow the flag, the amateur's layer
    is the
    original's, only answer tokens count, padding changes nothing."""
    method = {**FULL, "early_exit_norm": norm, "refocus": refocus}
    decoder = decoder_of(models, **method)
    actual = decoder.score(QUESTION, ANSWERS)
    expected = [by_hand(decoder, answer) for answer in ANSWERS]
    assert actual == pytest.approx([value for value, _ in expected], rel=1e-6)
    alone = decoder_of(models, batch_size=1, **method)
    assert alone.score(QUESTION, ANSWERS) == pytest.approx(actual, rel=1e-6)
    seen = decoder.explain(QUESTION, ANSWERS[2])
    assert seen.layers == expected[2][1]
    assert sum(seen.scores) == pytest.approx(actual[2], rel=1e-6)
    assert norm or len(set(seen.layers)) > 1


def test_icd_is_a_case_of_the_same_path(models):
    """Checklist 2: with lambda = beta = 1 and nothing else the score is log p - log p'."""
    decoder = decoder_of(models, **ICD)
    prompts, ids = decoder._tokens(decoder.contexts(QUESTION), ANSWERS[0])
    both = [plain(m, prompts["original"], ids) for m in (models.lm.model, models.amateur)]
    each = [x.log_softmax(-1).gather(1, torch.tensor(ids)[:, None]).sum() for x in both]
    assert decoder.score(QUESTION, ANSWERS[:1])[0] == pytest.approx(
        float(each[0] - each[1]), rel=1e-6
    )


def test_without_weights_it_is_greedy_for_any_amateur(models):
    """Checklist 3: scores and tokens, and zero contrasts of an equal amateur."""
    off = {"lambda_final": 0.0, "lambda_lower": 0.0, "omega": 0.0, "rho_refocus": 0.0}
    greedy, trained = decoder_of(models, **GREEDY), decoder_of(models, **off)
    assert trained.score(QUESTION, ANSWERS) == greedy.score(QUESTION, ANSWERS)
    assert trained.generate([QUESTION], new_tokens=6) == greedy.generate([QUESTION], new_tokens=6)
    lm = models.lm
    row = lm.token_ids(greedy.contexts(QUESTION).neutral, special=True)
    ids = lm.model.generate(
        torch.tensor([row]), max_new_tokens=6, do_sample=False, eos_token_id=None
    )
    expected = lm.tokenizer.decode(ids[0, len(row) :], skip_special_tokens=True).partition("Q:")[0]
    assert greedy.generate([QUESTION], new_tokens=6) == [expected.strip()]
    same = decoder_of(same_twice(models), **{**ICD, **LAYERS, "omega": 0.5})
    assert same.score(QUESTION, ANSWERS) == pytest.approx([0.0] * 3, abs=1e-9)


def test_writing_is_scoring_anew_at_every_step(models):
    """Checklist 10: three caches of their own positions; rows of other lengths beside each
    other."""
    decoder = decoder_of(models, **FULL, alpha_plausibility=0.05)
    questions = [QUESTION, "who", "where are the other people of the world now"]
    actual = decoder.generate(questions, new_tokens=5, stop="")
    for question, text in zip(questions, actual, strict=True):
        prompts, _ = decoder._tokens(decoder.contexts(question), "a")
        assert len(prompts["instructed"]) > len(prompts["original"]) == len(prompts["amateur"])
        ids: list[int] = []
        for _ in range(5):  # the place behind the last token: any token stands for the next
            readings = decoder._read([prompts], [[*ids, 7]])
            ids.append(int(decoder._scores(readings, -torch.inf)[0][0, -1].argmax()))
        assert text == models.lm.tokenizer.decode(ids, skip_special_tokens=True).strip()


def test_draws_belong_to_their_row(models):
    decoder = decoder_of(models, **FULL)
    policy = Policy("nucleus", top_p=0.9)
    rngs = lambda: [np.random.default_rng(i) for i in range(3)]  # noqa: E731
    questions = [QUESTION, "who", "where"]
    actual = decoder.generate(questions, new_tokens=4, policy=policy, rngs=rngs())
    alone = decoder.generate(["where"], new_tokens=4, policy=policy, rngs=rngs()[2:])
    assert actual[2:] == alone
    with pytest.raises(UserError, match="greedily or by sampling"):
        decoder.generate(["who"], policy=Policy("beam_search"))


def test_every_term_makes_only_its_own_passes(models, monkeypatch):
    """Checklist 12, 15, 16: parts and baselines by config; no third pass without the refocus
    term."""
    calls: list[int] = []
    real = tracks._Stream.step

    def step(self, *args, **kwargs):
        calls.append(len(self.track.layers))
        return real(self, *args, **kwargs)

    monkeypatch.setattr(tracks._Stream, "step", step)
    cases = {
        "greedy": (GREEDY, [0]),
        "dola": ({**LAYERS, "amateur": "lower_layer", "omega": 0.0, "refocus": "none"}, [3]),
        "icd": (ICD, [0, 0]),
        "prompt": ({**ICD, "amateur": "prompt"}, [0, 0]),
        "two sizes": ({**ICD, "amateur": "small"}, [0, 0]),
        "lower only": ({**LAYERS, "beta": 0.0, "omega": 1.0, "refocus": "none"}, [3, 3]),
        "final + lower": ({**LAYERS, "refocus": "none"}, [3, 3]),
        "final + refocus": ({"omega": 0.0}, [0, 0, 0]),
        "full": (LAYERS, [3, 3, 0]),
        "instructed": ({**LAYERS, "refocus": "instruct_original"}, [3, 3, 3]),
    }
    scores = {}
    for name, (method, passes) in cases.items():
        calls.clear()
        scores[name] = decoder_of(models, **method).score(QUESTION, ANSWERS)
        assert calls == passes, name
    assert len({tuple(value) for value in scores.values()}) == len(cases)
    calls.clear()
    without = decoder_of(models, **LAYERS, rho_refocus=0.0).score(QUESTION, ANSWERS)
    assert calls == [3, 3]
    assert without == scores["final + lower"]  # bit by bit


def test_the_refocus_prompt_is_read_by_the_original_alone(models):
    """Checklist 16: another instruction moves the third pass and nothing else."""
    decoder = decoder_of(models, **FULL)
    prompts, _ = decoder._tokens(decoder.contexts(QUESTION), ANSWERS[0])
    decoder.prompts.truthful = "all the time"
    other, _ = decoder._tokens(decoder.contexts(QUESTION), ANSWERS[0])
    assert prompts["original"] == other["original"] == other["amateur"] == prompts["amateur"]
    assert prompts["instructed"] != other["instructed"]
    words = decoder_of(models, **{**FULL, "refocus": "keyword_emphasis"})
    text = words.contexts("what is a state").refocused
    assert "Focus on: state." in text


def test_dola_and_prompt_amateur_by_hand(models):
    """Checklist 15: the original against its own lower layer, and against itself asked to
    fabricate.
    """
    dola = decoder_of(models, **LAYERS, amateur="lower_layer", omega=0.0, refocus="none")
    prompts, ids = dola._tokens(dola.contexts(QUESTION), ANSWERS[0])
    theta = models.lm.model
    p = plain(theta, prompts["original"], ids)
    exits = torch.stack(
        [exit_logits(theta, plain(theta, prompts["original"], ids, i), i) for i in (1, 2, 3)]
    )
    chosen, _ = furthest_layer(p, exits)
    expected = sum(
        float(p[t].log_softmax(-1)[i] - exits[chosen[t], t].log_softmax(-1)[i])
        for t, i in enumerate(ids)
    )
    assert dola.score(QUESTION, ANSWERS[:1])[0] == pytest.approx(expected, rel=1e-6)
    prompt = decoder_of(models, **ICD | {"amateur": "prompt"})
    prompts, ids = prompt._tokens(prompt.contexts(QUESTION), ANSWERS[0])
    q = plain(theta, prompts["amateur"], ids)
    expected = sum(
        float(p[t].log_softmax(-1)[i] - q[t].log_softmax(-1)[i]) for t, i in enumerate(ids)
    )
    assert prompt.score(QUESTION, ANSWERS[:1])[0] == pytest.approx(expected, rel=1e-6)


def test_without_its_adapters_the_original_is_bitwise_itself(lora_models):
    """Checklist 11 and 17: adapters are switched for the amateur alone, and the interface is the
    same.
    """
    model, ids = lora_models.lm.model, torch.tensor([[3, 9, 4]])
    with lora_switched(model, False):
        off = model(ids).logits
    assert torch.equal(off, tiny(1)(ids).logits)
    with lora_switched(model, True):
        on = model(ids).logits
    assert not torch.allclose(on, off)
    whole = copy.deepcopy(model)
    merge_lora(whole)
    full = Models(LanguageModel(tiny(1), lora_models.lm.tokenizer, "cpu"), whole)
    for method in (ICD, FULL):
        one = decoder_of(lora_models, **method).score(QUESTION, ANSWERS)
        assert decoder_of(full, **method).score(QUESTION, ANSWERS) == pytest.approx(one, rel=1e-6)


def test_the_boundary_of_the_answer_is_checked(models):
    """Checklist 8: a tokenizer that joins prompt and answer is refused, and so is an empty
    answer."""
    decoder = decoder_of(models, **GREEDY)
    prompts, ids = decoder._tokens(decoder.contexts(QUESTION), "it is a man")
    whole = models.lm.token_ids(decoder.contexts(QUESTION).neutral + " it is a man", special=True)
    assert prompts["original"] + ids == whole
    assert models.lm.tokenizer.decode(ids) == "it is a man"
    with pytest.raises(UserError, match="joins the end of the prompt"):
        decoder.score_rows([(Contexts("a :", "a :", "a :"), "")])


def test_what_a_method_needs_is_asked_for(models, lora_models):
    with pytest.raises(UserError, match=r"amateur\.path"):
        decoder_of(replace(models, amateur=None), **ICD)
    with pytest.raises(UserError, match=r"model\.small"):
        decoder_of(lora_models, **ICD | {"amateur": "small"})
    with pytest.raises(UserError, match="4 blocks"):
        decoder_of(models, layers="list", layer_list=[4])
    for wrong in (
        {"layers": "list"},
        {"layer_choice": "static"},
        {"amateur": "none"},
        {"amateur": "small"},
        {"beta": 0.0, "omega": 0.0},
    ):
        with pytest.raises(ValueError, match=r"layer|lambda|omega"):
            MethodConfig(**wrong)
