"""Loss and pooler: golden values, the frozen entries, nothing added to the logits."""

import math
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import AutoModelForMaskedLM

from common.encoders.text.mlm_head import word_prediction
from common.encoders.text.sentence import sentence_encoder
from common.engine.module import ContrastiveModule
from common.kernels.blocked import sweep as blocked
from common.losses.auxiliary.prototypes import prototype_softmax
from projects.defsent_plus.objective import definition_loss
from projects.defsent_plus.pooler import Pooler
from tests.projects.defsent_plus.conftest import DEFSENT, ROBERTA, batch, config, module_of
from tests.unit.losses.golden import assert_close, grad_norm, load

CASES = load("defsent_plus")["loss_cases"]


def golden_inputs(case: dict) -> tuple[Tensor, Tensor, Tensor]:
    b, d, n = case["B"], case["d"], case["entries"]
    rows, columns = torch.arange(b).double()[:, None], torch.arange(d).double()
    h = torch.tanh(torch.sin(rows * d + columns + 1)).requires_grad_()
    e = torch.arange(n).double()[:, None]
    return h, torch.cos(0.7 * e * d + 1.3 * columns), (3 * torch.arange(b) + 1) % n


@pytest.mark.parametrize("backend", ["auto", "dense", "blocked"])
@pytest.mark.parametrize("case", CASES)
def test_item_11_loss_is_the_recorded_one(case, backend):
    """Checklist 11: value and gradient of the released formula, in float64."""
    h, entries, labels = golden_inputs(case)
    out = definition_loss(h, entries, labels, backend)
    out.loss.backward()
    expected = case["outputs"]
    assert_close(out.loss, expected["loss"])
    assert_close(grad_norm(h), expected["grad_norm_h"])
    assert_close(h.grad[0], expected["grad_row0"])
    assert_close(out.per_sample.mean(), expected["loss"])
    assert out.hits.tolist() == (h @ entries.T).argmax(1).eq(labels).tolist()


def test_item_1_no_gradient_reaches_the_entries_and_no_bias_or_norm_the_logits():
    """Checklist 1: frozen; L depends on the length of h and shifts with nothing else."""
    h, entries, labels = golden_inputs(CASES[0])
    entries.requires_grad_()
    loss = definition_loss(h, entries, labels).loss
    loss.backward()
    assert entries.grad is None
    assert_close(loss, F.cross_entropy(h @ entries.T, labels))
    assert abs(float(definition_loss(2 * h, entries, labels).loss - loss)) > 1e-2
    unit = F.cross_entropy(F.normalize(h, dim=1) @ F.normalize(entries, dim=1).T, labels)
    assert abs(float(unit - loss)) > 1e-2


@pytest.mark.parametrize("scale", [1.0, 30.0])
def test_the_tiled_loss_equals_the_dense_one_on_long_vectors(scale):
    """Logits of many hundreds, as ICA entries have them; the gradient is formed in the forward."""
    generator = torch.Generator().manual_seed(0)
    h = torch.randn(6, 8, generator=generator).mul(scale).requires_grad_()
    entries = scale * torch.randn(3000, 8, generator=generator)
    labels = torch.arange(6) * 400
    actual = definition_loss(h, entries, labels, "blocked")
    (gradient,) = torch.autograd.grad(actual.loss, h)
    expected = F.cross_entropy(h.double() @ entries.double().T, labels)
    (by_hand,) = torch.autograd.grad(expected, h)
    assert_close(actual.loss, expected.item(), rel=1e-5)
    torch.testing.assert_close(gradient, by_hand.float(), rtol=1e-4, atol=1e-4)


def test_the_fused_softmax_over_classes_needs_one_sweep(monkeypatch):
    """Without margin the backward computes nothing; with one it sweeps again, to the same value."""
    h, entries, labels = golden_inputs(CASES[1])
    with_margin = prototype_softmax(h, entries, labels, 1.0, margin=1e-12, backend="blocked")
    (again,) = torch.autograd.grad(with_margin.loss, h)
    fused = prototype_softmax(h, entries, labels, 1.0, backend="blocked")

    def refuse(*_):
        raise AssertionError("a second sweep")

    monkeypatch.setattr(blocked, "backward", refuse)
    (gradient,) = torch.autograd.grad(fused.loss, h)
    torch.testing.assert_close(gradient, again)
    assert_close(fused.loss, with_margin.loss.item(), rel=1e-9)


# -- pooler --------------------------------------------------------------------------------------


