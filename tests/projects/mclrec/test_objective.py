"""Augmenters, InfoNCE, regulariser and losses: checklist items 3 to 7."""

import pytest
import torch

from common.config import UserError
from projects.mclrec.config import MethodConfig
from projects.mclrec.network import Augmenters
from projects.mclrec.objective import Objective, recommendation_loss
from projects.mclrec.regulariser import regulariser
from tests.projects.mclrec.conftest import (
    GOLDEN,
    batch,
    config,
    golden_augmenter,
    golden_views,
    module_of,
)

CLOSE = {"rel": 1e-6}


def slow_info_nce(x_1, x_2):
    """2B anchors one after the other, negatives by name."""
    rows, count = torch.cat([x_1, x_2]), len(x_1)
    losses = []
    for anchor in range(2 * count):
        partner = (anchor + count) % (2 * count)
        negatives = [j for j in range(2 * count) if j not in (anchor, partner)]
        assert len(negatives) == 2 * (count - 1)
        logits = torch.stack([rows[anchor] @ rows[j] for j in (partner, *negatives)])
        losses.append(logits.logsumexp(0) - logits[0])
    return torch.stack(losses).mean()


def slow_regulariser(x_1, x_2, rowwise):
    """Sums over single products."""
    rows, count = torch.cat([x_1, x_2]), len(x_1)
    positive, negative = {}, {}
    for anchor in range(2 * count):
        partner = (anchor + count) % (2 * count)
        positive[anchor] = [float(rows[anchor] @ rows[partner])]
        others = (j for j in range(2 * count) if j not in (anchor, partner))
        negative[anchor] = [float(rows[anchor] @ rows[j]) for j in others]
    above, below = [], []
    for anchor in positive:
        plus = positive[anchor] if rowwise else [x for xs in positive.values() for x in xs]
        minus = negative[anchor] if rowwise else [x for xs in negative.values() for x in xs]
        low, high = min(min(plus), max(minus)), max(min(plus), max(minus))
        above += [max(0.0, x - low) for x in positive[anchor]]
        below += [max(0.0, high - x) for x in negative[anchor]]
    return sum(above) / len(above) + sum(below) / len(below)


@pytest.mark.parametrize("case", GOLDEN)
def test_checklist_3_4_5_6_golden_values_and_gradients(case):
    """Checklist 3, 4, 5, 6: every pair's InfoNCE and R, the augmenters, the meta term, its
    gradients.
    """
    h_1, h_2 = golden_views(case)
    first, second = golden_augmenter(case, 0.5), golden_augmenter(case, 1.5)
    z_1, z_2 = first(h_1), second(h_2)
    for z, name in ((z_1, "z1_row0_first4"), (z_2, "z2_row0_first4")):
        assert z[0, :4].tolist() == pytest.approx(case[name], **CLOSE)
    objective = Objective(MethodConfig(reg_weight=0.1))
    pairs = {"h1_h2": (h_1, h_2), "z1_z2": (z_1, z_2), "h1_z2": (h_1, z_2), "h2_z1": (h_2, z_1)}
    for name, pair in pairs.items():
        assert objective.contrast(*pair, 1.0).loss.item() == pytest.approx(
            case[f"L_con_{name}"], **CLOSE
        )
        if name != "h1_h2":
            assert regulariser(*pair).item() == pytest.approx(case[f"R_{name}"], **CLOSE)
    assert objective.cl1(h_1, h_2).item() == pytest.approx(case["L_con_h1_h2"], **CLOSE)
    whole = objective.meta(h_1, h_2, z_1, z_2)["meta"]
    assert whole.item() == pytest.approx(case["meta_contrast_total"], **CLOSE)
    whole.backward()
    assert h_1.grad.norm().item() == pytest.approx(case["grad_norm_h1"], **CLOSE)
    assert h_2.grad.norm().item() == pytest.approx(case["grad_norm_h2"], **CLOSE)
    grads = torch.cat([p.grad.flatten() for p in first.parameters()])
    assert grads.norm().item() == pytest.approx(case["grad_norm_aug1"], **CLOSE)


def test_checklist_3_unit_rows_and_separate_weights_unless_configured():
    """Checklist 3: rows of length 1; the two do not share weights, the ablation does."""
    torch.manual_seed(0)
    h = torch.randn(5, 16)
    for shared in (False, True):
        both = Augmenters(16, [8, 4], shared=shared)
        z_1, z_2 = both(h, h)
        torch.testing.assert_close(z_1.norm(dim=1), torch.ones(5))
        torch.testing.assert_close(z_2.norm(dim=1), torch.ones(5))
        assert torch.equal(z_1, z_2) == shared
        assert (both.first is both.second) == shared
    assert [layer.out_features for layer in both.first.layers] == [8, 4, 16]
    shared = module_of("model.shared_augmenter=true")
    assert shared.augmenters.first is shared.augmenters.second
    assert config(name="paper").model.augmenter_dims == [32, 16]


