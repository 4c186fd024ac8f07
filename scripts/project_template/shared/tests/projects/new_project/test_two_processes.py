"""Two processes with half the batch each equal one with all of it."""

import torch
from torch import Tensor, nn

from common.config import OptimConfig
from common.engine.module import ContrastiveModule
from projects.new_project.config import MethodConfig
from projects.new_project.objective import Objective
from tests.distributed.equal import assert_ranks_equal_one
from tests.distributed.wrapped import own_share, sgd_steps


class LinearPairs(ContrastiveModule):
    """The objective on a linear map of both sides."""

    def __init__(self) -> None:
        super().__init__(OptimConfig())
        self.linear = nn.Linear(12, 8)
        self.objective = Objective(MethodConfig())

    def losses(self, batch: Tensor) -> dict[str, Tensor]:
        """Loss of two sides (2, B, 12)."""
        terms: dict[str, Tensor] = self.objective(*self.linear(batch), scale=5.0)
        return terms


def two_steps(distributed: bool) -> dict[str, Tensor]:
    """State after two small steps on eight pairs; runs on every rank, by name."""
    torch.manual_seed(0)
    module = LinearPairs().double()
    batches = torch.arange(2 * 2 * 8 * 12, dtype=torch.float64).sin().view(2, 2, 8, 12)
    share = own_share(distributed)
    return sgd_steps(module, [batch[:, share] for batch in batches], distributed, lr=1e-3)


def test_two_processes_equal_one(two_ranks):
    """Negatives are gathered, and the average over ranks is the mean over all rows."""
    assert_ranks_equal_one(two_ranks, two_steps, rtol=1e-9, atol=1e-12)
