"""Modules with several positives per row: SupCon, 1-to-K, Hydra."""

from typing import Literal

from torch import Tensor

from .base import PairLoss
from .functional import equations
from .functional.kernel import as_scale
from .functional.multi_positive import disparate, one_to_k, sup_con
from .output import LossOutput


class SupConLoss(PairLoss):
    """Supervised contrastive loss over all ranks; see `functional.sup_con`.

    Source: Khosla et al. 2020, equations 2 and 3, arXiv 2004.11362.

    Args:
        mode: "out" averages log-probabilities over the positives, "in" probabilities.
        gather: see `PairLoss`, also for `normalize`, `backend`, `memory_budget` and `precision`.

    Raises:
        ValueError: an unknown mode.

    Distributed: gathers negatives (local if `gather=False`).

    >>> import torch
    >>> z, y = torch.eye(2).repeat(2, 1), torch.tensor([0, 1, 0, 1])
    >>> SupConLoss()(z, y, scale=torch.tensor(4.0).log()).loss.exp()  # (4 + 1 + 1) / 4
    tensor(1.5000)
    """

    def __init__(
        self,
        mode: Literal["out", "in"] = "out",
        *,
        gather: bool = True,
        normalize: bool = True,
        backend: str = "auto",
        memory_budget: int | None = None,
        precision: str = "auto",
    ) -> None:
        super().__init__(
            gather=gather,
            normalize=normalize,
            backend=backend,
            memory_budget=memory_budget,
            precision=precision,
        )
        if mode not in ("out", "in"):
            raise ValueError(f"mode must be 'out' or 'in', got {mode!r}")
        self.mode: Literal["out", "in"] = mode

    def forward(
        self,
        embeddings: Tensor,
        labels: Tensor,
        scale: Tensor | float,
        *,
        keys: Tensor | None = None,
        key_labels: Tensor | None = None,
    ) -> LossOutput:
        """Loss of a batch.

        Args:
            embeddings: (B, D), or (B, V, D) for V views of every sample, raw.
            labels: (B,) int64.
            scale: multiplier of the cosines; 1/0.07 in the paper.
            keys: (M, D) other vectors to contrast with in place of the batch itself: another view
                (gathered like the batch), or a memory bank (equal on all ranks: `gather=False`).
            key_labels: (M,) int64, labels of `keys`.

        Returns:
            Per sample, or with views one value for each of the B * V rows in that order.

        Raises:
            ValueError: shapes that do not fit, or keys without labels.
        """
        z = self.prepare(embeddings)
        if not isinstance(labels, Tensor):
            raise ValueError(f"labels must be a tensor, got {type(labels).__name__}")
        if z.ndim == 3:
            labels = labels.repeat_interleave(z.shape[1])
            z = z.flatten(0, 1)
        if (keys is None) != (key_labels is None):
            raise ValueError("keys and key_labels belong together: give both or neither")
        if keys is None or key_labels is None:
            fits = z.shape[0] > 1 and labels.shape == z.shape[:1]
            if fits and self.runs_plain(z, z, "labels"):
                return equations.sup_con(z, z, labels, labels, as_scale(scale), True, self.mode)
            return sup_con(
                z, z, labels, labels, scale, exclude_self=True, mode=self.mode, **self.kernel
            )
        return sup_con(
            z, self.prepare(keys), labels, key_labels, scale, mode=self.mode, **self.kernel
        )


