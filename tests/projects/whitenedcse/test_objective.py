"""Whitening, head and loss of WhitenedCSE against the checklist and the golden values."""

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from common.config import UserError
from common.evaluation.features.geometry import mean_cosine, uniformity
from projects.whitenedcse.objective import Objective, WhitenedHead, build_whitening
from tests.projects.whitenedcse.conftest import (
    GOLDEN,
    SIMCSE,
    batch,
    config,
    golden_blocks,
    module_of,
)
from tests.projects.whitenedcse.workers import features, method, sgw, three_steps
from tests.unit.losses.golden import sentence_head, sentences

CASES = GOLDEN["cases"]
NO_SGW = "sgw.position=none"


def covariance(x: Tensor) -> Tensor:
    return x.mT @ x / x.shape[-2]


def info_nce(anchors: Tensor, positives: Tensor, temperature: float) -> Tensor:
    """The formula, with a dense matrix of cosines."""
    cosine = F.normalize(anchors, dim=1) @ F.normalize(positives, dim=1).T
    return F.cross_entropy(cosine / temperature, torch.arange(len(anchors)))


# -- golden --------------------------------------------------------------------------------------


@pytest.mark.parametrize("case", CASES, ids=lambda c: f"n{c['rows_per_view_n']}G{c['groups_G']}")
def test_item_12_whitening_matches_the_official_values(case):
    """Checklist 12 (and 6: no ridge): recorded in float32, hence the tolerance."""
    x, permutations, weights = golden_blocks(case)
    layer = build_whitening(case["D"], sgw(case["groups_G"], shuffle=case["shuffle"]))
    x.requires_grad_()
    y = layer(x, permutations)
    (y * weights).sum().backward()
    actual = {
        "y_row0_first6": y[0, 0, :6],
        "y_rowN-1_first6": y[-1, -1, :6],
        "y_frobenius": y.norm(),
        "diag_cov_first_view_mean": covariance(y[0]).diagonal().mean(),
        "grad_frobenius_of_sum(y*c)": x.grad.norm(),
        "grad_row0_first6": x.grad[0, 0, :6],
    }
    assert actual.keys() == case["outputs"].keys()
    for name, value in actual.items():
        expected = torch.tensor(case["outputs"][name])
        torch.testing.assert_close(value.detach(), expected, rtol=5e-6, atol=5e-6, msg=name)


@pytest.mark.parametrize("change", ["permutation", "method", "gradient"])
def test_item_12_the_comparison_can_fail(change):
    """Checklist 12, twin: other groups, another whitening matrix, or gradient through it."""
    case = CASES[1]
    x, permutations, weights = golden_blocks(case)
    options = {"detach_whitening": change != "gradient"}
    if change == "method":
        options["method"] = "cholesky"
    layer = build_whitening(case["D"], sgw(case["groups_G"], **options))
    x.requires_grad_()
    y = layer(x, permutations.roll(1, 1) if change == "permutation" else permutations)
    (y * weights).sum().backward()
    actual, name = (y, "y") if change != "gradient" else (x.grad, "grad")
    expected = torch.tensor(case["outputs"][f"{name}_row0_first6"])
    assert not torch.allclose(actual[0, 0, :6], expected, rtol=1e-2)


@pytest.mark.parametrize("case", [c for c in SIMCSE["cases"] if c["S"] == 2])
def test_item_9_without_whitening_and_m_2_it_is_simcse(case):
    """Checklist 9: loss and gradients of the official SimCSE, also through the dense layer."""
    dim, out = case["d"], case["outputs"]
    h = sentences(case["B"], 2, dim).detach().transpose(0, 1).clone().requires_grad_()
    z = h
    if case["mlp"]:
        head = WhitenedHead(dim, sgw(1, position="none")).double()
        head.dense.load_state_dict(sentence_head(dim)[0].state_dict())
        z = head(h)
    loss, _ = Objective(method(case["temperature"]))(z)
    loss.backward()
    assert float(loss) == pytest.approx(out["loss"], rel=1e-9)
    assert float(h.grad[0].norm()) == pytest.approx(out["grad_norm_anchor"], rel=1e-6)
    assert float(h.grad[1].norm()) == pytest.approx(out["grad_norm_positive"], rel=1e-6)
    expected = torch.tensor(out["grad_anchor_row0_first5"], dtype=torch.float64)
    torch.testing.assert_close(h.grad[0, 0, :5], expected, rtol=1e-6, atol=1e-9)
    whitened, _ = Objective(method(case["temperature"]))(build_whitening(dim, sgw(dim))(h.detach()))
    assert float(whitened) != pytest.approx(out["loss"], rel=1e-3)


