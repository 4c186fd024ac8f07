"""Ids of several kinds: keys that share one of any kind with the row are no negatives."""

import pytest
import torch

from common.losses.functional.masks import masked_share
from common.losses.info_nce import InfoNCELoss

IDS = torch.tensor([[0, 5], [1, 6], [0, 7], [2, 6], [3, 8]])


@pytest.mark.parametrize("symmetric", [True, False])
@pytest.mark.parametrize("backend", ["dense", "blocked"])
def test_any_kind_masks_and_the_positive_stays(symmetric, backend):
    generator = torch.Generator().manual_seed(0)
    q, k = (torch.randn(5, 4, generator=generator, dtype=torch.float64) for _ in range(2))
    logits = 3 * torch.nn.functional.normalize(q, dim=1) @ torch.nn.functional.normalize(k, dim=1).T
    same = (IDS[:, None] == IDS[None]).any(-1) & ~torch.eye(5, dtype=torch.bool)
    logits = logits.masked_fill(same, -torch.inf)
    sides = [logits, logits.T] if symmetric else [logits]
    want = sum(torch.nn.functional.cross_entropy(s, torch.arange(5)) for s in sides) / len(sides)
    loss = InfoNCELoss(symmetric, gather=False, backend=backend)
    torch.testing.assert_close(loss(q, k, 3.0, ids=IDS).loss, want)
    one = loss(q, k, 3.0, ids=IDS[:, 0].contiguous()).loss
    torch.testing.assert_close(loss(q, k, 3.0, ids=IDS[:, :1]).loss, one)
    assert abs(float(one - want)) > 1e-3
    assert float(masked_share(IDS)) == pytest.approx(4 / 20)
