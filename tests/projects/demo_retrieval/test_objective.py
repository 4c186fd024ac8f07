"""Equations, decoding and the frozen retriever: golden values and properties, items 1-3, 6, 9,
10."""

import math
from types import SimpleNamespace

import pytest
import torch
from torch.nn import functional as F
from transformers import AutoModelForSeq2SeqLM

from common.encoders.modes import evaluation_mode
from common.encoders.state_dict import weights_digest
from projects.demo_retrieval.batches import EvalRows
from projects.demo_retrieval.config import GeneratorConfig, RetrieverConfig
from projects.demo_retrieval.decode import generate, generate_sequence, label_log_likelihoods
from projects.demo_retrieval.network import build_generator
from projects.demo_retrieval.objective import (
    IGNORED,
    demonstration_log_probs,
    next_targets,
    rag_sequence_nll,
    rag_token_nll,
    token_log_probs,
)
from projects.demo_retrieval.question_answering import (
    answer_exact,
    answer_f1,
    best_answer,
    normalize_answer,
)
from projects.demo_retrieval.retriever import build_retriever
from projects.demo_retrieval.stages import demonstrations_of, rows_of
from projects.demo_retrieval.template import Example, parse_answer
from tests.projects.demo_retrieval.conftest import GOLDEN, fill, module_of


def golden_case(case):
    b, k, length, v = case["B"], case["K"], case["target_length"], case["vocab"]
    return 2 * fill((b * k, length, v), 0.4), fill((b, k), 1.3), torch.tensor(case["targets"])


@pytest.mark.parametrize("case", GOLDEN["outputs"]["rag_token_nll"])
def test_item_2_the_mixture_nll_equals_the_golden_values(case):
    """Checklist 2: value and gradient of the scores, as transformers' RAG computes them."""
    logits, scores, targets = golden_case(case)
    scores.requires_grad_()
    nll = rag_token_nll(logits, scores, next_targets(targets, 0))
    assert nll.tolist() == pytest.approx(case["nll"], rel=1e-5)
    nll.sum().backward()
    assert float(scores.grad.norm()) == pytest.approx(case["grad_norm_doc_scores"], rel=1e-4)


def test_item_2_one_demonstration_is_plain_cross_entropy():
    """Checklist 2: K = 1, in both couplings; with K = 2 they differ."""
    logits, labels = fill((2, 4, 9), 0.2), torch.tensor([[1, 2, 3, 4], [5, 6, IGNORED, IGNORED]])
    plain = F.cross_entropy(logits.transpose(1, 2), labels, reduction="none").sum(1)
    for nll in (rag_token_nll, rag_sequence_nll):
        torch.testing.assert_close(nll(logits, fill((2, 1), 3.0), labels), plain)
    two, scores = 3 * fill((4, 4, 9), 0.2), fill((2, 2), 1.0)
    assert not torch.allclose(
        rag_token_nll(two, scores, labels), rag_sequence_nll(two, scores, labels)
    )


def test_rag_sequence_by_hand():
    """Two copies with p = 1/2 and 1/4 of two tokens: log-mean of products."""
    logp = torch.tensor([[math.log(0.5), math.log(0.5)], [math.log(0.25), math.log(0.75)]])
    logits = torch.stack([logp[:1].expand(2, -1), logp[1:].expand(2, -1)])
    actual = rag_sequence_nll(logits, torch.zeros(1, 2), torch.tensor([[0, 0]]))
    assert float(actual) == pytest.approx(-math.log((0.25 + 0.0625) / 2))


def test_item_3_weights_sum_to_one_over_the_k_items():
    """Checklist 3: a softmax of each row's K scores, whatever the other rows hold."""
    scores = 4 * fill((3, 5), 0.7)
    weights = demonstration_log_probs(scores).exp()
    torch.testing.assert_close(weights.sum(1), torch.ones(3))
    torch.testing.assert_close(demonstration_log_probs(scores[:1]).exp(), weights[:1])
    torch.testing.assert_close(weights[0, 0] / weights[0, 1], (scores[0, 0] - scores[0, 1]).exp())
    torch.testing.assert_close(demonstration_log_probs(scores + 9).exp(), weights)


