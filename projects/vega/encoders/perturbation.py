"""Changes of the normalised embeddings of any encoder, for adversarial fine-tuning (SiFT)."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from common.config import UserError

LAYER = "embeddings.LayerNorm"  # end of the name of the norm behind the sum of the embeddings
EPS = 1e-7
EPSILON = 1e-6  # added to the largest entry of a gradient before it divides


def first_perturbation(like: Tensor, std: float) -> Tensor:
    """N(0, std^2) clipped to two deviations, from the global random state, in float32 at least.

    Source: He et al. 2021, section 4, arXiv 2006.03654; released code.

    Args:
        like: (..., D), gives shape and device.
        std: > 0.
    """
    wide = torch.promote_types(like.dtype, torch.float32)
    return torch.randn_like(like, dtype=wide).mul_(std).clamp_(-2 * std, 2 * std)


def perturbation_step(delta: Tensor, grad: Tensor, step: float) -> Tensor:
    """One ascent step: delta + step * g / (max_d |g_d| + 1e-6), maximum over the last dim.

    Source: He et al. 2021, section 4, arXiv 2006.03654; released code.

    Args:
        delta: (..., D).
        grad: (..., D), of the loss to raise.
        step: epsilon, > 0.

    >>> perturbation_step(torch.zeros(1, 2), torch.tensor([[4.0, -2.0]]), 0.1).round(decimals=4)
    tensor([[ 0.1000, -0.0500]])
    """
    return (delta + step * grad / (EPSILON + grad.abs().amax(-1, keepdim=True))).detach()


class EmbeddingPerturbation:
    """`clean` normalises and records the embeddings, `changed` adds a delta to them.

    The norm without parameters stands before the encoder's own one. A model may be run several
    times within a context (passes of a batch, by length): run it in the same order in both.

    Source: He et al. 2021, "DeBERTa", section 4 (SiFT), arXiv 2006.03654; released code.

    Args:
        model: holds one such norm.
        layer: end of its name.

    Raises:
        UserError: no norm of that name, or several.
    """

    def __init__(self, model: nn.Module, layer: str = LAYER) -> None:
        parts = [part for name, part in model.named_modules() if name.endswith(layer)]
        if len(parts) != 1:
            raise UserError(
                f"adversarial fine-tuning needs one '{layer}' in {type(model).__name__}, which has"
                f" {len(parts)}: set sift.layer"
            )
        self.norm, self.model = parts[0], model
        self.noted: list[Tensor] = []

    @contextmanager
    def clean(self) -> Iterator[None]:
        """The embeddings of every run are normalised and noted."""
        self.noted = []

        def hook(module: nn.Module, inputs: tuple[Any, ...]) -> Tensor:
            (x,) = inputs
            self.noted.append(F.layer_norm(x, x.shape[-1:], eps=EPS))
            return self.noted[-1]

        yield from self._hooked(hook)

    @contextmanager
    def changed(self, deltas: list[Tensor]) -> Iterator[None]:
        """Run number i reads what was noted of it, without its gradient, plus ``deltas[i]``."""
        places = iter(zip(self.noted, deltas, strict=True))

        def hook(module: nn.Module, inputs: tuple[Any, ...]) -> Tensor:
            noted, delta = next(places)
            return noted.detach() + delta.to(noted.dtype)

        yield from self._hooked(hook)

    def _hooked(self, hook: Callable[..., Tensor]) -> Iterator[None]:
        handle = self.norm.register_forward_pre_hook(hook)
        try:
            yield
        finally:
            handle.remove()

    def ascend(
        self, run: Callable[[], Tensor], loss: Callable[[Tensor], Tensor], std: float, step: float
    ) -> list[Tensor]:
        """Deltas after one step that raises the loss.

        The weights get no gradient: the graph ends at the deltas.

        Args:
            run: the model's logits, computed as within `clean`.
            loss: logits -> scalar to raise: a sum over the rows, so that a row's step does not
                depend on how many there are (1e-6 is added to its gradient's largest entry).
            std: of the deltas at the beginning, see `first_perturbation`.
            step: see `perturbation_step`.
        """
        deltas = [first_perturbation(noted.detach(), std).requires_grad_() for noted in self.noted]
        with self._frozen(), self.changed(deltas):
            raised = loss(run())
        grads = torch.autograd.grad(raised, deltas)
        if not all(bool(torch.isfinite(grad).all()) for grad in grads):
            return [
                delta.detach() for delta in deltas
            ]  # half precision: the released code's choice
        return [perturbation_step(d, g, step) for d, g in zip(deltas, grads, strict=True)]

    @contextmanager
    def _frozen(self) -> Iterator[None]:
        trained = [p for p in self.model.parameters() if p.requires_grad]
        for parameter in trained:
            parameter.requires_grad_(False)
        try:
            yield
        finally:
            for parameter in trained:
                parameter.requires_grad_(True)
