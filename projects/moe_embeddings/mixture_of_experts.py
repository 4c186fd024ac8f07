"""Feed-forward layers as mixtures of experts: conversion, routing, grouped execution.

Source: Shazeer et al. 2017, "Outrageously large neural networks", arXiv 1701.06538; conversion of a
dense model by copies of its layers: Komatsuzaki et al. 2022, "Sparse upcycling", arXiv 2212.05055;
routing of whole texts: Hallee et al. 2024, arXiv 2401.15713, and released code.

# B texts, L tokens, D dim, E experts
"""

import copy
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import torch
from torch import Tensor, nn

from common.config import UserError

Routing = Literal["enforced", "switch", "sentence", "token"]
LayerChoice = Literal["all", "middle"]

_WHOLE = ("mlp", "ffn", "feed_forward")  # one module of a block, (B, L, D) -> (B, L, D)
_SPLIT = "intermediate"  # BERT's way: this, then `output.dense`, then norm and residual


class Routes:
    """What the mixture layers of one model share: where rows go, and what the routers said.

    Attributes:
        logits: of the layers with a router in the last pass, each (B, E), means over real tokens.
    """

    def __init__(self) -> None:
        self.assignment: Tensor | None = None
        self.sizes: list[int] | None = None
        self.mask: Tensor | None = None
        self.logits: list[Tensor] = []

    def begin(
        self,
        assignment: Tensor | None = None,
        mask: Tensor | None = None,
        sizes: Sequence[int] | None = None,
    ) -> None:
        """Say what the next pass of the model is about; it holds until the next call.

        Args:
            assignment: expert of every text (B,) or token (B, L), int64; for routing "enforced".
            mask: (B, L), non-zero at real tokens; None: all are real. For learned routers.
            sizes: texts of each expert, where the texts are in the order of their experts. Then no
                row is moved, and the host waits for no device.
        """
        self.assignment, self.mask, self.logits = assignment, mask, []
        self.sizes = None if sizes is None else list(sizes)


class MixtureOfExperts(nn.Module):
    """Experts in the place of one feed-forward layer, and what decides which of them a row meets.

    | routing | a row is | goes to | times |
    |---|---|---|---|
    | enforced | a text, or a token | the expert that it was assigned | 1 |
    | switch | a text | the best expert of its mean router logits | 1 |
    | sentence | a text | the `top_k` best | their softmax over all experts |
    | token | a token | the `top_k` best of its own logits | their softmax, which then sums to 1 |

    Every expert runs once on the rows that it got, in one piece; also on none, so that its gradient
    is zero instead of missing, which DDP needs.

    Source: Hallee et al. 2024, section "MoE extension", arXiv 2401.15713, and released code;
    "token": Jiang et al. 2024, "Mixtral of experts", equation 1 and released code, arXiv
    2401.04088.

    Args:
        experts: E modules (..., D) -> (..., D).
        dim: D.
        routing: see the table.
        routes: shared by the layers of a model.
        top_k: experts of a row, for "sentence" and "token".

    Raises:
        ValueError: unknown routing, or `top_k` out of 1 to E.

    Deviation: mean logits leave padding out.
    """

    def __init__(
        self,
        experts: Sequence[nn.Module],
        dim: int,
        routing: Routing,
        routes: Routes,
        top_k: int = 2,
    ) -> None:
        super().__init__()
        if routing not in get_args(Routing):
            raise ValueError(f"routing must be one of {get_args(Routing)}, got {routing!r}")
        if not 1 <= top_k <= len(experts):
            raise ValueError(f"top_k must be in 1 to {len(experts)}, got {top_k}")
        self.experts, self.routing, self.routes = nn.ModuleList(experts), routing, routes
        self.top_k = top_k if routing in ("sentence", "token") else 1
        learned = routing != "enforced"
        self.gate = nn.Linear(dim, len(experts), bias=False) if learned else None

    def forward(self, x: Tensor) -> Tensor:
        """(B, L, D) -> (B, L, D), rows in the given order.

        Raises:
            ValueError: no assignment for "enforced", or one of another number of rows.
        """
        if self.routing == "enforced":
            return self._enforced(x)
        assert self.gate is not None
        logits = self.gate(x)
        mean = _masked_mean(logits, self.routes.mask)
        self.routes.logits.append(mean)
        if self.routing == "switch":
            return grouped(self.experts, x, mean.argmax(-1))
        if self.routing == "sentence":
            weights, chosen = mean.softmax(-1).topk(self.top_k)
            return weighted(self.experts, x, chosen, weights)
        flat = x.flatten(0, 1)
        # in float32 whatever the rows are in, as released
        weights, chosen = logits.flatten(0, 1).softmax(-1, dtype=torch.float32).topk(self.top_k)
        weights = (weights / weights.sum(-1, keepdim=True)).to(x.dtype)
        return weighted(self.experts, flat, chosen, weights).view_as(x)

    def _enforced(self, x: Tensor) -> Tensor:
        if self.routes.sizes is not None:
            return _in_order(self.experts, x, self.routes.sizes)
        assignment = self.routes.assignment
        if assignment is None or assignment.shape != x.shape[: assignment.ndim]:
            shape = None if assignment is None else tuple(assignment.shape)
            raise ValueError(
                f"rows {tuple(x.shape[:2])} need an expert each, assignment is {shape}"
            )
        if assignment.ndim == 1:
            return grouped(self.experts, x, assignment)
        return grouped(self.experts, x.flatten(0, 1), assignment.flatten()).view_as(x)

    def extra_repr(self) -> str:
        """Options, for printing."""
        return f"routing={self.routing!r}, top_k={self.top_k}"


