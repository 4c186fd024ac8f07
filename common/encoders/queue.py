"""First-in-first-out store of earlier embeddings: MoCo's queue and NNCLR's support set."""

from collections.abc import Mapping, Sequence
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from common.distributed.collectives import all_gather_no_grad


class FeatureQueue(nn.Module):
    """The latest embeddings of all ranks, equal on every rank, saved with the checkpoint.

    It starts with random directions, as in MoCo. Enqueue after the loss is formed (and, since rows
    are overwritten in place, after its backward pass).
    Source: He et al. 2020 (MoCo), section 3.2 and algorithm 1, arXiv 1911.05722.

    Args:
        size: number of rows K.
        dim: embedding dimension D.
        labels: names of integers that every row carries, such as "ids" and "groups"; see `label`.
        normalize: rows are stored with unit length; False keeps them as they come, for dot
            products.

    Attributes:
        features: buffer (K, D), unit rows unless `normalize` is False.
        position: buffer, 0-dim int64, the row that is overwritten next (the oldest).
        label_<name>: buffer (K,) int64 for each of `labels`, -1 in rows that were never written.

    Raises:
        ValueError: `size` or `dim` below 1.

    Distributed: `enqueue` gathers without gradient, in rank order; every rank must call it.

    >>> queue = FeatureQueue(3, 2)
    >>> queue.enqueue(torch.tensor([[2.0, 0.0], [0.0, 3.0]]))
    >>> queue.features[:2].tolist(), int(queue.position)
    ([[1.0, 0.0], [0.0, 1.0]], 2)
    """

    features: Tensor
    position: Tensor

    def __init__(
        self, size: int, dim: int, labels: Sequence[str] = (), *, normalize: bool = True
    ) -> None:
        super().__init__()
        self.normalize = normalize
        if size < 1 or dim < 1:
            raise ValueError(f"a queue needs size >= 1 and dim >= 1, got {size} and {dim}")
        self.register_buffer("features", F.normalize(torch.randn(size, dim), dim=1))
        self.register_buffer("position", torch.zeros((), dtype=torch.long))
        self.labels = tuple(labels)
        for name in self.labels:
            self.register_buffer(f"label_{name}", torch.full((size,), -1))

    def __len__(self) -> int:
        return len(self.features)

    def label(self, name: str) -> Tensor:
        """A label of the rows, (K,) int64; e.g. for ``id_mask(ids, queue.label("ids"))``.

        Raises:
            KeyError: the queue has no label of this name.
        """
        if name not in self.labels:
            raise KeyError(f"this queue has no label {name!r}, only {list(self.labels)}")
        return cast(Tensor, getattr(self, f"label_{name}"))

    def enqueue(self, features: Tensor, **labels: Tensor) -> None:
        """Overwrite the oldest rows with those of all ranks; of more than K the last K stay.

        Args:
            features: (B, D) of this rank.
            labels: (B,) integers for each of the queue's labels.

        Raises:
            ValueError: another dimension than the queue's, or labels that are missing, unknown or
                of another number.
        """
        self._write(features, labels)

    @torch.no_grad()
    def _write(self, features: Tensor, labels: Mapping[str, Tensor]) -> int:
        """The number of rows of all ranks."""
        if set(labels) != set(self.labels) or any(
            value.shape != features.shape[:1] for value in labels.values()
        ):
            shapes = {name: tuple(value.shape) for name, value in labels.items()}
            raise ValueError(
                f"expected labels {list(self.labels)}, one for each of {len(features)} rows, "
                f"got {shapes}"
            )
        if features.ndim != 2 or features.shape[1] != self.features.shape[1]:
            raise ValueError(
                f"expected (B, {self.features.shape[1]}) features, got {tuple(features.shape)}"
            )
        rows = all_gather_no_grad(features).to(self.features.dtype)
        rows = F.normalize(rows, dim=1) if self.normalize else rows
        size, count = len(self), len(rows)
        rows = rows[-size:]
        first = self.position + count - len(rows)
        index = (first + torch.arange(len(rows), device=rows.device)) % size
        self.features[index] = rows
        for name, value in labels.items():
            FeatureQueue.label(self, name)[index] = all_gather_no_grad(value.long())[-size:]
        self.position.copy_((self.position + count) % size)
        return count


