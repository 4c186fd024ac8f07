"""Hydra's evaluation: frozen features, collapse diagnostics, subspaces and class relations."""

from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.utils.data import DataLoader

from common.data.lookup import data_root
from common.encoders.modes import evaluated
from common.engine.workspace import Workspace, write_json
from common.evaluation.features import geometry
from common.evaluation.features.frozen import SourceBatches, knn_correct
from common.evaluation.features.knn import knn_accuracy
from common.evaluation.features.linear_probe import fit_logistic_regression, linear_probe
from common.evaluation.figures import class_gallery, embedding_map
from common.evaluation.image_text.image_sets import ImageSetProtocol
from common.evaluation.text.sts import spearman
from projects.hydra.config import Config
from projects.hydra.data import LabelledSet, eval_transform, labelled_set
from projects.hydra.module import Hydra, build_net
from projects.hydra.networks import HydraNet
from projects.hydra.relations import (
    class_similarity,
    gate_overlap,
    hierarchy_paths,
    pair_gallery,
    path_distances,
    subspace_precision,
    unit_projections,
    upper_triangle,
)

PROBE_L2 = (1e-4, 1e-3, 1e-2, 1e-1, 1.0)


def evaluate(cfg: Config, module: Hydra, workspace: Workspace) -> dict[str, float]:
    """Probes, spectrum, subspace precision and class relations of the frozen networks."""
    train, test = labelled_set(cfg, "train"), labelled_set(cfg, "test")
    net = module.net
    with evaluated(net, cfg.trainer.accelerator):
        metrics = evaluate_net(cfg, net, train, test, workspace)
        if cfg.eval.transfer:
            metrics |= transfer(cfg, net, workspace)
    return metrics


def evaluate_net(
    cfg: Config, net: HydraNet, train: LabelledSet, test: LabelledSet, workspace: Workspace
) -> dict[str, float]:
    """All metrics on the config's own data; figures and galleries go to the workspace."""
    fit, held = embed_set(cfg, net, train), embed_set(cfg, net, test)
    metrics = probes(cfg, fit, held)
    workspace.items("linear_probe_top1", probe_items(fit, held, metrics["linear_probe_l2"]))
    k = cfg.eval.neighbours[0]
    votes = knn_correct(fit.features, fit.labels, held.features, held.labels, k=k)
    workspace.items(f"knn{k}_top1", votes)
    if cfg.data.source in ("bundled", "synthetic"):
        metrics |= untrained(cfg, train, test)
    if net.head is not None:
        weight, bias = net.head.weight.float().cpu(), net.head.bias.float().cpu()
        predicted = F.linear(held.features, weight, bias).argmax(dim=1)
        metrics["online_head_top1"] = float((predicted == held.labels).double().mean())
    metrics |= collapse(held)
    z = unit_projections(held.projections)
    metrics |= subspace_precision(
        net, z, held.labels, k=cfg.eval.precision_at, max_pairs=cfg.eval.max_pairs,
        seed=cfg.seed, renormalise=cfg.method.renormalise_after_gate,
    )  # fmt: skip
    metrics |= relations(cfg, net, z, held.labels, test.class_names, workspace)
    show(workspace, fit, train, held, test)
    renormalise = cfg.method.renormalise_after_gate
    rows = pair_gallery(
        net, z, held.labels, test.class_names, lambda i: test.picture(int(held.rows[i])),
        seed=cfg.seed, renormalise=renormalise,
    )  # fmt: skip
    workspace.gallery("other classes in the subspace of a pair", rows)
    return metrics


class Embedded(NamedTuple):
    """Frozen outputs of one set, without images that cannot be read."""

    features: Tensor  # (N, F) float32
    projections: Tensor  # (N, D) float32, raw
    labels: Tensor  # (N,) int64
    rows: Tensor  # (N,) int64, items of the set


def embed_set(cfg: Config, net: HydraNet, data: LabelledSet) -> Embedded:
    """Features and projections of all images of a set."""
    batches = SourceBatches(data.open(eval_transform(cfg.data)), cfg.eval.batch_size)
    loader = DataLoader(batches, batch_size=None, num_workers=cfg.data.num_workers)
    device = next(net.parameters()).device
    features, projections, rows = [], [], []
    for images, kept in loader:
        x, z = net(images.to(device))
        features.append(x.float().cpu())
        projections.append(z.float().cpu())
        rows += list(kept)
    index = torch.tensor(rows)
    return Embedded(torch.cat(features), torch.cat(projections), data.labels[index], index)


def probes(cfg: Config, fit: Embedded, held: Embedded) -> dict[str, float]:
    """Linear probe and kNN of frozen features."""
    classes = cfg.data.num_classes
    sets = (fit.features, fit.labels, held.features, held.labels)
    metrics = linear_probe(*sets, num_classes=classes, l2_grid=PROBE_L2, seed=cfg.seed)
    found = knn_accuracy(*sets, ks=cfg.eval.neighbours, num_classes=classes)
    return metrics | {k: v for k, v in found.items() if "weighted" not in k}


