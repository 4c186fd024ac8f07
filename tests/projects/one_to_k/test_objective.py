"""Golden values through the project's functions, and what the objective promises."""

import pytest
import torch

from common.losses.auxiliary.vicreg import vicreg_terms
from common.losses.image_text import ClipLoss
from projects.one_to_k.cross_lingual import mean_rank_variance
from projects.one_to_k.matching import choose_positive, hard_negatives
from projects.one_to_k.objective import direction_weights, one_to_k_loss, pivot_loss
from tests.projects.one_to_k.conftest import PLAIN, batch_of, module_of
from tests.projects.one_to_k.workers import golden_case, masked_term
from tests.unit.losses.golden import assert_close, load, wave

GOLDEN = load("one_to_k")["outputs"]
ONE = [c for c in GOLDEN["world_size_1"] if "temp" in c]
TWO = [c for c in GOLDEN["world_size_2"] if "temp" in c]


@pytest.mark.parametrize("case", ONE)
def test_items_2_3_5_12_golden_values_of_one_rank(case):
    """Checklist 2, 3, 5, 12: K = 1, 3, 4, the divisor, and soft labels of duplicate ids."""
    for name, value in golden_case(case, 1).items():
        assert_close(value, case[name])


@pytest.mark.parametrize("case", TWO)
def test_items_1_2_12_golden_values_of_two_ranks(two_ranks, case):
    """Checklist 1, 2, 12: gathered rows keep the K texts of an image together.

    The release repeats the global loss on both ranks and keeps the own slice of the gradient. Ours
    is the loss of the own rows: the mean over ranks is the same, a row's gradient twice as large.
    """
    actual = two_ranks.run(golden_case, case=case, world_size=2)
    for name in ("loss", "grad_temp"):
        assert_close(torch.stack([f[name] for f in actual]).mean(), case[name])
    for name in ("grad_norm_image", "grad_norm_text", "grad_image_first4"):
        assert_close(0.5 * actual[case["rank"]][name], case[name])


def test_item_3_k_of_one_is_info_nce():
    """Checklist 3: with one text an image the loss is the symmetric InfoNCE."""
    image, text = wave(5, 8, 1), wave(5, 8, 2)
    assert_close(one_to_k_loss(image, text, 0.07, 1).loss, ClipLoss()(image, text, 1 / 0.07).loss)


def test_item_2_other_positives_stay_in_the_denominator():
    """Checklist 2: by hand. One image, two equal texts: each positive has the probability 1/2."""
    image, text = torch.ones(1, 2).double(), torch.ones(2, 2).double()
    loss = one_to_k_loss(image, text, 0.5, 2).loss
    assert_close(loss, 0.5 * torch.tensor(2.0).double().log())


def test_item_1_another_order_of_the_texts_is_another_loss():
    """Checklist 1: rows are image-major; language-major ones are wrong pairs."""
    image, text = wave(4, 8, 1), wave(12, 8, 2)
    right = one_to_k_loss(image, text, 0.1, 3).loss
    turned = text.view(4, 3, 8).transpose(0, 1).reshape(12, 8)
    assert not torch.allclose(right, one_to_k_loss(image, turned, 0.1, 3).loss)
    within = text.view(4, 3, 8).flip(1).reshape(12, 8)  # order of an image's texts: any
    assert_close(right, one_to_k_loss(image, within, 0.1, 3).loss)


def test_item_5_meaning_of_the_divisor():
    """Checklist 5: 0 divides by K, a positive number by itself, a negative one not at all."""
    image, text = wave(4, 8, 1), wave(12, 8, 2)
    values = {m: one_to_k_loss(image, text, 0.1, 3, need_divm=m).loss for m in (0, 3, 2, -1)}
    assert_close(values[0], values[3])
    assert_close(2 * values[2], values[-1])
    assert_close(3 * values[0], values[-1])
    assert direction_weights(3, 0, 1.0) == (1.0, 1.0)
    full = one_to_k_loss(image, text, 0.1, 3, t2i_scale=1.0).loss
    none = one_to_k_loss(image, text, 0.1, 3, t2i_scale=0.0).loss
    assert_close(values[0], none + (full - none) / 3)


def test_item_4_temperature_divides_and_is_clamped_first():
    """Checklist 4: out of [0.001, 0.5] it is brought back before the loss."""
    module, batch = module_of(*PLAIN), batch_of(*PLAIN)
    for given, used in ((0.9, 0.5), (1e-5, 0.001), (0.2, 0.2)):
        module.temperature.temperature.data.fill_(given)
        terms = module.losses(batch)
        assert float(terms["temperature"]) == pytest.approx(used)
        assert float(module.temperature.temperature) == pytest.approx(used)
    image, text = wave(4, 8, 1), wave(12, 8, 2)
    hot, cold = (one_to_k_loss(image, text, t, 3).loss for t in (100.0, 0.1))
    limit = 0.5 * (torch.tensor(12.0).log() + torch.tensor(4.0).log() / 3)
    assert float(hot) == pytest.approx(float(limit), abs=0.02)
    assert abs(float(cold) - float(limit)) > 0.1


