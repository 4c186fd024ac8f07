"""Golden losses, and checklist items 2, 3, 12, 13 and 17 on the module."""

import copy

import pytest
import torch
from torch.nn import functional as F
from transformers import AutoModelForSequenceClassification

from common.config import UserError
from common.encoders.text.cross_encoder import cross_encoder
from projects.b_prop.data import attention_source
from projects.b_prop.objective import rop_loss
from projects.b_prop.stages import stages
from tests.projects.b_prop.conftest import (
    GOLDEN,
    QUICK,
    batch_of,
    config,
    module_of,
    scores_of,
)
from tests.projects.b_prop.workers import two_steps
from tests.unit.losses.golden import assert_close


@pytest.mark.parametrize("case", GOLDEN["outputs"]["rop_loss"], ids=lambda c: str(c["scale"]))
@pytest.mark.parametrize(
    ("norm", "loss", "grad"),
    [
        ("softmax", "loss_softmax_hinge_code", "grad_code"),
        ("raw", "loss_raw_hinge_paper", "grad_raw"),
    ],
)
def test_item_3_losses_equal_the_golden_values(case, norm, loss, grad):
    """Checklist 3: value and gradient of the released loss and of the paper's."""
    scores = scores_of(case["scale"]).detach().requires_grad_()
    actual = rop_loss(scores.reshape(4, 2), norm).loss
    actual.backward()
    assert_close(actual, case[loss])
    assert_close(scores.grad, case[grad])


def test_item_3_twin_reversed_pairs_miss_the_golden_value():
    """The comparison can fail: with the members swapped the loss is another."""
    case = GOLDEN["outputs"]["rop_loss"][1]
    actual = rop_loss(scores_of(3.0).reshape(4, 2).flip(1)).loss
    assert abs(float(actual) - case["loss_softmax_hinge_code"]) > 1e-3


def explicit(module, batch):
    """Both terms written out."""
    logits, states = module.ranker.with_states(**batch["pairs"])
    scores = logits[:, 0]
    p = torch.stack([scores[0::2], scores[1::2]], 1).softmax(1)
    rop = (2 * p[:, 1]).mean()
    chosen = batch["labels"] != -100
    mlm = F.cross_entropy(module.lm_head(states)[chosen], batch["labels"][chosen])
    return rop, mlm


def test_item_13_the_loss_is_the_plain_sum():
    """Checklist 13: weight 1 each; masked words of both members; even rows are the positives."""
    module = module_of().eval().double()
    batch = batch_of(4)
    rop, mlm = explicit(module, batch)
    actual = module.losses(batch)
    torch.testing.assert_close(actual["rop"], rop)
    torch.testing.assert_close(actual["mlm"], mlm)
    torch.testing.assert_close(actual["loss"], rop + mlm)
    assert (batch["labels"][0::2] != -100).any()
    assert (batch["labels"][1::2] != -100).any()
    alone = module_of("method.mlm=false").eval()
    terms = alone.losses(batch)
    assert torch.equal(terms["loss"], terms["rop"])
    assert alone.lm_head is None
    masked = module_of("method.rop=false").eval().double()
    terms = masked.losses(batch)
    torch.testing.assert_close(terms["loss"], terms["mlm"])
    with pytest.raises(UserError, match="both off"):
        config("method.rop=false", "method.mlm=false")


def test_gradient_reaches_every_parameter():
    """Head, pooler, encoder and the masked words' head, whose output matrix is the embedding."""
    module = module_of()
    module.losses(batch_of(4))["loss"].backward()
    lacking = [n for n, p in module.named_parameters() if p.grad is None or not p.grad.any()]
    assert not lacking
    table = module.ranker.encoder.get_input_embeddings().weight
    assert module.lm_head.predictions.decoder.weight is table


def test_item_17_the_bootstrap_is_real():
    """Checklist 17: attention and training start from equal weights; only the trained one moves."""
    cfg = config(*QUICK)
    torch.manual_seed(0)
    stage = next(stages(cfg))
    module = stage.module.train()
    _, frozen = attention_source(cfg, module.ranker)
    before = copy.deepcopy(frozen.state_dict())
    for name, value in module.ranker.encoder.state_dict().items():
        assert torch.equal(value, before[name]), name
    # what the documents hold is the attention of these weights, read before the first step
    data = stage.data.train_set
    from projects.b_prop.data import analyse

    row = data.documents[5]
    again = analyse(cfg, module.ranker, {row["id"]: row["text"]})[0]
    assert again["attention"] == pytest.approx(row["attention"], rel=1e-4)
    optimizer = torch.optim.SGD(module.parameters(), lr=1.0)
    module.losses(data[[(i, 0) for i in range(4)]])["loss"].backward()
    optimizer.step()
    trained = module.ranker.encoder.state_dict()
    assert not torch.equal(
        trained["encoder.layer.0.attention.self.query.weight"],
        before["encoder.layer.0.attention.self.query.weight"],
    )
    for name, value in frozen.state_dict().items():
        assert torch.equal(value, before[name]), name
    assert analyse(cfg, module.ranker, {row["id"]: row["text"]})[0]["attention"] != row["attention"]


def test_item_12_the_head_stays_when_the_checkpoint_becomes_a_ranker(tmp_path):
    """Checklist 12: transformers loads it as a one-label classifier; head=new drops the head."""
    from projects.b_prop import build

    module = module_of().eval()
    build(config()).export(module, tmp_path)
    loaded = AutoModelForSequenceClassification.from_pretrained(tmp_path).eval()
    assert loaded.config.num_labels == 1
    inputs = module.ranker.tokenize([("red fox", "the people of the world"), ("a", "b c")])
    with torch.no_grad():
        torch.testing.assert_close(loaded(**inputs).logits, module.ranker(**inputs))
    kept = cross_encoder(str(tmp_path), head="keep", max_length=64)
    assert torch.equal(kept.model.classifier.weight, module.ranker.model.classifier.weight)
    fresh = cross_encoder(str(tmp_path), head="new", max_length=64)
    assert not torch.equal(fresh.model.classifier.weight, kept.model.classifier.weight)
    for name, value in kept.encoder.state_dict().items():
        assert torch.equal(value, fresh.encoder.state_dict()[name]), name


def test_item_2_twin_a_mean_of_means_is_another_training(two_ranks):
    """The comparison above can fail: ranks hold different numbers of masked words."""
    whole = two_steps(False)
    actual = two_ranks.run(two_steps, distributed=True, local_mean=True)[0]
    assert abs(float(actual["losses"][0] - whole["losses"][0])) > 1e-6
