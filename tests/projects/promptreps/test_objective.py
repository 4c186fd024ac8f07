"""The hybrid loss, its masks and groups, the answer stage: checklist items 12 and 13."""

import pytest
import torch
from torch.nn import functional as F

from common.config import UserError
from common.data.retrieval.records import EmbeddingRecord
from projects.promptreps.answer import AnswerModule, answer_loss
from projects.promptreps.config import MethodConfig, PromptConfig
from projects.promptreps.data import (
    AnswerBatches,
    GroupBatches,
    WordedText,
    first_tokens,
    group_of,
    questions,
    worded_texts,
)
from projects.promptreps.encoder import build_encoder, variant
from projects.promptreps.evaluate import word_probe
from projects.promptreps.lexical.lexical_head import LEFT_OUT, in_text_mask, log1p_relu
from projects.promptreps.module import PromptReps
from projects.promptreps.objective import Objective
from tests.projects.promptreps.conftest import GOLDEN, config, encoder_of, module_of
from tests.unit.losses.golden import fill


def golden_inputs():
    query = F.normalize(fill((2, 6), 0.2).detach(), dim=1).requires_grad_()
    passage = F.normalize(fill((6, 6), 1.2).detach(), dim=1)
    weights = []
    for rows, start, kept in ((2, 0.5, (0, 2, 4, 6)), (6, 1.5, (0, 1, 3, 5, 7))):
        mask = torch.zeros(rows, 9)
        for a in range(rows):
            mask[a, [(a + i) % 9 for i in kept]] = 1
        weights.append(log1p_relu(2 * fill((rows, 9), start).detach()) * mask)
    return query, passage, *weights


@pytest.mark.parametrize("case", GOLDEN["outputs"]["training"])
def test_item_12_golden_losses(case):
    """Checklist 12: cosines over tau, and raw dot products of weights; all passages are
    candidates."""
    query, passage, u, v = golden_inputs()
    terms = Objective(MethodConfig(temperature=case["dense_temperature"]))(query, passage, u, v)
    assert float(terms.dense) == pytest.approx(case["loss_dense"], rel=1e-9)
    assert float(terms.sparse) == pytest.approx(case["loss_sparse_no_temperature"], rel=1e-9)
    assert float(terms.loss) == pytest.approx(case["loss_hybrid"], rel=1e-9)


@pytest.mark.parametrize("case", GOLDEN["outputs"]["training"])
def test_item_12_golden_gradient(case):
    """With respect to unit vectors as they enter the products."""
    query, passage, u, v = golden_inputs()
    objective = Objective(MethodConfig(temperature=case["dense_temperature"], hybrid=False))
    objective._contrast(query, passage, objective.scale).loss.backward()
    assert float(query.grad.norm()) == pytest.approx(case["grad_norm_q"], rel=1e-9)
    terms = objective(3 * query, passage, u, v)  # lengths don't count
    assert float(terms.loss) == pytest.approx(case["loss_dense"], rel=1e-9)
    assert terms.sparse is None


def test_item_13_the_mask_of_training_has_the_tokens_of_inference():
    """Checklist 13: the same tokens have weights, whatever the batch; others have none."""
    cfg, module = config(), module_of()
    module.eval()
    batch = GroupBatches(questions(cfg), module.encoder, cfg)[[(0, 0), (3, 0)]]
    with torch.no_grad():
        _, weights = module._masked(batch["query"])
    texts = [questions(cfg)[i].query for i in (0, 3)]
    sparse = module.encoder.encode(texts, "query")["sparse"]
    for row, vector, text in zip(weights, sparse, texts, strict=True):
        assert set(row.nonzero()[:, 0].tolist()) == {
            t for t in module.encoder.in_text(text) if row[t]
        }
        assert {t for t, w in vector.items() if w} == {
            t for t in vector if round(100 * float(row[t]))
        }
        for token, weight in vector.items():
            assert abs(weight - 100 * float(row[token])) <= 0.51
    assert in_text_mask(torch.tensor([[-1, 1]]), 3).tolist() == [[False, True, False]]


