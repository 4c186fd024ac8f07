"""Queues with labels on two processes."""

import torch

from common.distributed import process
from common.distributed.process import world_size
from common.encoders.queue import GrowingQueue


def filled(steps: int) -> dict[str, torch.Tensor]:
    """State of a queue of five rows after batches of two per rank, four in one process."""
    queue = GrowingQueue(5, 2, ["ids", "groups"])
    for step in range(steps):
        ids = torch.arange(4) + 4 * step
        ids = ids[2 * process.rank() :][:2] if world_size() > 1 else ids
        features = torch.stack([ids.float() + 1, torch.ones(len(ids))], dim=1)
        queue.enqueue(features, ids=ids, groups=10 * ids)
    return {name: value.clone() for name, value in queue.state_dict().items()}


def test_labels_are_gathered_with_their_rows(pool):
    """Two ranks hold the queue of one process: rows, ids and groups, in rank order."""
    for steps in (1, 3):
        want = filled(steps)
        for actual in pool(2).run(filled, steps=steps):
            assert actual.keys() == want.keys()
            for name, value in want.items():
                assert torch.equal(actual[name], value), name
    assert sorted(want["label_ids"].tolist()) == [7, 8, 9, 10, 11]
    angle = want["features"][:, 0] / want["features"][:, 1]
    torch.testing.assert_close(angle, want["label_ids"].float() + 1)
