"""Second stage of a retrieval: on the device of the scores."""

import pytest
import torch

from projects.one_to_k.two_stage import best_ranks, rescored


def test_scores_of_any_device_are_scored_again():
    """The meta device stands for a GPU: whatever mixes it with the CPU fails; the second stage's
    scores may.
    """
    asked = []

    def pairs(part):
        asked.append(part.device.type)
        return torch.ones(len(part))

    again = rescored(torch.eye(3, device="meta"), pairs, k=2, batch_size=4)
    assert (again.device.type, again.shape) == ("meta", (3, 3))
    assert asked == ["meta", "meta"]


@pytest.mark.parametrize("value", [torch.nan, torch.inf])
def test_scores_of_a_diverged_model_are_refused(value):
    """Compared with NaN nothing is as good, so every query would be at rank 1."""
    scores = torch.full((2, 3), value)
    with pytest.raises(ValueError, match="NaN or infinity"):
        best_ranks(scores, [[0], [1]])
    with pytest.raises(ValueError, match="second stage gave NaN"):
        rescored(torch.eye(3), lambda pairs: torch.full((len(pairs),), value), k=1)