def test_item_6_the_order_of_demonstrations_does_not_matter():
    """Checklist 6."""
    logits, scores = 2 * fill((6, 4, 9), 0.3), fill((2, 3), 1.0)
    labels, order = torch.tensor([[1, 2, 3, 4], [5, 6, 7, IGNORED]]), torch.tensor([2, 0, 1])
    moved = logits.view(2, 3, 4, 9)[:, order].reshape(6, 4, 9)
    for nll in (rag_token_nll, rag_sequence_nll):
        value = nll(logits, scores, labels)
        torch.testing.assert_close(nll(moved, scores[:, order], labels), value)
        assert not torch.allclose(nll(moved, scores, labels), value)


def test_item_9_pads_count_nothing_and_the_shift_is_done_once():
    """Checklist 9: logits at pads change no loss; teacher forcing equals the library's own for
    labels.
    """
    logits, scores = 2 * fill((4, 3, 9), 0.3), fill((2, 2), 1.0)
    labels = torch.tensor([[1, 2, 3], [5, IGNORED, IGNORED]])
    value = rag_token_nll(logits, scores, labels)
    changed = logits.clone()
    changed[2:, 1:] *= -7
    torch.testing.assert_close(rag_token_nll(changed, scores, labels), value)
    torch.testing.assert_close(rag_token_nll(logits[2:, :1], scores[1:], labels[1:, :1]), value[1:])
    assert float(token_log_probs(logits, labels)[1, :, 1:].abs().sum()) == 0
    with pytest.raises(ValueError, match="not K copies"):
        token_log_probs(logits[:3], labels)

    module, tasks = module_of("method.selection=none")
    batch = rows_of(module.cfg, module, tasks.targets, 4)[[(i, 0) for i in range(4)]]
    with evaluation_mode(module):
        own = module.losses(batch)["loss"]
        theirs = module.network(
            input_ids=batch["input_ids"],
            attention_mask=batch["attention_mask"],
            labels=batch["labels"],
        )
    torch.testing.assert_close(own, theirs.loss)


def copies_of_two_questions():
    """A trained-looking module and a batch of two questions with three demonstrations each."""
    module, tasks = module_of("method.k=3")
    with torch.no_grad():
        for p in module.network.parameters():
            p.mul_(6)
    rows = rows_of(module.cfg, module, tasks.targets, 4)
    return module.eval(), rows[[(0, 0), (7, 0)]]


@pytest.mark.parametrize("beams", [1, 3])
def test_item_10_probabilities_are_mixed_at_every_step(beams):
    """Checklist 10: greedy tokens are the arg-max of the mixture over a shared prefix; not those of
    a single copy.
    """
    module, batch = copies_of_two_questions()
    scores, steps = 0.1 * fill((2, 3), 1.0), 6
    common = {"start": module.start, "end": module.encoder.end, "pad": 0, "max_new_tokens": steps}
    out = generate(
        module.network,
        batch["input_ids"],
        batch["attention_mask"],
        scores,
        num_beams=beams,
        **common,
    )
    prior, prefix = demonstration_log_probs(scores), torch.full((2, 1), module.start)
    total, alone = torch.zeros(2), torch.zeros(2)
    with torch.no_grad():
        for i in range(out.shape[1]):
            logits = module.network(
                input_ids=batch["input_ids"],
                attention_mask=batch["attention_mask"],
                decoder_input_ids=prefix.repeat_interleave(3, 0),
            ).logits[:, -1]
            mixed = torch.logsumexp(prior[:, :, None] + logits.log_softmax(-1).view(2, 3, -1), 1)
            if beams == 1:
                assert torch.equal(mixed.argmax(1), out[:, i])
            total += mixed.gather(1, out[:, i : i + 1])[:, 0]
            prefix = torch.cat([prefix, out[:, i : i + 1]], 1)
    single = generate(
        module.network,
        batch["input_ids"][::3],
        batch["attention_mask"][::3],
        scores[:, :1],
        num_beams=beams,
        **common,
    )
    assert single.shape[0] == 2
    assert not torch.equal(single, out)
    greedy = generate(module.network, batch["input_ids"], batch["attention_mask"], scores, **common)
    labels = torch.where(greedy == 0, IGNORED, greedy)
    first = torch.full((2, 1), module.start)
    inputs = torch.cat([first, greedy[:, :-1]], 1).repeat_interleave(3, 0)
    with torch.no_grad():
        logits = module.network(
            input_ids=batch["input_ids"],
            attention_mask=batch["attention_mask"],
            decoder_input_ids=inputs,
        ).logits
    alone = -rag_token_nll(logits, scores, labels)
    if beams > 1 and out.shape == greedy.shape:  # no early end: beams are at least as likely
        assert bool((total >= alone - 1e-3).all())


