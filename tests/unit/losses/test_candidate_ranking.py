"""Ranked candidates of unequal numbers: the mask against rows on their own."""

import pytest
import torch

from common.losses.functional.margin import candidate_ranking


@pytest.mark.parametrize("on_top", [True, False])
def test_a_masked_batch_is_the_mean_of_its_rows_alone(on_top):
    torch.manual_seed(0)
    scores, gold, counts = torch.randn(3, 4).double(), torch.randn(3).double(), [4, 1, 3]
    mask = torch.arange(4) < torch.tensor(counts)[:, None]
    alone = [
        candidate_ranking(scores[i : i + 1, :n], gold[i : i + 1], 0.3, 0.2, target_on_top=on_top)
        for i, n in enumerate(counts)
    ]
    out = candidate_ranking(
        scores.masked_fill(~mask, 99.0), gold, 0.3, 0.2, target_on_top=on_top, mask=mask
    )
    torch.testing.assert_close(out.per_sample, torch.cat([a.per_sample for a in alone]))
    assert out.hits.tolist() == [bool(a.hits) for a in alone]
    plain = candidate_ranking(scores, gold, 0.3, 0.2, mask=torch.ones_like(mask))
    torch.testing.assert_close(plain.loss, candidate_ranking(scores, gold, 0.3, 0.2).loss)
    with pytest.raises(ValueError, match=r"mask \(3, 4\)"):
        candidate_ranking(scores, gold, mask=mask[:, :2])


def test_equally_good_candidates_are_in_no_pair_and_their_order_does_not_count():
    """By hand: ranks 0, 1, 1, 2; two pairs of distance 1 above, two below, one of distance 2."""
    scores, gold = torch.tensor([[0.1, 0.4, 0.2, 0.3]]).double(), torch.tensor([9.0]).double()
    ranks = torch.tensor([[0, 1, 1, 2]])
    out = candidate_ranking(scores, gold, 0.1, ranks=ranks)
    near = (0.3 + 0.1) + (0.1 + 0.1) + 0 + (0.1 + 0.1)
    assert float(out.loss) == pytest.approx(near / 4 + (0.2 + 0.2))
    swapped = candidate_ranking(scores[:, [0, 2, 1, 3]], gold, 0.1, ranks=ranks)
    torch.testing.assert_close(swapped.loss, out.loss)
    places = [
        candidate_ranking(scores[:, own], gold, 0.1).loss for own in ([0, 1, 2, 3], [0, 2, 1, 3])
    ]
    assert abs(float(places[0] - places[1])) > 0.1  # the twin
    both = torch.tensor([[0, 0, 1, 2]])
    assert bool(candidate_ranking(scores, gold, ranks=both).hits)  # the second one is as good
    assert not bool(candidate_ranking(scores, gold, ranks=ranks).hits)
    with pytest.raises(ValueError, match=r"ranks \(1, 4\)"):
        candidate_ranking(scores, gold, ranks=ranks[:, :2])