def test_checklist_4_anchors_and_negatives_counted_one_by_one():
    """Checklist 4: 2B anchors, 2(B - 1) negatives, self excluded, dot products (no cosines),
    mean."""
    h_1, h_2 = golden_views({"B": 5, "D": 3})
    objective = Objective(MethodConfig())
    assert objective.cl1(h_1, h_2).item() == pytest.approx(slow_info_nce(h_1, h_2).item(), rel=1e-9)
    longer = objective.cl1(3 * h_1, h_2).item()
    assert longer == pytest.approx(slow_info_nce(3 * h_1, h_2).item(), rel=1e-9)
    warm = Objective(MethodConfig(cl1_weight=0.1, temperature=2.0)).cl1(h_1, h_2).item()
    assert warm == pytest.approx(slow_info_nce(h_1 / 2**0.5, h_2 / 2**0.5).item(), rel=1e-9)


def test_cosines_instead_of_products_in_cl1_alone():
    """sim=dot|cos of the sheet; the release ignores it in the meta term."""
    h_1, h_2 = golden_views({"B": 5, "D": 3})
    unit_1, unit_2 = (x / x.norm(dim=1, keepdim=True) for x in (h_1, h_2))
    method = MethodConfig(cl1_weight=0.1, similarity="cosine", temperature=0.5)
    actual = Objective(method).cl1(h_1, h_2).item()
    expected = slow_info_nce(unit_1 * 2**0.5, unit_2 * 2**0.5).item()
    assert actual == pytest.approx(expected, rel=1e-9)
    assert actual != pytest.approx(slow_info_nce(h_1 * 2**0.5, h_2 * 2**0.5).item(), rel=1e-3)
    four = (h_1, h_2, h_1.sin(), h_2.cos())
    products = Objective(MethodConfig())
    assert Objective(method).meta(*four)["meta"].item() == products.meta(*four)["meta"].item()


def test_checklist_5_cl2_has_three_pairs_and_cl1_one():
    """Checklist 5: (z1, z2), (h1, z2), (h2, z1), without h1 with h2 and without its own
    augmenter."""
    h_1, h_2 = golden_views({"B": 4, "D": 6})
    z_1, z_2 = (h_1 * 0.7).sin(), (h_2 * 1.3).cos()
    objective = Objective(MethodConfig())
    expected = slow_info_nce(z_1, z_2) + slow_info_nce(h_1, z_2) + slow_info_nce(h_2, z_1)
    assert objective.cl2(h_1, h_2, z_1, z_2).item() == pytest.approx(expected.item(), rel=1e-9)
    assert objective.cl1(h_1, h_2).item() == pytest.approx(slow_info_nce(h_1, h_2).item(), rel=1e-9)


@pytest.mark.parametrize("rowwise", [True, False])
def test_checklist_6_regulariser_by_its_sums(rowwise):
    """Checklist 6: thresholds of an anchor or of the batch, never negative, over the stated
    pairs."""
    for shift in (0.0, 1.0, 2.0):
        x_1, x_2 = (x + shift for x in golden_views({"B": 4, "D": 3}))
        actual = regulariser(x_1, x_2, rowwise=rowwise).item()
        assert actual == pytest.approx(slow_regulariser(x_1, x_2, rowwise), rel=1e-9)
        assert actual >= 0
    h_1, h_2 = golden_views({"B": 4, "D": 3})
    z_1, z_2 = h_1.sin(), h_2.cos()
    for pairs, expected in ((3, ((z_1, z_2), (h_1, z_2), (h_2, z_1))), (1, ((z_1, z_2),))):
        method = MethodConfig(reg_pairs=pairs, regulariser="rowwise" if rowwise else "batchwise")
        total = sum(slow_regulariser(*pair, rowwise) for pair in expected)
        assert Objective(method).regularise(h_1, h_2, z_1, z_2).item() == pytest.approx(
            total, rel=1e-9
        )


def test_checklist_6_no_gradient_where_all_products_meet_the_thresholds():
    """Checklist 6: equal products leave nothing above or below, and no gradient; others do."""
    x_1 = torch.ones(3, 4, dtype=torch.float64, requires_grad=True)
    x_2 = torch.ones(3, 4, dtype=torch.float64, requires_grad=True)
    value = regulariser(x_1, x_2)
    assert value.item() == 0
    value.backward()
    assert not x_1.grad.any()
    assert not x_2.grad.any()
    h_1, h_2 = golden_views({"B": 3, "D": 4})
    regulariser(h_1, h_2).backward()
    assert h_1.grad.any()