def grouped(experts: Sequence[nn.Module] | nn.ModuleList, rows: Tensor, expert: Tensor) -> Tensor:
    """Every row by its expert, each expert called once; rows stay in the given order.

    Args:
        experts: E modules (..., D) -> (..., D).
        rows: (R, ..., D).
        expert: (R,) int64 in [0, E). One on a device makes the host wait for it once (sizes of the
            groups); one on the meta device counts as evenly spread.

    Returns:
        (R, ..., D).

    >>> double, negate = nn.Linear(1, 1, bias=False), nn.Linear(1, 1, bias=False)
    >>> _ = double.weight.data.fill_(2.0), negate.weight.data.fill_(-1.0)
    >>> x, expert = torch.tensor([[1.0], [2.0], [3.0]]), torch.tensor([1, 0, 1])
    >>> grouped([double, negate], x, expert)[:, 0]
    tensor([-1.,  4., -3.], grad_fn=<SelectBackward0>)
    """
    order = expert.argsort(stable=True)
    done = _in_order(experts, rows.index_select(0, order), group_sizes(expert, len(experts)))
    return done.index_select(0, order.argsort())


def weighted(
    experts: Sequence[nn.Module] | nn.ModuleList, rows: Tensor, chosen: Tensor, weights: Tensor
) -> Tensor:
    """Weighted sum over the chosen experts of every row; each expert is called once.

    Args:
        experts: E modules (..., D) -> (..., D).
        rows: (R, ..., D).
        chosen: (R, K) int64 in [0, E).
        weights: (R, K).

    Returns:
        (R, ..., D).
    """
    count = chosen.shape[1]
    done = grouped(experts, rows.repeat_interleave(count, 0), chosen.flatten())
    done = done.reshape(len(rows), count, *rows.shape[1:])
    total: Tensor = (done * weights.reshape(*weights.shape, *[1] * (rows.ndim - 1))).sum(1)
    return total


def group_sizes(expert: Tensor, num_experts: int) -> list[int]:
    """Rows of each expert."""
    if expert.is_meta:  # it has a shape and no values
        return [len(part) for part in expert.tensor_split(num_experts)]
    sizes: list[int] = torch.bincount(expert, minlength=num_experts).tolist()
    return sizes


def _in_order(
    experts: Sequence[nn.Module] | nn.ModuleList, rows: Tensor, sizes: Sequence[int]
) -> Tensor:
    parts = torch.split(rows, list(sizes))
    return torch.cat([run(part) for run, part in zip(experts, parts, strict=True)])


def _masked_mean(logits: Tensor, mask: Tensor | None) -> Tensor:
    if mask is None:
        return logits.mean(1)
    weights = mask.ne(0).to(logits.dtype).unsqueeze(-1)
    return (logits * weights).sum(1) / weights.sum(1)


# -- conversion ----------------------------------------------------------------------------------