def probe_items(fit: Embedded, held: Embedded, l2: float) -> list[float]:
    """Whether the linear probe of this strength is right on each test image."""
    mean, std = fit.features.mean(dim=0), fit.features.std(dim=0, correction=0).clamp(min=1e-6)
    weight, bias = fit_logistic_regression(
        (fit.features - mean) / std, fit.labels, l2, int(fit.labels.max()) + 1
    )
    predicted = F.linear((held.features - mean) / std, weight, bias).argmax(dim=1)
    return (predicted == held.labels).float().tolist()


def untrained(cfg: Config, train: LabelledSet, test: LabelledSet) -> dict[str, float]:
    """Probes of the encoder before training: what the architecture gives for free."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(cfg.seed)
        raw = build_net(cfg).eval()
    found = probes(cfg, embed_set(cfg, raw, train), embed_set(cfg, raw, test))
    names = ("linear_probe_top1", f"knn{cfg.eval.neighbours[0]}_top1")
    return {f"untrained_{name}": found[name] for name in names}


def collapse(held: Embedded) -> dict[str, float]:
    """Spectrum measures of features and projections; `z_std` is that of raw projections."""
    return {
        "participation_ratio": geometry.participation_ratio(held.features),
        "effective_rank": geometry.effective_rank(held.features),
        "z_participation_ratio": geometry.participation_ratio(held.projections),
        "z_std": float(held.projections.std(dim=0).mean()),
    }


def relations(
    cfg: Config,
    net: HydraNet,
    z: Tensor,
    labels: Tensor,
    class_names: list[str],
    workspace: Workspace,
) -> dict[str, float]:
    """Class matrices, written and drawn, and their rank correlation with the hierarchy."""
    matrices = {"class_similarity": class_similarity(net, z, labels)}
    overlap = gate_overlap(net)
    if overlap is not None:
        matrices["gate_overlap"] = overlap
    paths = hierarchy_paths(class_names, cfg.eval.hierarchy)
    distances = None if paths is None else path_distances(paths)
    content: dict[str, Any] = {"class_names": class_names}
    content |= {name: matrix.tolist() for name, matrix in matrices.items()}
    if distances is not None:
        content["hierarchy_distance"] = distances.tolist()
    write_json(workspace.folder("relations") / "class_relations.json", content)
    metrics = {}
    for name, matrix in matrices.items():
        draw_matrix(workspace, name, matrix, class_names)
        if distances is not None:
            value = spearman(upper_triangle(matrix), upper_triangle(distances))
            metrics[f"{name}_vs_class_distance"] = value
    return metrics


def draw_matrix(workspace: Workspace, name: str, matrix: Tensor, class_names: list[str]) -> None:
    """A class-by-class matrix as a figure; names are left out where there are many."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(5.5, 4.5))
    axes = figure.subplots()
    shown = matrix.clone()
    shown.fill_diagonal_(float("nan"))  # the diagonal would take the whole colour range
    image = axes.imshow(shown, cmap="viridis")
    figure.colorbar(image, ax=axes)
    if len(class_names) <= 30:
        axes.set_xticks(range(len(class_names)), class_names, rotation=90)
        axes.set_yticks(range(len(class_names)), class_names)
    axes.set_title(name.replace("_", " "))
    workspace.figure(name, figure)


def draw_spectrum(workspace: Workspace, features: Tensor) -> None:
    """Singular values of the centred features on a logarithmic axis."""
    from matplotlib.figure import Figure

    values = torch.linalg.svdvals((features - features.mean(dim=0)).double())
    figure = Figure(figsize=(5, 3.5))
    axes = figure.subplots()
    axes.semilogy(range(1, len(values) + 1), (values / values[0]).clamp(min=1e-12))
    axes.set_xlabel("index")
    axes.set_ylabel("singular value / largest")
    axes.set_title("spectrum of test features")
    workspace.figure("spectrum", figure)


def show(
    workspace: Workspace, fit: Embedded, train: LabelledSet, held: Embedded, test: LabelledSet
) -> None:
    """Spectrum, map and nearest training images of some test images."""
    draw_spectrum(workspace, held.features)
    figure = embedding_map(held.features, held.labels, test.class_names, "test features")
    workspace.figure("embedding_map", figure)
    rows = class_gallery(
        (held.features, held.labels),
        (fit.features, fit.labels),
        lambda i: test.picture(int(held.rows[i])),
        lambda i: train.picture(int(fit.rows[i])),
    )
    workspace.gallery("nearest training images", rows)


def transfer(cfg: Config, net: HydraNet, workspace: Workspace) -> dict[str, float]:
    """Linear probe and few-shot accuracy of the frozen encoder on further labelled sets."""
    device = next(net.parameters()).device

    def embed(images: Tensor) -> tuple[Tensor, Tensor]:
        features, projections = net(images.to(device))
        return projections, features

    def no_text(texts: list[str]) -> Tensor:
        raise ValueError("transfer has no text tower: drop zeroshot from eval.transfer_protocols")

    protocol = ImageSetProtocol(
        embed, no_text, eval_transform(cfg.data), data_root(cfg.eval.root or cfg.data.root),
        protocols=cfg.eval.transfer_protocols, templates={}, batch_size=cfg.eval.batch_size,
        num_workers=cfg.data.num_workers, seed=cfg.seed, progress=workspace.progress,
    )  # fmt: skip
    return protocol(cfg.eval.transfer)