def test_checklist_7_beta_weighs_the_encoder_s_terms_and_none_of_the_augmenters():
    """Checklist 7: L_0 = rec + lambda cl1 + beta (cl2 + 0.1 R); L_1 has no beta."""
    h = golden_views({"B": 4, "D": 6})
    z = (h[0].sin(), h[1].cos())
    rec = torch.tensor(2.0, dtype=torch.float64)
    cl1, cl2 = slow_info_nce(*h), sum(slow_info_nce(*p) for p in (z, (h[0], z[1]), (h[1], z[0])))
    reg = sum(slow_regulariser(*p, True) for p in (z, (h[0], z[1]), (h[1], z[0])))
    for beta in (0.3, 0.6):
        objective = Objective(MethodConfig(cl1_weight=0.2, cl2_weight=beta))
        expected = 2 + 0.2 * cl1 + beta * (cl2 + 0.1 * reg)
        assert objective.encoder_loss(rec, h, z)["loss"].item() == pytest.approx(
            expected.item(), rel=1e-9
        )
        actual = objective.augmenter_loss(h, z)["loss"].item()
        assert actual == pytest.approx((cl2 + 0.1 * reg).item(), rel=1e-9)
    without = Objective(MethodConfig(cl2=False)).augmenter_loss(h, z)["loss"].item()
    assert without == pytest.approx(0.1 * reg, rel=1e-9)
    without = Objective(MethodConfig(reg_weight=0)).augmenter_loss(h, z)["loss"].item()
    assert without == pytest.approx(cl2.item(), rel=1e-9)


def test_checklist_7_the_module_hands_the_same_views_to_both_losses():
    """Checklist 7: terms of a module's batch are those of its encoder's views."""
    words = ("model.hidden_dropout=0", "model.attention_dropout=0")
    module, rows = module_of(*words), batch(*words)
    h = module.encode_views(rows)
    z = module.augmenters(*h)
    terms = module.losses(rows)
    vectors = module.encoder.user_vectors(rows["items"], rows["lengths"])
    targets = rows["targets"].gather(1, rows["lengths"][:, None] - 1)[:, 0]
    rec = recommendation_loss(module.encoder.scores(vectors), targets)
    expected = module.objective.encoder_loss(rec, h, z)
    for name, value in expected.items():
        torch.testing.assert_close(terms[name], value, msg=name)


def test_recommendation_loss_is_a_softmax_over_all_rows_with_the_padding():
    """Sheet: nothing is masked, row 0 takes part."""
    scores = torch.tensor([[0.0, 1.0, 2.0], [3.0, 0.0, 0.0]], dtype=torch.float64)
    expected = (scores.exp().sum(1).log() - torch.tensor([2.0, 0.0])).mean()
    assert recommendation_loss(scores, torch.tensor([2, 1])).item() == pytest.approx(
        expected.item()
    )


def test_a_single_pair_and_a_weight_of_nothing_are_refused():
    """Bad input is named."""
    with pytest.raises(ValueError, match="two pairs"):
        regulariser(torch.ones(1, 2), torch.ones(1, 2))
    with pytest.raises(UserError, match="nothing to weigh"):
        config("method.cl2=false", "method.reg_weight=0")
    with pytest.raises(UserError, match="gradient_clip_val"):
        config("trainer.gradient_clip_val=1")


CE = ("method.cl1_weight=0", "method.cl2_weight=0")
IDLE = [
    (("method.cl2_weight=0", "method.update=joint"), "method.update=joint changes nothing"),
    (("method.cl2_weight=0", "model.shared_augmenter=true"), "shared_augmenter=true needs"),
    (("method.cl2_weight=0", "method.cl2=false"), "method.cl2=False changes nothing"),
    (("method.cl2_weight=0", "method.reg_weight=0.2"), "method.reg_weight=0.2 changes nothing"),
    (
        ("method.update=joint", "method.steps=2"),
        "method.steps=2 changes nothing without method.update",
    ),
    (("method.cl1_weight=0", "method.temperature=0.5"), "without method.cl1_weight > 0"),
    (("method.cl1_weight=0", "method.similarity=cosine"), "without method.cl1_weight > 0"),
    (("method.reg_weight=0", "method.reg_pairs=1"), "method.reg_pairs=1 changes nothing"),
    (("method.reg_weight=0", "method.regulariser=batchwise"), "without method.reg_weight > 0"),
    ((*CE, "data.crop_ratio=0.3"), "data.crop_ratio shapes views"),
    ((*CE, "data.mask_ratio=0.3"), "data.mask_ratio shapes views"),
    ((*CE, "data.reorder_ratio=0.3"), "data.reorder_ratio shapes views"),
]


@pytest.mark.parametrize(("words", "message"), IDLE)
def test_settings_that_would_do_nothing_are_refused(words, message):
    """What was changed and has no part in the loss is named, with what it needs."""
    with pytest.raises(UserError, match=message):
        config(*words)
    # the twin: the setting itself is fine where it is used
    config("method.cl1_weight=0.1", words[-1])


def test_a_batch_of_one_has_no_negatives():
    """Refused before the first step, where anything is contrasted."""
    with pytest.raises(UserError, match="data.batch_size=1 leaves a contrast without negatives"):
        config("data.batch_size=1")
    assert config("data.batch_size=1", *CE).data.batch_size == 1