def test_item_10_defaults_of_the_weights_change_no_answer(tmp_path):
    """Checklist 10, 11: a folder whose generation defaults ban repetition and force ids is decoded
    without them.
    """
    module, batch = copies_of_two_questions()
    common = {"start": module.start, "end": module.encoder.end, "pad": 0, "max_new_tokens": 6}
    inputs = (batch["input_ids"], batch["attention_mask"], batch["scores"])
    want = generate(module.network, *inputs, **common)
    assert len(set(want[0].tolist())) < want.shape[1]  # it repeats tokens
    kept = module.network.generation_config
    for name, value in (
        ("no_repeat_ngram_size", 1),
        ("forced_bos_token_id", 7),
        ("forced_eos_token_id", 9),
        ("length_penalty", 2.0),
        ("min_new_tokens", 6),
        ("num_beams", 3),
        ("early_stopping", True),
    ):
        setattr(kept, name, value)
    assert not torch.equal(generate(module.network, *inputs, **common), want)
    module.network.save_pretrained(tmp_path)
    module.tokenizer.save_pretrained(tmp_path)
    again = build_generator(GeneratorConfig(pretrained=str(tmp_path)))[0].eval()
    assert again.generation_config.decoder_start_token_id == kept.decoder_start_token_id
    assert torch.equal(generate(again, *inputs, **common), want)


def test_rag_sequence_generates_the_text_of_largest_mixed_likelihood():
    """Each copy writes a text, and sum_k p_eta prod_i p_theta of all copies chooses among them."""
    module, batch = copies_of_two_questions()
    scores = fill((2, 3), 1.0)
    common = {"start": module.start, "end": module.encoder.end, "pad": 0, "max_new_tokens": 5}
    ids, mask = batch["input_ids"], batch["attention_mask"]
    actual = generate_sequence(module.network, ids, mask, scores, **common)
    for row in range(2):
        rows, values = slice(3 * row, 3 * row + 3), []
        for k in range(3 * row, 3 * row + 3):
            text = generate(
                module.network, ids[k : k + 1], mask[k : k + 1], torch.zeros(1, 1), **common
            )
            end = (
                text[0].tolist().index(module.encoder.end) + 1
                if module.encoder.end in text[0]
                else text.shape[1]
            )
            text = text[:, :end]
            inputs = torch.cat([torch.full((1, 1), module.start), text[:, :-1]], 1).expand(3, -1)
            with torch.no_grad():
                logits = module.network(
                    input_ids=ids[rows], attention_mask=mask[rows], decoder_input_ids=inputs
                ).logits
            values.append((float(rag_sequence_nll(logits, scores[row : row + 1], text)), text[0]))
        best = min(values, key=lambda pair: pair[0])[1]
        assert torch.equal(actual[row, : len(best)], best)
    module.cfg.method.coupling = "sequence"
    examples = [Example("t", "what is there?")] * 2
    assert module.answers({**batch, "examples": examples}) == ["", ""]  # it wrote no "answer:"


def test_a_copy_that_reads_the_question_well_has_more_say_in_rag_sequence():
    """By hand: equal priors, the question's likelihood .9 and .1, label a .2 and .8, label b .6 and
    .15.
    """
    tables = torch.tensor(
        [
            [[0.9, 0.05, 0.03, 0.02], [0.1, 0.2, 0.6, 0.1]],
            [[0.1, 0.3, 0.3, 0.3], [0.02, 0.8, 0.15, 0.03]],
        ]
    )

    class Copies:
        def get_encoder(self):
            return lambda **_: (torch.zeros(2, 1, 1),)

        def __call__(self, **_):
            return SimpleNamespace(logits=tables.log())

    ids = torch.ones(2, 1, dtype=torch.long)
    for sequence, want in ((True, [0.26, 0.555]), (False, [0.5, 0.375])):
        actual = label_log_likelihoods(
            Copies(), ids, ids, torch.zeros(1, 2), [0], [[1], [2]], start=3, sequence=sequence
        )
        assert actual.exp()[0].tolist() == pytest.approx(want)