def roberta(tmp_path: Path) -> Path:
    """A RoBERTa checkpoint with its language-model head."""
    encoder = sentence_encoder(
        "random", "avg", config=config(f"model.config={ROBERTA}").model.config
    )
    torch.manual_seed(3)
    AutoModelForMaskedLM.from_config(encoder.tower.model.config).save_pretrained(tmp_path)
    encoder.tokenizer.save_pretrained(tmp_path)
    return tmp_path


def test_item_7_roberta_takes_the_dense_layer_of_its_head_with_gelu(tmp_path):
    """Checklist 7: weights of lm_head.dense, GELU, without its layer norm; trainable."""
    place = roberta(tmp_path / "model")
    module = module_of(f"model.pretrained={place}", "model.config=null", folder=tmp_path)
    full = AutoModelForMaskedLM.from_pretrained(place)
    assert torch.equal(module.pooler.dense.weight, full.lm_head.dense.weight)
    x = torch.randn(5, 32)
    expected = F.gelu(full.lm_head.dense(x))
    torch.testing.assert_close(module.pooler(x), expected)
    assert not torch.allclose(module.pooler(x), torch.tanh(full.lm_head.dense(x)), atol=1e-2)
    assert all(p.requires_grad for p in module.pooler.parameters())


def test_item_7_bert_keeps_its_own_pooler_with_tanh(tmp_path):
    """Checklist 7: the checkpoint's pooler; one without says what to set instead."""
    from transformers import BertConfig, BertForMaskedLM, BertModel

    from common.config import UserError

    options = {k: v for k, v in config().model.config.items() if k != "model_type"}
    torch.manual_seed(1)
    model, tokenizer = BertModel(BertConfig(**options)), module_tokenizer()
    model.save_pretrained(tmp_path / "own")
    tokenizer.save_pretrained(tmp_path / "own")
    words = (f"model.pretrained={tmp_path / 'own'}", "model.config=null")
    module = module_of(*words, folder=tmp_path)
    x = torch.randn(5, 32)
    torch.testing.assert_close(module.pooler(x), torch.tanh(model.pooler.dense(x)))
    BertForMaskedLM(BertConfig(**options)).save_pretrained(tmp_path / "none")
    tokenizer.save_pretrained(tmp_path / "none")
    words = (f"model.pretrained={tmp_path / 'none'}", "model.config=null")
    with pytest.raises(UserError, match=r"pooler\.source=lm_head"):
        module_of(*words, folder=tmp_path)
    module_of(*words, "pooler.source=lm_head", folder=tmp_path)
    words = (f"model.pretrained={tmp_path / 'own'}", "model.config=null", "pooler.source=lm_head")
    with pytest.raises(UserError, match=r"pooler\.lm_head"):
        module_of(*words, folder=tmp_path)
    other = module_of(*words, f"pooler.lm_head={tmp_path / 'none'}", folder=tmp_path)
    assert torch.equal(
        other.pooler.dense.weight, word_prediction(str(tmp_path / "none")).dense.weight
    )


def module_tokenizer():
    """The built-in tokenizer."""
    return sentence_encoder("random", "avg", config=config().model.config).tokenizer


def test_item_8_pooler_acts_in_training_and_not_in_inference(tmp_path):
    """Checklist 8: other pooler weights change the loss and no embedding."""
    module, texts = module_of("model.dropout=0.0", folder=tmp_path), ["a cat", "two dogs run"]
    inputs = batch()
    loss, before = module.losses(inputs)["loss"], module.encoder.encode(texts)
    with torch.no_grad():
        module.pooler.dense.weight.mul_(-2)
    assert abs(float(module.losses(inputs)["loss"] - loss)) > 1e-3
    assert torch.equal(module.encoder.encode(texts), before)
    states = module.encoder.eval().tower.model(**module.encoder.tokenize(texts[:1]))
    torch.testing.assert_close(before[:1], states.last_hidden_state.detach().mean(1))


@pytest.mark.parametrize(("pool", "kind"), [("cls", "first"), ("mean", "mean"), ("max", "max")])
def test_item_9_training_pools_over_real_tokens(pool, kind, tmp_path):
    """Checklist 9: padding, whatever it holds, has no part in h; specials have."""
    module = module_of(f"train.pool={pool}", folder=tmp_path).eval()
    inputs = batch(2, 7)
    ids, mask = inputs["input_ids"], inputs["attention_mask"]
    states = module.encoder.tower.model(input_ids=ids, attention_mask=mask).last_hidden_state
    rows = [row[: int(n)] for row, n in zip(states, mask.sum(1), strict=True)]
    expected = {
        "first": [r[0] for r in rows],
        "mean": [r.mean(0) for r in rows],
        "max": [r.amax(0) for r in rows],
    }
    h = module.hidden(ids, mask)
    torch.testing.assert_close(h, torch.tanh(module.pooler.dense(torch.stack(expected[kind]))))
    wide = F.pad(ids, (0, 5), value=7), F.pad(mask, (0, 5))
    torch.testing.assert_close(module.hidden(*wide), h, rtol=1e-4, atol=1e-5)