# -- whitening -----------------------------------------------------------------------------------


@pytest.mark.parametrize(("dim", "groups"), [(768, 128), (256, 64), (32, 8)])
def test_item_1_blocks_are_white_inside_groups_only(dim, groups):
    """Checklist 1: float32, n >= 4 g, mean 0 and identity per group, not across groups."""
    size = dim // groups
    x = features(rows=max(64, 4 * size), dim=dim, views=2).float()
    y = build_whitening(dim, sgw(groups, shuffle=False))(x)
    assert float(y.mean(1).abs().max()) < 1e-5
    actual, inside = covariance(y), torch.block_diag(*[torch.ones(size, size)] * groups).bool()
    expected = torch.eye(dim)[inside].expand(2, -1)
    torch.testing.assert_close(actual[:, inside], expected, rtol=0, atol=1e-3)
    assert float(actual[:, ~inside].abs().max()) > 0.1


def test_item_2_white_input_comes_back_whatever_the_permutation():
    """Checklist 2: the permutation is undone, ZCA leaves white data alone."""
    x = build_whitening(8, sgw(1))(features(views=2))
    torch.testing.assert_close(build_whitening(8, sgw(4))(x), x)
    shifted = build_whitening(8, sgw(4))(x + 1)  # centred again, so not what came in
    assert not torch.allclose(shifted, x + 1)


def test_item_3_shuffling_varies_the_output_and_without_it_nothing_does():
    """Checklist 3: the config's switch."""
    x = features()
    shuffled, plain = build_whitening(8, sgw(4)), build_whitening(8, sgw(4, shuffle=False))
    assert not torch.allclose(shuffled(x), shuffled(x))
    assert torch.equal(plain(x), plain(x))


def test_item_4_every_view_has_its_own_permutation():
    """Checklist 4: equal views come out different, unless shuffling is off."""
    same = features(views=1).expand(3, -1, -1)
    torch.manual_seed(0)  # two of the 105 groupings are equal now and then
    views = WhitenedHead(8, sgw(4)).double().whiten(same)
    for left, right in ((0, 1), (0, 2), (1, 2)):
        assert not torch.allclose(views[left], views[right])
    plain = WhitenedHead(8, sgw(4, shuffle=False)).double().whiten(same)
    assert torch.equal(plain[0], plain[1])


def test_item_4_official_layout_keeps_the_views_of_a_sentence_together():
    """Checklist 4, as released: a block holds all views of a third of the sentences."""
    same = features(rows=12, views=1).expand(3, -1, -1)
    head = WhitenedHead(8, sgw(4, block_layout="official")).double()
    views = head.whiten(same)
    torch.testing.assert_close(views[0], views[1])
    flat = views.transpose(0, 1).reshape(3, 12, 8)  # sentence-major rows in three thirds
    assert float(flat.mean(1).abs().max()) < 1e-10
    other = WhitenedHead(8, sgw(4, block_layout="view")).double().whiten(same)
    assert float(other.transpose(0, 1).reshape(3, 12, 8).mean(1).abs().max()) > 0.01
    assert not torch.allclose(other[0], other[1])
    distinct = features(rows=12)
    torch.manual_seed(1)
    actual = head.whiten(distinct)
    torch.manual_seed(1)
    by_hand = head.whitening(distinct.transpose(0, 1).reshape(36, 8).view(3, 12, 8))
    torch.testing.assert_close(actual[1, 5], by_hand.view(36, 8)[5 * 3 + 1])


