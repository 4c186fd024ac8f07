"""What `bench_ratios.py` compares: plain torch, compiled, ours, and public implementations."""

import importlib
from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

SCALE, BIAS = 14.3, -10.0  # 1 / 0.07
LABELS = 8  # rows of one label, SupCon
Loss = Callable[..., Tensor]


class Case(NamedTuple):
    """A loss at one size."""

    loss: str
    num: int
    dim: int


# --- plain torch, from raw embeddings -------------------------------------------------------------


def info_nce(query: Tensor, key: Tensor) -> Tensor:
    """One-way InfoNCE."""
    logits = SCALE * F.normalize(query) @ F.normalize(key).T
    return F.cross_entropy(logits, torch.arange(len(query)))


def info_nce_hard(query: Tensor, key: Tensor, hard: Tensor) -> Tensor:
    """One-way InfoNCE, a hard negative for each row."""
    keys = torch.cat([F.normalize(key), F.normalize(hard)])
    return F.cross_entropy(SCALE * F.normalize(query) @ keys.T, torch.arange(len(query)))


def clip(image: Tensor, text: Tensor, scale: Tensor) -> Tensor:
    """Symmetric InfoNCE, one matrix."""
    logits = scale * F.normalize(image) @ F.normalize(text).T
    labels = torch.arange(len(image))
    return (F.cross_entropy(logits, labels) + F.cross_entropy(logits.T, labels)) / 2


def nt_xent(view_1: Tensor, view_2: Tensor) -> Tensor:
    """NT-Xent of 2N vectors."""
    z = F.normalize(torch.cat([view_1, view_2]))
    logits = SCALE * z @ z.T
    logits.fill_diagonal_(-torch.inf)
    return F.cross_entropy(logits, torch.arange(len(z)).roll(len(view_1)))


def siglip(image: Tensor, text: Tensor, scale: Tensor, bias: Tensor) -> Tensor:
    """Sigmoid loss."""
    logits = scale * F.normalize(image) @ F.normalize(text).T + bias
    signs = 2 * torch.eye(len(image)) - 1
    return -F.logsigmoid(signs * logits).sum() / len(image)


def sup_con(z: Tensor, labels: Tensor) -> Tensor:
    """SupCon, mean over positives outside the logarithm."""
    z = F.normalize(z)
    logits = SCALE * z @ z.T
    logits.fill_diagonal_(-torch.inf)
    positive = (labels[:, None] == labels).fill_diagonal_(False)
    log_prob = logits.log_softmax(1).masked_fill(~positive, 0)
    return -(log_prob.sum(1) / positive.sum(1)).mean()


def dcl(view_1: Tensor, view_2: Tensor) -> Tensor:
    """Decoupled contrastive loss of 2N vectors."""
    z = F.normalize(torch.cat([view_1, view_2]))
    logits = SCALE * z @ z.T
    num = len(view_1)
    positive = logits.diagonal(num)
    same = torch.eye(num, dtype=torch.bool).repeat(2, 2)
    negatives = logits.masked_fill(same, -torch.inf).logsumexp(1)
    return 2 * (negatives.mean() - positive.mean())


PLAIN: dict[str, Loss] = {
    "info_nce": info_nce,
    "info_nce_hard": info_nce_hard,
    "clip": clip,
    "nt_xent": nt_xent,
    "siglip": siglip,
    "sup_con": sup_con,
    "dcl": dcl,
}
LOSSES = tuple(PLAIN)


# --- ours and the others --------------------------------------------------------------------------


def ours(name: str) -> Loss:
    """The module of this repository."""
    from common.losses.image_text import ClipLoss, SigLipLoss
    from common.losses.info_nce import InfoNCELoss
    from common.losses.multi_positive import SupConLoss
    from common.losses.two_view import DCLLoss, NTXentLoss

    if name == "info_nce":
        info = InfoNCELoss()
        return lambda q, k: info(q, k, SCALE).loss
    if name == "info_nce_hard":
        hard = InfoNCELoss()
        return lambda q, k, h: hard(q, k, SCALE, hard_negatives=h).loss
    if name == "sup_con":
        sup = SupConLoss()
        return lambda z, y: sup(z, y, SCALE).loss
    if name in ("nt_xent", "dcl"):
        views = NTXentLoss() if name == "nt_xent" else DCLLoss()
        return lambda a, b: views(a, b, SCALE).loss
    pairs = ClipLoss() if name == "clip" else SigLipLoss()
    return lambda *args: pairs(*args).loss


