"""Second stage of a retrieval: on the device of the scores."""

import torch

from common.evaluation.image_text.two_stage import rescored


def test_scores_of_any_device_are_scored_again():
    """The meta device stands for a GPU: whatever mixes it with the CPU fails."""
    asked = []

    def pairs(part):
        asked.append(part.device.type)
        return part.sum(1).float()

    again = rescored(torch.eye(3, device="meta"), pairs, k=2, batch_size=4)
    assert (again.device.type, again.shape) == ("meta", (3, 3))
    assert asked == ["meta", "meta"]