def test_item_5_groups_divide_the_dimension_and_one_group_does_not_shuffle():
    """Checklist 5."""
    with pytest.raises(UserError, match=r"sgw.groups=5 must divide the encoder's dimension 8"):
        build_whitening(8, sgw(5))
    with pytest.raises(UserError, match="must divide"):
        module_of("sgw.groups=7")
    layer, x = build_whitening(8, sgw(1, shuffle=True)), features()
    assert torch.equal(layer(x), layer(x))
    assert not layer.shuffle


def test_item_6_ridge_is_configurable_and_spares_healthy_groups():
    """Checklist 6: 1e-5 by default, 0 gives infinite weights on a constant channel."""
    assert config().sgw.ridge == 1e-5
    x = features()
    x[..., 5] = 1.0
    ridged, exact = (build_whitening(8, sgw(2, ridge=r, shuffle=False))(x) for r in (1e-5, 0.0))
    assert torch.isfinite(ridged).all()
    assert torch.equal(ridged[..., :4], exact[..., :4])
    assert not torch.isfinite(exact[..., 4:]).all()


@pytest.mark.parametrize("detach", [True, False])
def test_item_7_gradient_through_the_whitening_matrix_is_a_switch(detach):
    """Checklist 7: with W constant the gradient is the centred product's."""
    x = features(views=1)[0].requires_grad_()
    layer = build_whitening(8, sgw(1, detach_whitening=detach))
    y = layer(x)
    y.sin().sum().backward()
    centred = x.detach() - x.detach().mean(0)
    weight = torch.linalg.lstsq(centred, y.detach()).solution
    upstream = y.detach().cos() @ weight.T
    constant = upstream - upstream.mean(0)
    assert torch.allclose(x.grad, constant) == detach


def test_item_8_whitening_leaves_autocast():
    """Checklist 8: bfloat16 autocast changes neither dtype nor values."""
    x = features().float()
    layer = build_whitening(8, sgw(2, shuffle=False))
    expected = layer(x)
    with torch.autocast("cpu", torch.bfloat16):
        assert (x[0] @ x[0].T).dtype == torch.bfloat16  # autocast is on
        assert torch.equal(layer(x), expected)


def test_item_13_a_batch_too_small_for_a_group_is_refused():
    """Checklist 13: the message says what to change."""
    module = module_of("sgw.groups=2")
    with pytest.raises(UserError, match=r"more than 16 rows in a batch, got 8: raise the batch"):
        module.losses(batch("sgw.groups=2", rows=8))


def test_whitening_spreads_anisotropic_features():
    """Sheet, small real check: mean cosine > 0.9 before, about 0 after."""
    x = features(rows=64, dim=32, views=1)[0] + 20
    y = build_whitening(32, sgw(8))(x)
    assert mean_cosine(x) > 0.9
    assert abs(mean_cosine(y)) < 0.05
    assert uniformity(y) < uniformity(x) - 2


# -- loss ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("num_views", [2, 3, 4])
def test_item_10_loss_is_the_sum_over_positives_from_the_first_view(num_views):
    """Checklist 10: m - 1 terms, anchors view 1; a mean or another anchor would differ."""
    z = features(views=num_views)
    loss, _ = Objective(method())(z)
    expected = sum(info_nce(z[0], z[v], 0.05) for v in range(1, num_views))
    assert float(loss) == pytest.approx(float(expected), rel=1e-9)
    if num_views > 2:
        assert float(loss) != pytest.approx(float(expected) / (num_views - 1), rel=1e-2)
        swapped, _ = Objective(method())(z.flip(0))
        assert float(swapped) != pytest.approx(float(loss), rel=1e-4)