class GrowingQueue(FeatureQueue):
    """Queue that starts empty and grows to its size, so that no negative is a random direction.

    Source: Wu et al. 2022, "ESimCSE", section 3.2, arXiv 2109.04380.

    Attributes:
        filled: buffer, 0-dim int64, the number of rows stored so far.

    >>> queue = GrowingQueue(3, 2)
    >>> queue.rows() is None
    True
    >>> queue.enqueue(torch.eye(2))
    >>> queue.rows().tolist()
    [[1.0, 0.0], [0.0, 1.0]]
    """

    filled: Tensor

    def __init__(
        self, size: int, dim: int, labels: Sequence[str] = (), *, normalize: bool = True
    ) -> None:
        super().__init__(size, dim, labels, normalize=normalize)
        self.features.zero_()
        self.register_buffer("filled", torch.zeros((), dtype=torch.long))

    def enqueue(self, features: Tensor, **labels: Tensor) -> None:
        """See `FeatureQueue.enqueue`."""
        self.filled.add_(self._write(features, labels)).clamp_(max=len(self))

    def label(self, name: str) -> Tensor:
        """A label of the stored rows, (M,) int64, in the order of `rows`."""
        return super().label(name)[: int(self.filled)]

    def rows(self) -> Tensor | None:
        """What is stored, (M, D) with M <= K, in no particular order; None while empty."""
        stored = int(self.filled)
        return self.features[:stored] if stored else None


class QueueSet(nn.ModuleDict):
    """Queues by name that are written together, so that row i of all belongs to one sample.

    Args:
        queues: name -> queue, of equal size and labels.

    Raises:
        ValueError: no queues, or queues of unequal size or labels.

    >>> queues = QueueSet({name: FeatureQueue(4, 2, ["ids"]) for name in ("image", "text")})
    >>> rows = {"image": torch.randn(2, 2), "text": torch.randn(2, 2)}
    >>> queues.enqueue(rows, ids=torch.tensor([7, 8]))
    >>> queues["text"].label("ids").tolist()
    [7, 8, -1, -1]
    """

    def __init__(self, queues: Mapping[str, FeatureQueue]) -> None:
        super().__init__(dict(queues))
        if len({(len(queue), queue.labels) for queue in queues.values()}) != 1:
            raise ValueError("a set of queues needs one or more, of equal size and labels")

    def enqueue(self, features: Mapping[str, Tensor], **labels: Tensor) -> None:
        """Write one batch into every queue.

        Args:
            features: (B, D_name) for every queue.
            labels: (B,) integers, shared by all.

        Raises:
            ValueError: a queue without features, unequal numbers of rows, or see
                `FeatureQueue.enqueue`.
        """
        if features.keys() != self.keys() or len({len(x) for x in features.values()}) != 1:
            got = {name: len(x) for name, x in features.items()}
            raise ValueError(f"expected equally many rows for {sorted(self.keys())}, got {got}")
        for name, queue in self.items():
            cast(FeatureQueue, queue).enqueue(features[name], **labels)


class SupportSet(FeatureQueue):
    """Queue that answers with the nearest neighbour of an embedding.

    Source: Dwibedi et al. 2021 (NNCLR), equation 2, arXiv 2104.14548.

    >>> support = SupportSet(2, 2)
    >>> support.enqueue(torch.eye(2))
    >>> support.nearest(torch.tensor([[0.1, 0.9]])).tolist()
    [[0.0, 1.0]]
    """

    @torch.no_grad()
    def nearest(self, features: Tensor) -> Tensor:
        """Row of largest cosine for each embedding; carries no gradient.

        Args:
            features: (B, D).

        Returns:
            (B, D) unit rows, a copy.
        """
        scores = F.normalize(features.to(self.features.dtype), dim=1) @ self.features.T
        return self.features[scores.argmax(dim=1)]