@pytest.mark.parametrize("coupling", ["token", "sequence"])
def test_labels_are_ranked_by_the_likelihood_of_the_mixture(coupling):
    """Likelihoods of candidates equal those of whole targets, but for the repeated question's
    share.
    """
    module, batch = copies_of_two_questions()
    module.cfg.method.coupling = coupling
    examples = [Example("t", "what is there?"), Example("t", "is it true, or not?")]
    batch = {**batch, "examples": examples}
    labels = ("yes", "no more")
    actual = module.ranked(batch, labels)
    for c, label in enumerate(labels):
        for row, example in enumerate(examples):
            own = module.encoder
            head = own.target_head(example)
            gold = torch.tensor([[*head, *own.ids(f" {label}"), own.end]])
            inputs = torch.cat([torch.tensor([[module.start]]), gold[:, :-1]], 1).repeat(3, 1)
            with torch.no_grad():
                logits = module.network(
                    input_ids=batch["input_ids"][3 * row : 3 * row + 3],
                    attention_mask=batch["attention_mask"][3 * row : 3 * row + 3],
                    decoder_input_ids=inputs,
                ).logits
            scores, asked = batch["scores"][row : row + 1], gold.clone()
            asked[:, len(head) :] = IGNORED
            nll = rag_token_nll if coupling == "token" else rag_sequence_nll
            want = nll(logits, scores, asked) - nll(logits, scores, gold)
            torch.testing.assert_close(actual[row, c], want[0], atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("case", GOLDEN["outputs"]["answer_metrics"])
def test_item_11_scores_equal_the_golden_values(case):
    """Checklist 11: F1 and exact match."""
    assert answer_f1(case["pred"], case["gold"]) == pytest.approx(case["f1"])
    assert answer_exact(case["pred"], case["gold"]) == case["em"]


def test_item_11_scores_equal_another_implementation_and_answers_are_parsed():
    """Checklist 11: torchmetrics' SQuAD scores over several golds; what is after 'answer:' and
    before 'context'.
    """
    from torchmetrics.functional.text import squad

    pairs = [
        ("The cat, sat.", ["a cat", "sat"]),
        ("an apple a day", ["apple"]),
        ("x", ["y"]),
        ("It's 3.5%", ["its 35", "4"]),
    ]
    for text, golds in pairs:
        answers = {"answer_start": [0] * len(golds), "text": golds}
        want = squad([{"prediction_text": text, "id": "0"}], [{"answers": answers, "id": "0"}])
        assert 100 * best_answer(answer_f1, text, golds) == pytest.approx(float(want["f1"]))
        assert 100 * best_answer(answer_exact, text, golds) == float(want["exact_match"])
    assert normalize_answer("An  Apple!") == "apple"
    assert best_answer(answer_f1, "x", []) == 0
    assert parse_answer("question: who? \n answer: Ann Lee") == "Ann Lee"
    assert parse_answer("question : who ? answer : ann context : b") == "ann"
    assert parse_answer("ann") == parse_answer("answer:") == ""


# -- the module ----------------------------------------------------------------------------------


def test_item_1_the_retriever_stays_as_it_is(tmp_path):
    """Checklist 1: DPR's two encoders get no gradient, are no part of the module and keep every
    bit.
    """
    from transformers import BertConfig, DPRConfig, DPRContextEncoder, DPRQuestionEncoder

    from common.encoders.text.tiny_tokenizer import tiny_tokenizer

    size = {
        "vocab_size": 700,
        "hidden_size": 16,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "intermediate_size": 16,
    }
    for name, kind in (("q", DPRQuestionEncoder), ("d", DPRContextEncoder)):
        kind(DPRConfig(**size)).save_pretrained(tmp_path / name)
        tiny_tokenizer(700).save_pretrained(tmp_path / name)
    assert BertConfig is not None
    module, tasks = module_of(
        "retriever.kind=dpr",
        f"retriever.question={tmp_path}/q",
        f"retriever.context={tmp_path}/d",
        "retriever.scale=1",
    )
    retriever = module.bank.retriever
    encoders = (retriever.question, retriever.context)
    before = [weights_digest(e) for e in encoders]
    assert before[0] != before[1]
    batch = rows_of(module.cfg, module, tasks.targets, 4)[[(i, 0) for i in range(4)]]
    optimizer = torch.optim.SGD(module.parameters(), lr=0.1)
    module.losses(batch)["loss"].backward()
    optimizer.step()
    assert [weights_digest(e) for e in encoders] == before
    own = {id(p) for p in module.parameters()}
    for encoder in encoders:
        assert not encoder.training
        for p in encoder.parameters():
            assert p.grad is None and not p.requires_grad and id(p) not in own  # noqa: PT018
    assert not any("retriever" in name or "question." in name for name in module.state_dict())
    assert not batch["scores"].requires_grad
    # vectors are the first token's state, and both sides differ
    text = ["a cat"]
    ids = retriever.tokenizers[0](text, return_tensors="pt")
    with torch.no_grad():
        want = retriever.question.model(
            **{k: ids[k] for k in ("input_ids", "attention_mask")}
        ).pooler_output
    torch.testing.assert_close(retriever.questions(text), want)
    assert not torch.allclose(retriever.demonstrations(text), want)


def tiny_bert(folder):
    """Weights of a small encoder in a folder; its tokenizer."""
    from transformers import BertConfig, BertModel

    from common.encoders.text.tiny_tokenizer import tiny_tokenizer

    size = {
        "vocab_size": 700,
        "hidden_size": 16,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "intermediate_size": 16,
    }
    BertModel(BertConfig(**size)).save_pretrained(folder)
    tokenizer = tiny_tokenizer(700)
    tokenizer.save_pretrained(folder)
    return tokenizer


def test_texts_of_similar_length_are_encoded_together_and_keep_their_order(tmp_path):
    """They were padded to whatever stood next to them."""
    tiny_bert(tmp_path)
    retriever = build_retriever(RetrieverConfig(kind="dense", question=str(tmp_path)), list)
    texts = ["a cat", "a dog and a very long text about it " * 3] * 64
    cells = []
    retriever.question.register_forward_pre_hook(lambda _, args: cells.append(args[0].shape))
    vectors = retriever.questions(texts)
    assert len(cells) == 2
    assert cells[1][1] < cells[0][1] / 3  # the short ones without padding
    one_by_one = torch.cat([retriever.questions([text]) for text in texts[:2]])
    torch.testing.assert_close(vectors, one_by_one.repeat(64, 1), rtol=1e-4, atol=1e-5)


def test_item_14_the_fingerprint_tells_kind_pooling_and_tokenizer(tmp_path):
    """Checklist 14: equal weights with another pooling or tokenizer have another index; use changes
    nothing.
    """
    tokenizer = tiny_bert(tmp_path)

    def built(**options):
        return build_retriever(
            RetrieverConfig(kind="dense", question=str(tmp_path), **options), list
        )

    own = built()
    first = own.fingerprint()
    own.questions(["a cat", "a very long text"])
    assert own.fingerprint() == built().fingerprint() == first
    assert built(pooling="cls_before_pooler").fingerprint() != first
    own.form = "dpr"
    assert own.fingerprint() != first
    from tokenizers import normalizers

    tokenizer.backend_tokenizer.normalizer = normalizers.BertNormalizer(lowercase=False)
    tokenizer.save_pretrained(tmp_path)
    assert built().fingerprint() != first


def test_the_retriever_keeps_to_the_accelerator_of_the_config(tmp_path, monkeypatch):
    """It went to the GPU with trainer.accelerator=cpu as well."""
    tiny_bert(tmp_path)
    words = ["retriever.kind=dense", f"retriever.question={tmp_path}"]
    stays, goes = (
        module_of(*words, f"trainer.accelerator={name}")[0].bank.retriever
        for name in ("cpu", "auto")
    )
    goes.question.cpu()

    def move(*_):
        raise RuntimeError("it is moved")

    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.nn.Module, "to", move)
    assert stays.questions(["a cat"]).shape == (1, 16)
    with pytest.raises(RuntimeError, match="it is moved"):
        goes.questions(["a cat"])