def test_item_10_module_contrasts_view_major_rows():
    """Checklist 10: the loss of a batch equals the formula on its three blocks."""
    module, rows = module_of("sgw.shuffle=false", "model.dropout=0.0"), batch()
    rows["input_ids"][8:16] = rows["input_ids"][8:16].roll(1, 0)  # positives 2 of other sentences
    rows["attention_mask"][8:16] = rows["attention_mask"][8:16].roll(1, 0)
    terms = module.losses(rows)
    z = module.head(module.encoder(rows["input_ids"], rows["attention_mask"]).view(3, 8, -1))
    expected = info_nce(z[0], z[1], 0.05) + info_nce(z[0], z[2], 0.05)
    torch.testing.assert_close(terms["loss"], expected)
    torch.testing.assert_close(terms["loss_per_positive"], expected / 2)
    assert info_nce(z[0], z[1], 0.05) > 2 * info_nce(z[0], z[2], 0.05)


def test_item_9_module_with_m_2_equals_the_formula_on_two_dropout_views():
    """Checklist 9: the module as a whole; with whitening the loss is another one."""
    words, rows = ["num_pos=2"], batch("num_pos=2")
    module = module_of(*words, NO_SGW)
    torch.manual_seed(5)
    loss = module.losses(rows)["loss"]
    torch.manual_seed(5)
    h = module.encoder(rows["input_ids"], rows["attention_mask"])
    assert not torch.allclose(h[:8], h[8:])  # independent dropout
    z = torch.tanh(module.head.dense(h))
    torch.testing.assert_close(loss, info_nce(z[:8], z[8:], 0.05))
    torch.manual_seed(5)
    assert not torch.isclose(module_of(*words).losses(rows)["loss"], loss, rtol=1e-2)


def test_positions_of_the_whitening():
    """Before and after the dense layer, and none."""
    x = features().float()
    heads = {}
    for place in ("before_mlp", "after_mlp", "none"):
        torch.manual_seed(0)
        heads[place] = WhitenedHead(8, sgw(4, position=place, shuffle=False), init_std=0.5)
    assert heads["none"].whitening is None
    dense, layer = heads["none"].dense, heads["before_mlp"].whitening
    torch.testing.assert_close(heads["none"](x), torch.tanh(dense(x)))
    torch.testing.assert_close(heads["before_mlp"](x), torch.tanh(dense(layer(x))))
    torch.testing.assert_close(heads["after_mlp"](x), layer(torch.tanh(dense(x))))


def test_dense_layer_starts_small_and_unbiased():
    head = WhitenedHead(256, sgw(64))
    assert float(head.dense.weight.std()) == pytest.approx(0.02, rel=0.02)
    assert not head.dense.bias.any()


# -- two processes -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("position", "detach"), [("none", True), ("before_mlp", True), ("after_mlp", False)]
)
def test_two_processes_equal_one(two_ranks, position, detach):
    """With synchronised statistics, losses and weights after three steps are those of one
    process."""
    options = {"position": position, "sync": True, "detach": detach}
    losses, weights = three_steps(**options, distributed=False)
    (losses_0, weights_0), (losses_1, _) = two_ranks.run(three_steps, **options, distributed=True)
    mean = [(a + b) / 2 for a, b in zip(losses_0, losses_1, strict=True)]
    assert mean == pytest.approx(losses, rel=1e-9)
    for name, value in weights.items():
        torch.testing.assert_close(weights_0[name], value, rtol=1e-8, atol=1e-10, msg=name)


def test_statistics_per_rank_are_another_objective(two_ranks):
    """The twin: without sync (the default) each rank whitens with its own rows."""
    options = {"position": "before_mlp", "detach": True}
    losses, _ = three_steps(**options, sync=True, distributed=False)
    (losses_0, weights_0), (losses_1, weights_1) = two_ranks.run(
        three_steps, **options, sync=False, distributed=True
    )
    assert (losses_0[0] + losses_1[0]) / 2 != pytest.approx(losses[0], rel=1e-3)
    for name, value in weights_0.items():  # still one model
        torch.testing.assert_close(weights_1[name], value)