def test_groups_hold_a_positive_first_and_rotate_with_the_epoch():
    """Positives take turns; the negatives of an epoch go on where the last one stopped."""
    record = EmbeddingRecord("q", ("p0", "p1"), tuple(f"n{i}" for i in range(7)))
    groups = [group_of(record, 4, 0, 5, epoch) for epoch in range(7)]
    assert [g[0] for g in groups[:4]] in (["p0", "p1"] * 2, ["p1", "p0"] * 2)
    seen = [n for g in groups for n in g[1:]]
    assert len(set(seen[:6])) == 6
    assert {n: seen.count(n) for n in set(seen)} == {f"n{i}": 3 for i in range(7)}
    assert groups == [group_of(record, 4, 0, 5, epoch) for epoch in range(7)]
    assert group_of(record, 4, 0, 6, 0) != group_of(record, 4, 0, 7, 0)
    few = EmbeddingRecord("q", ("p",), ("n",))
    assert group_of(few, 4, 0, 0, 0) == ["p", "n", "n", "n"]
    assert group_of(EmbeddingRecord("q", ("p",)), 1, 0, 0, 0) == ["p"]
    with pytest.raises(UserError, match="no negative passage"):
        group_of(EmbeddingRecord("q", ("p",)), 2, 0, 0, 0)
    cfg = config("data.group_size=3")
    batch = GroupBatches(questions(cfg), encoder_of(), cfg)[[(0, 0), (1, 0)]]
    assert len(batch["query"]["input_ids"]) == 2
    assert len(batch["passage"]["input_ids"]) == 6
    assert module_of().negatives_per_query(4) == 11
    alone = module_of("method.gather=false", "data.batch_size=2")
    assert alone.negatives_per_query(4) == 5  # of one device


def test_answers_are_learnt_token_by_token_up_to_the_closing_quote():
    """Labels stand where the next token is the answer's; the mean is over texts, then tokens."""
    encoder = encoder_of()
    texts = [WordedText("men at work", ("men",)), WordedText("good house", ("zzxq",))]
    batch = AnswerBatches(texts, encoder, 0)[[(0, 0), (1, 0)]]
    tokenizer = encoder.lm.tokenizer
    for row, own in zip(batch["labels"], texts, strict=True):
        answer = row[row >= 0].tolist()
        assert answer == tokenizer(own.words[0] + '"', add_special_tokens=False)["input_ids"]
    assert batch["labels"].shape == batch["input_ids"].shape
    module = AnswerModule(config(), encoder)
    assert [row[row >= 0].tolist() for row in batch["first"]] == [
        [tokenizer(word, add_special_tokens=False)["input_ids"][0] for word in own.words]
        for own in texts
    ]
    with torch.no_grad():
        actual = module.losses(batch)["loss"]
        logits = encoder.lm.model(batch["input_ids"], batch["attention_mask"]).logits
    expected = []
    for scores, labels, first in zip(logits, batch["labels"], batch["first"], strict=True):
        place, words = (labels >= 0).nonzero()[:, 0], first[first >= 0]
        opening = F.cross_entropy(scores[place[:1]].expand(len(words), -1), words)
        expected.append(opening + F.cross_entropy(scores[place[1:]], labels[place[1:]]))
    torch.testing.assert_close(actual, torch.stack(expected).mean())
    assert not module.in_batch_negatives
    logits = torch.zeros(3, 4)
    assert float(
        answer_loss(logits, torch.tensor([0, 1, 2]), torch.tensor([0, 0, 1]), 2)
    ) == pytest.approx(1.386294)


def test_glosses_are_single_words_and_a_twentieth_is_held_out(tmp_path):
    learnt, held = (
        worded_texts(config("instruct.source=glosses"), held_out=h) for h in (False, True)
    )
    assert len(held) / len(learnt) == pytest.approx(0.05, abs=0.01)
    assert not {g.text for g in held} & {g.text for g in learnt}
    assert all(word.isalpha() and word.islower() for g in held for word in g.words)
    keywords = worded_texts(config("instruct.source=keywords", "instruct.words=3"))
    assert all(len(set(g.words)) == 3 for g in keywords)
    assert all(
        word in g.text.lower() and word not in LEFT_OUT for g in keywords[:50] for word in g.words
    )
    own = tmp_path / "w.jsonl"
    own.write_text('{"text": "a small house", "words": ["cottage"]}\n')
    words = ["instruct.source=file", f"instruct.file={own}"]
    assert worded_texts(config(*words)) == [WordedText("a small house", ("cottage",))]
    with pytest.raises(UserError, match="belong together"):
        config("instruct.source=file")


