"""DCL's evaluation: frozen features, and the mechanism (coupling multiplier) behind the loss."""

from typing import Any

import torch
from torch import Tensor

from common.data.image.labelled import LabelledPixels
from common.data.samplers import sample_rng
from common.encoders.modes import evaluated, untrained
from common.engine.workspace import Workspace
from common.evaluation.features import geometry
from common.evaluation.features.geometry import uniformity
from common.families.images.evaluation import frozen_parts, probes, save_items, show_features
from common.losses.functional.two_view import npc_multiplier
from common.losses.info_nce import InfoNCELoss
from projects.dcl.config import Config
from projects.dcl.data import image_part, train_transform
from projects.dcl.module import DCL
from projects.dcl.objective import TwoViewObjective

NPC_IMAGES = 1024  # test images of the mechanism table
IDENTITY_IMAGES = 16  # of the gradient identity
VIEW_STREAM = 23


def evaluate(cfg: Config, module: DCL, workspace: Workspace) -> dict[str, float]:
    """Probes of the frozen encoder, the untrained encoder alongside them, and the mechanism."""
    bank, test = image_part(cfg, "bank"), image_part(cfg, "test")
    with evaluated(module, cfg.trainer.accelerator):
        parts = frozen_parts(cfg, module.network.encoder, bank, test, workspace)
        scores = probes(cfg, parts)
        metrics = scores.metrics
        if isinstance(test.data, LabelledPixels):
            raw = untrained(lambda: DCL(cfg), cfg.seed, like=module).network.encoder
            raw_parts = frozen_parts(cfg, raw, bank, test, workspace)
            before = probes(cfg, raw_parts, linear=False).metrics
            primary = f"knn{cfg.eval.items_k}_top1"
            metrics[f"untrained_{primary}"] = before[primary]
            metrics |= mechanism(cfg, module, test.data, workspace)
    save_items(cfg, scores, workspace)
    title = f"test features, {cfg.method.loss} on {cfg.method.host}"
    show_features(workspace, parts, bank, test, title)
    return metrics


# -- mechanism -----------------------------------------------------------------------------------


def mechanism(
    cfg: Config, module: DCL, test: LabelledPixels, workspace: Workspace
) -> dict[str, float]:
    """Coupling q_B against batch size, gradient identity, alignment of positives.

    The same augmented pairs of test images are cut into batches of each size, so that only the
    number of negatives differs. The loss is the SimCLR form, whatever the host was.
    """
    z_1, z_2 = two_views(cfg, module, test)
    metrics = {}
    for size in cfg.eval.npc_batch_sizes:
        npc = batch_npc(cfg, z_1, z_2, size)
        if len(npc):
            metrics[f"npc_mean_batch{size}"] = float(npc.mean())
            metrics[f"npc_variation_batch{size}"] = float(npc.std() / npc.mean())
    few = slice(0, IDENTITY_IMAGES)
    metrics["gradient_identity_error"] = gradient_identity_error(
        z_1[few], z_2[few], cfg.method.temperature
    )
    metrics["alignment"] = geometry.alignment(z_1, z_2)
    metrics["projection_uniformity"] = uniformity(z_1)
    workspace.figure("npc", npc_figure(metrics, cfg.eval.npc_batch_sizes))
    return metrics


def two_views(cfg: Config, module: DCL, test: LabelledPixels) -> tuple[Tensor, Tensor]:
    """Raw embeddings (N, D) float64 of two augmented views of evenly spaced test images."""
    rows = torch.arange(0, len(test.labels), max(1, len(test.labels) // NPC_IMAGES))[:NPC_IMAGES]
    order = torch.from_numpy(sample_rng(0, 0, 0, VIEW_STREAM).permutation(len(rows)))
    images, transform = test.images[rows[order]], train_transform(cfg.data)
    device = next(module.parameters()).device
    embedded = []
    for view in (1, 2):
        rngs = [sample_rng(0, view, i, VIEW_STREAM) for i in range(len(images))]
        parts = torch.split(transform.batch(images, rngs), cfg.eval.batch_size)
        embedded.append(torch.cat([module.network(part.to(device)).cpu() for part in parts]))
    return embedded[0].double(), embedded[1].double()


def batch_npc(cfg: Config, z_1: Tensor, z_2: Tensor, batch_size: int) -> Tensor:
    """q_B of all anchors when the pairs come in batches of a size; an incomplete one is dropped."""
    objective = TwoViewObjective(cfg.method)
    objective.loss.gather = False
    pairs = zip(torch.split(z_1, batch_size), torch.split(z_2, batch_size), strict=True)
    parts = [objective.npc(a, b) for a, b in pairs if len(a) == batch_size]
    return torch.cat(parts) if parts else z_1.new_empty(0)


def gradient_identity_error(z_1: Tensor, z_2: Tensor, temperature: float) -> float:
    """Largest relative difference between InfoNCE's gradient and q_B times DCL's, over anchors.

    Each anchor's one-way loss is differentiated with respect to the anchor alone.

    Source: Yeh et al. 2022, proposition 1, arXiv 2110.06848.

    Args:
        z_1: (N, D) raw embeddings of view 1, the anchors; N >= 2.
        z_2: (N, D) of view 2.
        temperature: > 0.
    """
    with torch.inference_mode(False), torch.enable_grad():
        z_1 = torch.nn.functional.normalize(z_1.clone().double(), dim=1)
        z_2 = torch.nn.functional.normalize(z_2.clone().double(), dim=1)
        errors = []
        for i in range(len(z_1)):
            others = torch.arange(len(z_1)) != i
            negatives = torch.cat([z_1[others], z_2[others]])
            coupled, _ = _anchor_gradient(z_1[i], z_2[i], negatives, temperature, False)
            decoupled, gap = _anchor_gradient(z_1[i], z_2[i], negatives, temperature, True)
            q = npc_multiplier(gap, torch.zeros_like(gap))
            errors.append((coupled - q * decoupled).norm() / coupled.norm())
    return float(torch.stack(errors).max())


def _anchor_gradient(
    anchor: Tensor, positive: Tensor, negatives: Tensor, temperature: float, decoupled: bool
) -> tuple[Tensor, Tensor]:
    """Gradient with respect to the anchor, and the loss."""
    anchor = anchor[None].clone().requires_grad_()
    loss = InfoNCELoss(in_batch=False, decoupled=decoupled, gather=False, normalize=False)
    value = loss(anchor, positive[None], 1 / temperature, queue=negatives).loss
    (gradient,) = torch.autograd.grad(value, anchor)
    return gradient[0], value.detach()


def npc_figure(metrics: dict[str, float], batch_sizes: list[int]) -> Any:
    """Mean of q_B with one standard deviation against batch size."""
    from matplotlib.figure import Figure

    sizes = [b for b in batch_sizes if f"npc_mean_batch{b}" in metrics]
    mean = [metrics[f"npc_mean_batch{b}"] for b in sizes]
    spread = [m * metrics[f"npc_variation_batch{b}"] for m, b in zip(mean, sizes, strict=True)]
    figure = Figure(figsize=(4.5, 3))
    axes = figure.subplots()
    axes.errorbar(sizes, mean, yerr=spread, marker="o", capsize=3)
    axes.set_xscale("log", base=2)
    axes.set_xlabel("batch size")
    axes.set_ylabel("coupling multiplier q_B")
    return figure
