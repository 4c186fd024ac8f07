"""Point-to-point hops around a ring of ranks."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch.distributed as dist
from torch import Tensor
from torch._compile import _disable_dynamo

from .process import rank, world_size


@dataclass
class RingHop:
    """Tensors on their way to this rank; `wait` returns them."""

    received: list[Tensor]
    works: list[dist.Work]

    def wait(self) -> list[Tensor]:
        """Finish the hop: sent buffers may be overwritten, received ones may be read."""
        for work in self.works:
            work.wait()
        return self.received


def ring_start(
    tensors: Sequence[Tensor], rows_in: int, group: dist.ProcessGroup | None = None
) -> RingHop:
    """Start sending tensors to the next rank and receiving the previous rank's; no gradient.

    All transfers are posted at once and without blocking, so a ring of any length, two ranks
    included, cannot dead-lock. The sent tensors must not change before `wait`.

    Args:
        tensors: Each (rows, ...), contiguous or not; same dtypes and trailing shapes on all ranks.
        rows_in: Rows of the tensors that arrive from the previous rank.
        group: Processes of the ring.
    """
    if world_size(group) == 1:
        return RingHop(list(tensors), [])
    return _post(tensors, rows_in, group)


@_disable_dynamo
def _post(tensors: Sequence[Tensor], rows_in: int, group: dist.ProcessGroup | None) -> RingHop:
    size, here = world_size(group), rank(group)
    received = [x.new_empty(rows_in, *x.shape[1:]) for x in tensors]
    transfers = []
    for tag, (x, out) in enumerate(zip(tensors, received, strict=True)):
        send, receive = x.detach().contiguous(), out
        for op, buffer, peer in (
            (dist.isend, send, (here + 1) % size),
            (dist.irecv, receive, (here - 1) % size),
        ):
            if buffer.numel():
                transfers.append(dist.P2POp(op, buffer, group=group, tag=tag, group_peer=peer))
    return RingHop(received, dist.batch_isend_irecv(transfers) if transfers else [])


def ring_exchange(
    tensors: Sequence[Tensor], rows_in: int, group: dist.ProcessGroup | None = None
) -> list[Tensor]:
    """One finished hop of the ring: `ring_start` and `wait`."""
    return ring_start(tensors, rows_in, group).wait()
