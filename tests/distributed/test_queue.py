"""Queues on two processes."""

import torch

from common.distributed import process
from common.distributed.process import world_size
from common.encoders.queue import GrowingQueue


def filled(steps: int) -> dict[str, torch.Tensor]:
    """State of a queue of five rows after batches of two per rank, four in one process."""
    queue = GrowingQueue(5, 2)
    for step in range(steps):
        ids = torch.arange(4) + 4 * step
        ids = ids[2 * process.rank() :][:2] if world_size() > 1 else ids
        queue.enqueue(torch.stack([ids.float() + 1, torch.ones(len(ids))], dim=1))
    return {name: value.clone() for name, value in queue.state_dict().items()}


def test_two_ranks_hold_the_queue_of_one_process(pool):
    """Rows of both in rank order; the latest stay."""
    for steps in (1, 3):
        expected = filled(steps)
        for actual in pool(2).run(filled, steps=steps):
            assert actual.keys() == expected.keys()
            for name, value in expected.items():
                assert torch.equal(actual[name], value), name
    rows = expected["features"][:, 0] / expected["features"][:, 1]
    torch.testing.assert_close(rows.sort().values, torch.arange(8.0, 13.0))
