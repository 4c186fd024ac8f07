"""Pooling, pair head and losses: golden values of the official code, and what they consist of."""

import math

import pytest
import torch
from torch.nn import functional as F

from common.data.text.pairs.tasks import TASKS
from common.encoders.heads import PairHead, pair_features
from projects.dse.layer_pooling import pool_layers
from projects.dse.objective import Objective
from projects.dse.pair_classifier import binary_logit
from tests.projects.dse.conftest import GOLDEN, TEXTS, student

KINDS = {
    "BertSumConcatTopHiddenEmbeddingsPooler": "concat_top_mean",
    "BertSumMeanTopHiddenEmbeddingsPooler": "mean_top_mean",
}
MASK = torch.tensor([[1, 1, 1, 1, 1], [1, 1, 1, 0, 0], [1, 1, 1, 1, 0]])


def layers():
    """The recorded stack of layer outputs."""
    b, t, j = (torch.arange(n, dtype=torch.float64) for n in (3, 5, 4))
    b, t, j = b[:, None, None], t[:, None], j
    return [torch.sin(1 + n + 0.5 * b * t + 0.3 * j * t + 0.1 * j) for n in range(6)]


def vectors():
    """The recorded sentence vectors, with gradient."""
    b, j = torch.arange(5, dtype=torch.float64)[:, None], torch.arange(6, dtype=torch.float64)
    return torch.sin(6 * b + j + 1).requires_grad_(), torch.cos(6 * b + 0.5 * j).requires_grad_()


def golden_head(dims):
    """The recorded head."""
    head = PairHead(6, dims[:-1], dims[-1]).double()
    for k, layer in enumerate(head.layers):
        out, inner = layer.weight.shape
        i, c = torch.arange(out, dtype=torch.float64), torch.arange(inner, dtype=torch.float64)
        layer.weight.data = 0.3 * torch.cos(i[:, None] * inner + c + k)
        layer.bias.data = 0.1 * torch.sin(i + k)
    return head


def golden_labels(kind, classes):
    b = torch.arange(5)
    if kind == "multiclass":
        return b % classes
    return (
        (b % 2).double()[:, None] if kind == "binary" else torch.linspace(0, 5, 5).double()[:, None]
    )


@pytest.mark.parametrize(
    "case",
    GOLDEN["pooler_cases"],
    ids=lambda c: "{pooler}-{num_top}-{divide_by_sqrt}-{use_cls}".format(**c),
)
def test_golden_poolers(case):
    """Checklist 2: pooled vectors of the official code."""
    actual = pool_layers(
        layers(),
        MASK,
        KINDS[case["pooler"]],
        top_layers=case["num_top"],
        use_cls=case["use_cls"],
        sqrt_len=case["divide_by_sqrt"],
    )
    assert list(actual.shape) == case["shape"]
    assert actual[1].tolist() == pytest.approx(case["row1"], rel=1e-6)


@pytest.mark.parametrize("case", GOLDEN["head_cases"], ids=lambda c: f"{c['task']}-{c['alpha']}")
def test_golden_losses_and_gradients(case):
    """Checklist 11, and 3, 4, 6, 10 with it: logits, losses and gradients of the official code."""
    u, v = vectors()
    logits = golden_head(case["fc_dims"])(u, v)
    classes, want = case["fc_dims"][-1], case["outputs"]
    teacher = 2 * torch.sin(1.1 * torch.arange(5 * classes, dtype=torch.float64)).view(5, classes)
    labels = golden_labels(case["task"], classes)
    terms = Objective(case["task"], case["alpha"])(logits, labels, teacher)
    loss = terms["loss"] / case["grad_accumulation"]
    loss.backward()
    torch.testing.assert_close(logits, torch.tensor(want["y_pred"], dtype=torch.float64))
    for name, value in (
        ("task_loss", terms["task_loss"]),
        ("distillation_loss", terms["distillation_loss"]),
        ("loss_after_division", loss),
        ("grad_norm_u", u.grad.norm()),
        ("grad_norm_v", v.grad.norm()),
    ):
        assert float(value.detach()) == pytest.approx(want[name], rel=1e-6), name
    assert u.grad[0].tolist() == pytest.approx(want["grad_u_row0"], rel=1e-6)


def test_default_pooling_reads_every_token_but_the_first_and_no_padding():
    """Checklist 2: [CLS] out, [SEP] in, padding ignored, 4 d features of four layers."""
    states, mask = layers(), MASK
    assert pool_layers(states, mask).shape == (3, 16)
    before = pool_layers(states, mask)[1]
    for position, matters in ((0, False), (1, True), (2, True), (3, False)):  # 2 is [SEP] of row 1
        changed = [state.clone() for state in states]
        changed[-1][1, position] += 1
        assert (pool_layers(changed, mask)[1] != before).any() == matters
    actual = student("student.pool.top_layers=2").scorer.encoder
    assert actual.num_features == 2 * actual.tower.model.config.hidden_size


def test_a_sentence_of_one_token_is_pooled_over_it():
    """No division by zero where a tokenizer adds no [SEP]."""
    mask = torch.tensor([[1, 0, 0, 0, 0]] * 3)
    for kind in ("concat_top_mean", "mean_top_max"):
        assert torch.isfinite(pool_layers(layers(), mask, kind)).all()