@pytest.mark.parametrize("coupling", ["token", "sequence"])
def test_the_loss_has_the_coupling_and_the_reduction_of_the_config(coupling):
    """Checklist 2: sum over tokens or sequences, of RAG-Token or RAG-Sequence."""
    nll = {"token": rag_token_nll, "sequence": rag_sequence_nll}[coupling]
    for reduction in ("tokens", "sequences"):
        module, tasks = module_of(f"method.coupling={coupling}", f"method.reduction={reduction}")
        batch = rows_of(module.cfg, module, tasks.targets, 4)[[(i, 0) for i in range(4)]]
        batch["scores"] = batch["scores"] + torch.tensor([0.0, 3.0])
        module.eval()
        total = nll(module.logits(batch), batch["scores"], batch["labels"]).sum()
        count = batch["labels"].ne(IGNORED).sum() if reduction == "tokens" else 4
        torch.testing.assert_close(module.losses(batch)["loss"], total / count)


@pytest.mark.parametrize(
    ("coupling", "name"), [("token", "generate"), ("sequence", "generate_sequence")]
)
def test_answers_are_searched_with_the_beams_of_the_config(coupling, name, monkeypatch):
    """`eval.num_beams` reaches the decoder."""
    seen = []
    monkeypatch.setattr(
        f"projects.demo_retrieval.module.{name}",
        lambda *a, **o: seen.append(o["num_beams"]) or torch.tensor([[0]]),
    )
    module, tasks = module_of("eval.num_beams=3", f"method.coupling={coupling}")
    rows = EvalRows(
        tasks.targets[0].test[:1], module.encoder, demonstrations_of(module.cfg, module.bank), 0
    )
    module.answers(rows.collate([0]))
    assert seen == [3]


