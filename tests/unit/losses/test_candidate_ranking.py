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