def test_training_lowers_both_losses():
    """Supervised training of a tiny model on made-up questions, adapters alone."""
    cfg = config()
    module = module_of("method.temperature=0.1")
    trained = {n for n, p in module.named_parameters() if p.requires_grad}
    assert trained
    assert all("lora" in name for name in trained)
    names = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
    assert {part for part in names if any(part in name for name in trained)} == set(names)
    batch = GroupBatches(questions(cfg), module.encoder, cfg)[[(i, 0) for i in range(4)]]
    optimizer = torch.optim.AdamW([p for p in module.parameters() if p.requires_grad], lr=1e-2)
    curve = []
    for _ in range(12):
        optimizer.zero_grad()
        terms = module.losses(batch)
        terms["loss"].backward()
        optimizer.step()
        curve.append((float(terms["dense_loss"]), float(terms["sparse_loss"])))
    assert curve[-1][0] < 0.7 * curve[0][0]
    assert curve[-1][1] < 0.9 * curve[0][1]
    optimizer.zero_grad()
    module.losses(batch)["loss"].backward()
    assert all(
        p.grad is not None and bool(p.grad.any()) for p in module.parameters() if p.requires_grad
    )


def test_adapters_of_a_16_bit_model_keep_small_steps():
    """Their weights are float32, as are those that the release's optimiser changes."""
    cfg = config("model.weights=bfloat16", "instruct.steps=0")
    module = PromptReps(cfg, build_encoder(cfg.model), lora=True)
    kinds = {p.requires_grad: p.dtype for p in module.parameters()}
    assert kinds == {True: torch.float32, False: torch.bfloat16}
    inputs = GroupBatches(questions(cfg), module.encoder, cfg)[[(0, 0)]]["query"]
    weight = next(p for n, p in module.named_parameters() if "lora_B" in n)
    with torch.no_grad():
        assert all(bool(x.isfinite().all()) for x in module._masked(inputs))
        weight.fill_(0.5)
    weight.grad = torch.ones_like(weight)
    torch.optim.AdamW([weight], lr=1e-5, weight_decay=0.0).step()
    assert bool((weight != 0.5).any())


@pytest.mark.parametrize(
    "row",
    [
        '{"text": "a house", "words": "home"}',
        '{"text": 3, "words": ["home"]}',
        '{"text": "a house", "words": ["home", 4]}',
        '{"text": "a house", "words": [" "]}',
    ],
)
def test_a_file_of_words_of_another_form_is_refused(tmp_path, row):
    """A text in the place of the list would be learnt letter by letter."""
    own = tmp_path / "w.jsonl"
    own.write_text('{"text": "a hut", "words": []}\n' + row + "\n")
    with pytest.raises(UserError, match="row 2: 'text' must be a text and 'words' a list"):
        worded_texts(config("instruct.source=file", f"instruct.file={own}"))


def spaced_ids(tokenizer, texts):
    """A tokenizer that tells a word behind a space from one without."""
    return [[7 if text.startswith(" ") else 8] for text in texts]


def test_words_are_guessed_as_they_were_learnt(monkeypatch):
    """Behind a bare text with a space before them."""
    monkeypatch.setattr("projects.promptreps.data.plain_ids", spaced_ids)
    for framed, expected in ((True, 8), (False, 7)):
        own = variant(encoder_of(), PromptConfig(framed=framed))
        assert first_tokens(own, ["men", "work"]) == [expected, expected]
        batch = AnswerBatches([WordedText("at sea", ("men", "work"))], own, 0)[[(0, 0)]]
        assert batch["first"].tolist() == [[expected, expected]]
        assert int(batch["labels"][batch["labels"] >= 0][0]) == expected


def test_the_probe_asks_behind_a_bare_text_for_what_stands_there(monkeypatch):
    """And only for words of texts that were held out."""
    cfg = config("eval.probe=5", "instruct.source=glosses", "model.prompt.framed=false")
    encoder = variant(encoder_of(), PromptConfig(framed=False))
    text = WordedText("men at work", ("house",))
    texts = lambda cfg, *, held_out=False: [text] if held_out else []  # noqa: E731
    monkeypatch.setattr("projects.promptreps.evaluate.worded_texts", texts)
    monkeypatch.setattr("projects.promptreps.data.plain_ids", spaced_ids)
    sure = F.one_hot(torch.tensor([7]), encoder.lm.vocab_size).float()
    monkeypatch.setattr(encoder.lm, "logits", lambda states: sure)
    assert word_probe(cfg, encoder) == {"word_accuracy": 1.0}
    with pytest.raises(UserError, match="held-out texts"):
        config("eval.probe=5")