def test_the_gradient_reaches_every_parameter_of_the_generator():
    module, tasks = module_of()
    batch = rows_of(module.cfg, module, tasks.targets, 4)[[(i, 0) for i in range(4)]]
    module.losses(batch)["loss"].backward()
    for name, p in module.named_parameters():
        assert p.grad is not None, name
        assert bool(p.grad.abs().sum() > 0), name


def test_a_batch_can_be_learned_by_heart():
    """Over-fitting one batch: start token and label alignment are right, generation repeats the
    targets.
    """
    module, tasks = module_of("eval.max_new_tokens=6")
    rows = rows_of(module.cfg, module, tasks.targets, 4)
    keys = [(i, 0) for i in range(4)]
    batch = rows[keys]
    optimizer = torch.optim.Adam(module.parameters(), lr=1e-2)
    for _ in range(80):
        optimizer.zero_grad()
        module.losses(batch)["loss"].backward()
        optimizer.step()
    examples = [rows.chosen(*key)[0] for key in keys]
    assert module.answers({**batch, "examples": examples}) == [e.answers[0] for e in examples]


def test_a_masked_language_model_gets_a_decoder(tmp_path):
    """Layers of the encoder's end, cross-attention as their self-attention; a folder of
    transformers.
    """
    module, _ = module_of(
        "model.encoder=bundled:text-encoder", "model.config=null", "model.decoder_layers=1"
    )
    encoder, decoder = module.network.encoder, module.network.decoder
    last, first = encoder.encoder.layer[-1], decoder.bert.encoder.layer[0]
    assert torch.equal(last.attention.self.query.weight, first.attention.self.query.weight)
    assert torch.equal(last.attention.self.key.weight, first.crossattention.self.key.weight)
    assert torch.equal(last.intermediate.dense.weight, first.intermediate.dense.weight)
    assert torch.equal(
        encoder.embeddings.word_embeddings.weight, decoder.cls.predictions.decoder.weight
    )
    module.network.save_pretrained(tmp_path)
    again = AutoModelForSeq2SeqLM.from_pretrained(tmp_path).eval()
    ids = torch.tensor([[2, 9, 3]])
    with evaluation_mode(module):
        a, b = (m(input_ids=ids, decoder_input_ids=ids).logits for m in (module.network, again))
    torch.testing.assert_close(a, b)