def test_maximum_keeps_the_graph_and_leaves_its_input_alone():
    """Pitfall: the released maximum writes into its input."""
    states = [state.requires_grad_() for state in layers()]
    copies = [state.detach().clone() for state in states]
    actual = pool_layers(states, MASK, "concat_top_max", top_layers=2)
    want = torch.stack(
        [torch.cat([s[b, 1:n] for s in copies[-2:]], 1).amax(0) for b, n in enumerate(MASK.sum(1))]
    )
    torch.testing.assert_close(actual, want)
    actual.sum().backward()
    assert all(torch.equal(s, c) for s, c in zip(states, copies, strict=True))
    assert states[-1].grad.abs().sum() > 0


def test_order_of_the_pair_features():
    """Checklist 3: u, v, u * v, |u - v|."""
    u, v = torch.tensor([[1.0, 2.0]]), torch.tensor([[3.0, -1.0]])
    assert pair_features(u, v).tolist() == [[1, 2, 3, -1, 3, -2, 2, 3]]


def test_distillation_is_summed_over_classes_and_averaged_over_pairs():
    """Checklist 4: twice the classes, twice the loss; twice the pairs, the same."""
    logits, teacher = torch.ones(2, 3), torch.zeros(2, 3)
    objective = Objective("multiclass", 1.0)
    labels = torch.tensor([0, 1])
    assert float(objective(logits, labels, teacher)["loss"]) == 3.0
    doubled = objective(logits.repeat(2, 1), labels.repeat(2), teacher.repeat(2, 1))
    assert float(doubled["loss"]) == 3.0


def test_binary_teachers_become_one_logit():
    """Checklist 5: t_1 - t_0, whose sigmoid is the softmax's probability of class 1."""
    logits = torch.tensor([[0.3, 1.1], [2.0, -1.0]])
    actual = binary_logit(logits, TASKS["mrpc"])
    assert actual.shape == (2, 1)
    torch.testing.assert_close(actual.sigmoid()[:, 0], logits.softmax(1)[:, 1])
    labels = torch.tensor([[1.0], [0.0]])
    loss = Objective("binary", 0.0)(actual, labels)["loss"]
    torch.testing.assert_close(loss, F.cross_entropy(logits, torch.tensor([1, 0])))
    with pytest.raises(ValueError, match="do not fit"):  # (B,) would be broadcast to (B, B)
        Objective("binary", 0.0)(actual, labels[:, 0])
    with pytest.raises(ValueError, match="logits a pair"):
        binary_logit(torch.zeros(2, 3), TASKS["mrpc"])


@pytest.mark.parametrize("alpha", [0.0, 0.3, 1.0])
def test_alpha_is_a_convex_combination(alpha):
    """Checklist 6: at 0 no teacher is needed, at 1 labels move nothing."""
    logits = torch.tensor([[0.2, -0.4, 1.0]], requires_grad=True)
    teacher = torch.tensor([[1.0, 0.0, -1.0]], requires_grad=True)
    labels = torch.tensor([2])
    objective = Objective("multiclass", alpha)
    loss = objective(logits, labels, None if alpha == 0 else teacher)["loss"]
    want = (1 - alpha) * F.cross_entropy(logits, labels) + alpha * (logits - teacher).square().sum()
    torch.testing.assert_close(loss, want)
    loss.backward()
    assert teacher.grad is None  # Checklist 8
    if alpha == 1:
        torch.testing.assert_close(objective(logits, torch.tensor([0]), teacher)["loss"], loss)
    if alpha > 0:
        with pytest.raises(ValueError, match="needs the teacher"):
            objective(logits, labels)


def test_dot_head_is_the_inner_product():
    head = PairHead(3, [], 1, "dot")
    u, v = torch.randn(2, 3), torch.randn(4, 3)
    assert not list(head.parameters())
    torch.testing.assert_close(head(u, v[:2])[:, 0], (u * v[:2]).sum(1))
    torch.testing.assert_close(head.cross(u, v)[..., 0], u @ v.T)
    with pytest.raises(ValueError, match="one number"):
        PairHead(3, [], 3, "dot")


def test_both_towers_share_all_weights_and_a_vector_does_not_depend_on_its_partner():
    """Checklist 1."""
    model = student()
    names = {name.split(".")[1] for name, _ in model.named_parameters()}
    assert names == {"encoder", "head"}
    encoder = model.scorer.encoder
    inputs = [encoder.tokenize([TEXTS[0], other]) for other in TEXTS[1:3]]
    with torch.no_grad():
        u_1, u_2 = (encoder(**x)[0] for x in inputs)
        swapped = encoder(**encoder.tokenize([TEXTS[1], TEXTS[0]]))[1]
    torch.testing.assert_close(u_1, u_2, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(u_1, swapped, atol=1e-5, rtol=1e-5)
    assert math.isclose(float(model.scorer.encode(TEXTS)[0] @ u_1), float(u_1 @ u_1), rel_tol=1e-4)