@dataclass(frozen=True)
class FeedForward:
    """The feed-forward layer of one block of a transformer.

    Attributes:
        block: of the transformer.
        name: attribute of the block that is replaced.
    """

    block: nn.Module
    name: str

    @property
    def module(self) -> nn.Module:
        """(..., D) -> (..., D), without norm and residual."""
        layer = getattr(self.block, self.name)
        if self.name != _SPLIT:
            assert isinstance(layer, nn.Module)
            return layer
        return nn.Sequential(layer, self.block.output.dense)  # type: ignore[union-attr,arg-type]

    def replace(self, new: nn.Module) -> None:
        """Put a module of the same shapes in its place."""
        setattr(self.block, self.name, new)
        if self.name == _SPLIT:
            self.block.output.dense = nn.Identity()  # type: ignore[union-attr]


def feed_forwards(model: nn.Module) -> list[FeedForward]:
    """Feed-forward layers of an encoder in the order of its blocks.

    BERT and its relatives, ModernBERT, DistilBERT, and decoders whose blocks have an ``mlp``.

    Raises:
        UserError: an architecture whose blocks are not known.
    """
    for blocks in model.modules():
        if isinstance(blocks, nn.ModuleList) and len(blocks):
            names = [_name(block) for block in blocks]
            if all(names):
                pairs = zip(blocks, names, strict=True)
                return [FeedForward(block, name) for block, name in pairs if name is not None]
    raise UserError(
        f"the feed-forward layers of {type(model).__name__} are not known: a block needs one of "
        f"{', '.join(_WHOLE)}, or {_SPLIT} and output.dense"
    )


def _name(block: nn.Module) -> str | None:
    whole = [name for name in _WHOLE if isinstance(getattr(block, name, None), nn.Module)]
    if whole:
        return whole[0]
    split = hasattr(block, _SPLIT) and hasattr(getattr(block, "output", None), "dense")
    return _SPLIT if split else None


def to_mixture(
    model: nn.Module,
    num_experts: int,
    *,
    routing: Routing = "enforced",
    top_k: int = 2,
    layers: LayerChoice = "all",
    install: (
        Callable[[FeedForward, Callable[[Sequence[nn.Module]], MixtureOfExperts]], None] | None
    ) = None,
) -> Routes:
    """Turn the feed-forward layers of a transformer into mixtures of their copies, in place.

    With "enforced" and "switch" the model's outputs stay what they are, whatever the assignment;
    with "token" too, up to rounding.

    Source: Hallee et al. 2024, section "MoE extension", arXiv 2401.15713.

    Args:
        model: see `feed_forwards`.
        num_experts: E.
        routing: see `MixtureOfExperts`.
        top_k: see `MixtureOfExperts`.
        layers: all, or the one in the middle, number ``num_layers // 2`` counted from 0.
        install: puts a mixture into a block in another way; called with the layer and a function
            experts -> mixture. None: copies of the layer take its place.

    Returns:
        What the layers are told before each pass.

    Raises:
        UserError: see `feed_forwards`.
        ValueError: see `MixtureOfExperts`.
    """
    replaced, routes = feed_forwards(model), Routes()
    dim = int(model.config.hidden_size)  # type: ignore[union-attr,arg-type]

    def mixture(experts: Sequence[nn.Module]) -> MixtureOfExperts:
        return MixtureOfExperts(experts, dim, routing, routes, top_k)

    for layer in replaced if layers == "all" else [replaced[len(replaced) // 2]]:
        if install is not None:
            install(layer, mixture)
        else:
            layer.replace(mixture(copies(layer.module, num_experts)))
    return routes


def copies(module: nn.Module, count: int) -> list[nn.Module]:
    """The module itself and `count - 1` deep copies with weights of their own."""
    return [module, *(copy.deepcopy(module) for _ in range(count - 1))]


def mixtures(model: nn.Module) -> Iterator[MixtureOfExperts]:
    """The mixture layers of a model, in order."""
    return (part for part in model.modules() if isinstance(part, MixtureOfExperts))


def parameter_counts(model: nn.Module) -> tuple[int, int]:
    """Parameters of a model: all, and those that a row of a text meets."""
    total = active = sum(p.numel() for p in model.parameters())
    for layer in mixtures(model):
        size = sum(p.numel() for p in layer.experts.parameters())
        active -= size - size * layer.top_k // len(layer.experts)
    return total, active