def test_item_1_entries_stay_as_they_are(tmp_path):
    """Checklist 1: no parameter, not in the optimiser, unchanged by steps that move the rest."""
    module = module_of(folder=tmp_path)
    names = {name for name, _ in module.named_parameters()}
    assert "entries" not in names
    assert "entries" in module.state_dict()
    grouped = {id(p) for group in module.parameter_groups() for p in group["params"]}
    assert grouped == {id(p) for p in module.parameters()}
    entries, dense = module.entries.clone(), module.pooler.dense.weight.detach().clone()
    optimizer = torch.optim.AdamW(module.parameter_groups(), lr=1e-2)
    terms = module.losses(batch())
    terms["loss"].backward()
    optimizer.step()
    assert torch.equal(module.entries, entries)
    assert not torch.equal(module.pooler.dense.weight, dense)
    assert float(terms["entry_mean_cosine"]) == pytest.approx(float(module.isotropy[0, 0]))
    still = {n for n, p in module.named_parameters() if p.grad is None or not p.grad.abs().sum()}
    assert not {n for n in still if "token_type" not in n}


# -- DefSent -------------------------------------------------------------------------------------


def test_item_15_defsent_is_the_frozen_word_prediction_layer(tmp_path):
    """Checklist 15: transform, decoder and bias of the checkpoint, all frozen; pieces as labels."""
    module = module_of(*DEFSENT, "model.dropout=0.0", folder=tmp_path)
    torch.manual_seed(module_seed := config().seed)
    head = word_prediction("random", config=config().model.config)
    inputs = batch(words=200)
    h = module.definitions(inputs["input_ids"], inputs["attention_mask"])
    logits = F.linear(head.norm(F.gelu(head.dense(h))), head.weight, head.bias)
    actual = module.losses(inputs)
    assert module_seed == 0
    assert_close(actual["loss"], F.cross_entropy(logits, inputs["labels"]).item(), rel=1e-5)
    actual["loss"].backward()
    assert all(p.grad is None for p in module.pooler.parameters())
    assert module.entries.shape == (256, 33)
    with torch.no_grad():
        module.entries[:, -1] += torch.arange(256) / 10.0
    assert abs(float(module.losses(inputs)["loss"] - actual["loss"])) > 1e-2


def test_item_15_defsent_can_freeze_the_embedding_layer(tmp_path):
    """As released: words, positions and their layer norm stay; the layers above are trained."""
    words = (*DEFSENT, "train.freeze_embeddings=true")
    module = module_of(*words, folder=tmp_path)
    module.losses(batch(words=200))["loss"].backward()
    embeddings = list(module.encoder.tower.model.embeddings.parameters())
    assert len(embeddings) == 5
    assert all(p.grad is None for p in embeddings)
    trained = {id(p) for group in module.parameter_groups() for p in group["params"]}
    assert not trained & {id(p) for p in embeddings}
    layers = list(module.encoder.tower.model.encoder.parameters())
    assert trained == {id(p) for p in layers}
    assert all(p.grad is not None for p in layers)
    free = module_of(*DEFSENT, folder=tmp_path)
    assert all(p.requires_grad for p in free.encoder.parameters())


def test_item_15_the_bias_of_the_decoder_counts():
    """Checklist 15: the last column of the matrix is the bias."""
    pooler = Pooler(4, "gelu", norm=1e-12)
    assert isinstance(pooler.norm, nn.LayerNorm)
    h = pooler(torch.randn(3, 4))
    assert h.shape == (3, 5)
    assert h[:, -1].tolist() == [1.0] * 3
    torch.testing.assert_close(h[:, :4].mean(1), torch.zeros(3), atol=1e-6, rtol=0)


def test_objective_needs_no_batch_negatives():
    """Every definition meets all entries, however small the batch: accumulation changes nothing."""
    module = module_of()
    assert isinstance(module, ContrastiveModule)
    assert not module.in_batch_negatives
    assert module.negatives_per_query(8) == len(module.names) - 1
    uniform = definition_loss(torch.zeros(1, 3), torch.randn(50, 3), torch.tensor([7])).loss
    assert float(uniform) == pytest.approx(math.log(50))
