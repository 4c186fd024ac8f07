"""Two processes with half the batch each equal one with all of it."""

import torch
from torch import Tensor

from common.config import load
from projects.new_project.config import Config
from projects.new_project.module import NewProject
from tests.distributed.equal import assert_ranks_equal_one
from tests.distributed.wrapped import linear_network, own_share, sgd_steps


def three_steps(distributed: bool) -> dict[str, Tensor]:
    """State after three SGD steps on eight images of 4 pixels; runs on every rank, by name."""
    torch.manual_seed(0)
    cfg = load(Config, "new_project", "smoke")
    module = NewProject(cfg, linear_network()).double()
    views = torch.arange(3 * 2 * 8 * 48, dtype=torch.float64).sin().view(3, 2, 8, 3, 4, 4)
    own = own_share(distributed)
    batches = [{"view_1": a[own], "view_2": b[own]} for a, b in views]
    return sgd_steps(module, batches, distributed)


def test_two_processes_equal_one(two_ranks):
    """Negatives are gathered, and the average over ranks is the mean over all rows."""
    assert_ranks_equal_one(two_ranks, three_steps, rtol=1e-9, atol=1e-11)