def called_as(library: str, module: str, name: str) -> Loss:
    """A loss with the call of a library, from that library's module or from our adapter.

    NT-Xent of pytorch-metric-learning lists all triplets and is left out.
    """
    classes = CLASSES[library]
    if name not in classes:
        raise ImportError(f"{library} has no {name}")
    make = getattr(importlib.import_module(module), classes[name])
    if library == "open_clip":
        loss = make(cache_labels=True) if name == "clip" else make()
        return lambda a, b, *rest: loss(F.normalize(a), F.normalize(b), *rest)
    if library == "sentence_transformers":
        ranking = make(None, scale=SCALE)
        return lambda *columns: ranking.compute_loss_from_embeddings(list(columns), None)
    of_views: Loss = make(temperature=1 / SCALE)
    if name == "dcl":
        return lambda *views: 2 * of_views(*views)  # lightly averages the two directions
    return of_views


def adapter(name: str) -> Loss:
    """Ours with the call of the library that has this loss."""
    library = next(library for library, classes in CLASSES.items() if name in classes)
    return called_as(library, f"common.losses.adapters.{library}", name)


def contender(kind: str, name: str) -> Loss:
    """A loss by whose it is."""
    if kind == "plain":
        return PLAIN[name]
    if kind == "compiled":
        return torch.compile(PLAIN[name], dynamic=False)
    return MODULES[kind](name)


CLASSES = {
    "open_clip": {"clip": "ClipLoss", "siglip": "SigLipLoss"},
    "sentence_transformers": dict.fromkeys(
        ("info_nce", "info_nce_hard"), "MultipleNegativesRankingLoss"
    ),
    "lightly": {"nt_xent": "NTXentLoss", "dcl": "DCLLoss"},
    "pytorch_metric_learning": {"sup_con": "SupConLoss"},
}
WHERE = {
    "open_clip": "open_clip.loss",
    "sentence_transformers": "sentence_transformers.losses",
    "lightly": "lightly.loss",
    "pytorch_metric_learning": "pytorch_metric_learning.losses",
}
MODULES: dict[str, Callable[[str], Loss]] = {
    "ours": ours,
    "adapter": adapter,
    **{name: partial(called_as, name, module) for name, module in WHERE.items()},
}
NAMES = ("plain", "compiled", "products", *MODULES)


def products(case: Case) -> Callable[[], list[Tensor]]:
    """The three matrix products that no implementation can leave out: logits, two gradients."""
    views = 2 if case.loss in ("nt_xent", "dcl") else 1
    columns = 2 if case.loss == "info_nce_hard" else views
    query, keys = torch.randn(views * case.num, case.dim), torch.randn(columns * case.num, case.dim)

    def run() -> list[Tensor]:
        logits = query @ keys.T
        _ = logits @ keys, logits.T @ query
        return []

    return run


def step(kind: str, case: Case) -> Callable[[], list[Tensor]]:
    """Forward and backward; returns the loss and the norms of the gradients."""
    if kind == "products":
        return products(case)
    loss = contender(kind, case.loss)
    generator = torch.Generator().manual_seed(case.num)
    rows = [torch.randn(case.num, case.dim, generator=generator) for _ in range(3)]
    rows[1] = rows[0] + 1.5 * rows[1]
    leaves = [x.requires_grad_() for x in rows[: 3 if case.loss == "info_nce_hard" else 2]]
    rest: list[Tensor] = []
    if case.loss == "sup_con":
        del leaves[1:]
        rest = [torch.arange(case.num) // LABELS]
    elif case.loss in ("clip", "siglip"):
        leaves.append(torch.tensor(SCALE, requires_grad=True))
    if case.loss == "siglip":
        leaves.append(torch.tensor(BIAS, requires_grad=True))

    def run() -> list[Tensor]:
        for leaf in leaves:
            leaf.grad = None
        value = loss(*leaves, *rest)
        value.backward()
        return [value.detach(), *(x.grad.norm() for x in leaves if x.grad is not None)]

    return run
