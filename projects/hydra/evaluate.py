"""Hydra's evaluation: frozen features, collapse diagnostics, subspaces and class relations."""

import math
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from common.data.image.parts import ImagePart
from common.data.lookup import data_root
from common.encoders.modes import evaluated, untrained
from common.engine.workspace import Workspace, write_json
from common.evaluation.features import geometry
from common.evaluation.features.frozen import source_outputs
from common.evaluation.image_text.image_sets import ImageSetProtocol
from common.evaluation.text.sts import spearman
from common.families.images.data import eval_transform
from common.families.images.evaluation import (
    Frozen,
    FrozenParts,
    probes,
    save_items,
    show_features,
)
from projects.hydra.config import Config
from projects.hydra.data import image_part
from projects.hydra.module import Hydra
from projects.hydra.networks import HydraNet, build_net
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


def evaluate(cfg: Config, module: Hydra, workspace: Workspace) -> dict[str, float]:
    """Probes, spectrum, subspace precision and class relations of the frozen networks."""
    train, test = image_part(cfg, "train"), image_part(cfg, "test")
    net = module.network
    with evaluated(net, cfg.trainer.accelerator):
        metrics = evaluate_net(cfg, net, train, test, workspace)
        if cfg.eval.transfer:
            metrics |= transfer(cfg, net, workspace)
    return metrics


def evaluate_net(
    cfg: Config, net: HydraNet, train: ImagePart, test: ImagePart, workspace: Workspace
) -> dict[str, float]:
    """All metrics on the config's own data; figures and galleries go to the workspace."""
    parts, raw_z = embed_parts(cfg, net, train, test, workspace)
    scores = probes(cfg, parts)
    metrics = scores.metrics
    save_items(cfg, scores, workspace)
    if cfg.data.source in ("bundled", "synthetic"):
        raw = untrained(lambda: build_net(cfg), cfg.seed, like=net)
        before = probes(cfg, embed_parts(cfg, raw, train, test, workspace)[0]).metrics
        names = ("linear_probe_top1", f"knn{cfg.eval.items_k}_top1")
        metrics |= {f"untrained_{name}": before[name] for name in names if name in before}
    held = parts.test
    if net.head is not None:
        weight, bias = net.head.weight.float().cpu(), net.head.bias.float().cpu()
        predicted = F.linear(held.features, weight, bias).argmax(dim=1)
        metrics["online_head_top1"] = float((predicted == held.labels).double().mean())
    metrics["z_participation_ratio"] = geometry.participation_ratio(raw_z)
    metrics["z_std"] = float(raw_z.std(dim=0).mean())
    z, renormalise = unit_projections(raw_z), cfg.method.renormalise_after_gate
    metrics |= subspace_precision(
        net,
        z,
        held.labels,
        k=cfg.eval.precision_at,
        max_pairs=cfg.eval.max_pairs,
        seed=cfg.seed,
        renormalise=renormalise,
    )
    metrics |= relations(cfg, net, z, held.labels, test.class_names, workspace)
    draw_spectrum(workspace, held.features)
    show_features(workspace, parts, train, test, "test features")
    rows = pair_gallery(
        net,
        z,
        held.labels,
        test.class_names,
        lambda i: test.picture(int(held.rows[i])),
        seed=cfg.seed,
        renormalise=renormalise,
    )
    workspace.gallery("other classes in the subspace of a pair", rows)
    return metrics


def embed_parts(
    cfg: Config, net: HydraNet, train: ImagePart, test: ImagePart, workspace: Workspace
) -> tuple[FrozenParts, Tensor]:
    """Features of both parts, and raw projections (M, D) of the test part."""
    device = next(net.parameters()).device
    embedded = []
    for part in (train, test):
        (x, z), rows = source_outputs(
            net,
            part.source(eval_transform(cfg.data)),
            device,
            batch_size=cfg.eval.batch_size,
            num_workers=cfg.data.num_workers,
            progress=workspace.progress,
        )
        embedded.append((Frozen(x, part.labels[rows], rows), z))
    return FrozenParts(embedded[0][0], embedded[1][0]), embedded[1][1]


def relations(
    cfg: Config,
    net: HydraNet,
    z: Tensor,
    labels: Tensor,
    class_names: list[str],
    workspace: Workspace,
) -> dict[str, float]:
    """Class matrices, written and drawn, and their rank correlation with the hierarchy.

    A class without test images has no similarities: null in the file, left out of the correlation.
    """
    matrices = {"class_similarity": class_similarity(net, z, labels)}
    overlap = gate_overlap(net)
    if overlap is not None:
        matrices["gate_overlap"] = overlap
    paths = hierarchy_paths(class_names, cfg.eval.hierarchy)
    distances = None if paths is None else path_distances(paths)
    content: dict[str, Any] = {"class_names": class_names}
    for name, matrix in matrices.items():
        content[name] = [[None if math.isnan(x) else x for x in row] for row in matrix.tolist()]
    if distances is not None:
        content["hierarchy_distance"] = distances.tolist()
    write_json(workspace.folder("relations") / "class_relations.json", content)
    metrics = {}
    for name, matrix in matrices.items():
        draw_matrix(workspace, name, matrix, class_names)
        if distances is not None:
            values, expected = upper_triangle(matrix), upper_triangle(distances)
            judged = ~values.isnan()  # both classes have test images
            if int(judged.sum()) > 1:
                value = spearman(values[judged], expected[judged])
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


def transfer(cfg: Config, net: HydraNet, workspace: Workspace) -> dict[str, float]:
    """Linear probe and few-shot accuracy of the frozen encoder on further labelled sets."""
    device = next(net.parameters()).device

    def embed(images: Tensor) -> tuple[Tensor, Tensor]:
        features, projections = net(images.to(device))
        return projections, features

    def no_text(texts: list[str]) -> Tensor:
        raise ValueError("transfer has no text tower: drop zeroshot from eval.transfer_protocols")

    protocol = ImageSetProtocol(
        embed,
        no_text,
        eval_transform(cfg.data),
        data_root(cfg.eval.root or cfg.data.root),
        protocols=cfg.eval.transfer_protocols,
        templates={},
        batch_size=cfg.eval.batch_size,
        num_workers=cfg.data.num_workers,
        seed=cfg.seed,
        progress=workspace.progress,
    )
    return protocol(cfg.eval.transfer)