def test_item_6_no_negative_of_the_same_image():
    """Checklist 6: neither an own text nor a pair of equal id is drawn, however similar."""
    torch.manual_seed(0)
    ids = torch.tensor([0, 1, 1, 2])
    texts = ids.repeat_interleave(3)
    scores = 50 * (ids[:, None] == texts[None]).double()
    for _ in range(50):
        drawn = hard_negatives(scores, ids, texts)
        assert not bool((texts[drawn] == ids).any())
    with pytest.raises(ValueError, match="two different images"):
        hard_negatives(scores[:1, :3], ids[:1], texts[:3])


def test_item_6_negatives_are_hard():
    torch.manual_seed(0)
    scores, ids = torch.tensor([[0.0, 3.0, 0.0]]).double(), torch.tensor([0])
    drawn = [int(hard_negatives(scores, ids, torch.arange(3))) for _ in range(300)]
    assert 0.9 < sum(d == 1 for d in drawn) / 300 < 1.0


@pytest.mark.parametrize(
    ("choice", "share"), [("aligned_least", 0.0), ("least_similar", 0.0), ("uniform", 0.5)]
)
def test_item_6_the_positive_prefers_low_similarity(choice, share):
    """Checklist 6: of two texts the one with the largest weight of the batch is hardly drawn."""
    torch.manual_seed(0)
    scores = torch.tensor([[4.0, 0.0, 0.0, 0.0], [0.0, 0.0, 4.0, 0.0]]).double()
    drawn = torch.stack([choose_positive(scores, 2, choice) for _ in range(300)])
    assert float((drawn == 0).double().mean()) == pytest.approx(share, abs=0.06)


def test_item_8_the_draw_carries_no_gradient():
    """Checklist 8: scores that want a gradient give plain indices, and none flows back."""
    scores = torch.randn(3, 6, requires_grad=True)
    ids = torch.arange(3)
    chosen = choose_positive(scores, 2, "aligned_least")
    wrong = hard_negatives(scores, ids, ids.repeat_interleave(2))
    for drawn in (chosen, wrong):
        assert drawn.grad_fn is None
        assert not drawn.requires_grad


def test_item_13_mean_rank_variance_has_the_golden_values():
    """Checklist 13: population deviation and variance over four languages."""
    index = torch.arange(10)
    ranks = torch.stack([(index * (x + 2) + 3 * x) % 7 for x in range(4)])
    for shift in (0, 1):  # ranks from 0 and from 1
        actual = mean_rank_variance(ranks + shift)
        assert actual["mrv_std"] == pytest.approx(GOLDEN["mrv"]["mean_std"], rel=1e-9)
        assert actual["mrv_var"] == pytest.approx(GOLDEN["mrv"]["mean_var"], rel=1e-9)
    with pytest.raises(ValueError, match="languages, queries"):
        mean_rank_variance(ranks[0])


def test_item_14_vicreg_is_looked_at_and_never_added():
    """Checklist 14: golden terms; the loss is the same with and without them."""
    (case,) = [c for c in GOLDEN["world_size_1"] if "invariance" in c]
    image, text = (torch.nn.functional.normalize(wave(n, 8, p)) for n, p in ((5, 1), (15, 2)))
    for name, value in vicreg_terms(image, text, 3).items():
        assert_close(value, case[name])
    batch = batch_of(*PLAIN)
    plain, looked = (module_of(*PLAIN, f"method.vicreg={x}") for x in ("false", "true"))
    assert_close(plain.losses(batch)["loss"], looked.losses(batch)["loss"])
    assert "vicreg_variance" in looked.losses(batch)
    assert "vicreg_variance" not in plain.losses(batch)


def test_item_17_pivot_pairs_image_with_pivot_and_pivot_with_the_other():
    """Checklist 17: by hand from two InfoNCE losses; the image never meets the other language."""
    image, text = wave(4, 8, 1), wave(8, 8, 2)
    clip = ClipLoss()
    hand = clip(image, text[0::2], 10).loss + clip(text[0::2], text[1::2], 10).loss
    assert_close(pivot_loss(image, text, 0.1).loss, hand)


def test_masked_words_of_two_ranks_form_one_mean(two_ranks):
    """Ranks hold unequal numbers of masked words: the mean of their means would be another loss."""
    want_loss, want = masked_term(distributed=False)
    (loss_0, grad_0), (loss_1, grad_1) = two_ranks.run(masked_term, distributed=True)
    torch.testing.assert_close((loss_0 + loss_1) / 2, want_loss, rtol=1e-9, atol=0.0)
    torch.testing.assert_close((grad_0 + grad_1) / 2, want, rtol=1e-7, atol=1e-12)