class OneToKLoss(PairLoss):
    """Contrast every image with its K texts jointly, and back, over all ranks.

    See `functional.one_to_k`.

    Source: Nie et al. 2024, section 3.3, arXiv 2406.18254.

    Args:
        num_texts: K >= 1 texts per image.
        positives_compete: whether the other texts of an image stay in the denominator.
        image_weight: weight of the image -> text direction.
        text_weight: weight of the text -> image direction; None is 1/K (the official code).
        gather: see `PairLoss`, also for `normalize`, `backend`, `memory_budget` and `precision`.

    Raises:
        ValueError: `num_texts` < 1.

    Distributed: gathers negatives (local if `gather=False`).

    >>> import torch
    >>> image, text = torch.eye(2), torch.eye(2).repeat_interleave(2, 0)
    >>> scale = torch.tensor(3.0).log()  # i2t = log(8/3), t2i = log(4/3), weights 1 and 1/2
    >>> OneToKLoss(num_texts=2)(image, text, scale).loss.round(decimals=4)
    tensor(0.5623)
    """

    def __init__(
        self,
        num_texts: int,
        positives_compete: bool = True,
        image_weight: float = 1.0,
        text_weight: float | None = None,
        *,
        gather: bool = True,
        normalize: bool = True,
        backend: str = "auto",
        memory_budget: int | None = None,
        precision: str = "auto",
    ) -> None:
        super().__init__(
            gather=gather,
            normalize=normalize,
            backend=backend,
            memory_budget=memory_budget,
            precision=precision,
        )
        if num_texts < 1:
            raise ValueError(f"num_texts must be >= 1, got {num_texts}")
        self.num_texts = num_texts
        self.positives_compete = positives_compete
        self.image_weight = image_weight
        self.text_weight = text_weight

    def forward(self, image: Tensor, text: Tensor, scale: Tensor | float) -> LossOutput:
        """Loss of a batch.

        Args:
            image: (B, D) raw embeddings.
            text: (B * K, D) or (B, K, D), the texts of an image next to each other.
            scale: multiplier of the cosines.
        """
        return one_to_k(
            self.prepare(image),
            self.prepare(text).flatten(0, -2),
            scale,
            self.num_texts,
            positives_compete=self.positives_compete,
            image_weight=self.image_weight,
            text_weight=self.text_weight,
            **self.kernel,
        )


class HydraLoss(PairLoss):
    """Agreement of arbitrary class pairs in gated subspaces, over all ranks.

    See `functional.disparate`.

    Source: Wu et al. 2024, "Rethinking Positive Pairs in Contrastive Learning", and its released
    code, arXiv 2410.18200.

    Args:
        exclude_self: with the batch as keys, a sample is no positive of itself. False reproduces
            the released code.
        gather: see `PairLoss`, also for `normalize`, `backend`, `memory_budget` and `precision`.

    Distributed: gathers negatives (local if `gather=False`).

    Deviation: the paper re-normalises gated vectors, the released code does not; neither do we,
        which keeps the similarity bilinear.

    >>> import torch
    >>> z, y = torch.eye(2), torch.tensor([0, 1])
    >>> loss = HydraLoss(exclude_self=False)
    >>> loss(z, torch.ones(2, 2), y, y, scale=torch.tensor(3.0).log()).loss.exp()
    tensor(1.3333)
    """

    def __init__(
        self,
        exclude_self: bool = True,
        *,
        gather: bool = True,
        normalize: bool = True,
        backend: str = "auto",
        memory_budget: int | None = None,
        precision: str = "auto",
    ) -> None:
        super().__init__(
            gather=gather,
            normalize=normalize,
            backend=backend,
            memory_budget=memory_budget,
            precision=precision,
        )
        self.exclude_self = exclude_self

    def forward(
        self,
        embeddings: Tensor,
        gate: Tensor,
        labels: Tensor,
        partner_labels: Tensor,
        scale: Tensor | float,
        keys: Tensor | None = None,
    ) -> LossOutput:
        """Loss of a batch.

        Args:
            embeddings: (B, D) raw.
            gate: (B, D) in [0, 1], of the class pair (label, partner label).
            labels: (B,) int64.
            partner_labels: (B,) int64, class each row is to agree with.
            scale: multiplier of the similarities.
            keys: (B, D) another view of the same samples; None contrasts the batch with itself.
        """
        z = self.prepare(embeddings)
        return disparate(
            z,
            z if keys is None else self.prepare(keys),
            gate,
            labels,
            partner_labels,
            labels,
            scale,
            exclude_self=self.exclude_self and keys is None,
            **self.kernel,
        )
