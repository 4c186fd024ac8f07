"""SepCLR's evaluation: probes of both spaces, salient norms, entropies, neighbours, figures."""

from typing import Any

import torch
from torch import Tensor
from torchvision.transforms.v2.functional import to_pil_image

from common.encoders.modes import evaluated, untrained
from common.engine.workspace import Workspace
from common.evaluation.features.frozen import source_outputs
from common.evaluation.figures import class_gallery, embedding_map
from projects.sepclr.config import Config
from projects.sepclr.data import set_pair, transforms
from projects.sepclr.module import SepCLR
from projects.sepclr.networks import Codes, ContrastiveVAE, Network, SingleEncoder
from projects.sepclr.paired_sets.pairs import SetPair
from projects.sepclr.probes import (
    ProbeResult,
    auc,
    code_entropies,
    dimension_correlations,
    known,
    separation_error,
    space_probes,
)

Part = tuple[SetPair, Codes]
NUM_DECODED = 8


def evaluate(cfg: Config, module: SepCLR, workspace: Workspace) -> dict[str, float]:
    """Probes of the frozen codes, the untrained encoders alongside them, and the mechanism."""
    pairs = set_pair(cfg, "train"), set_pair(cfg, "test")
    with evaluated(module, cfg.trainer.accelerator):
        train, test = (features(cfg, module.network, pair, workspace) for pair in pairs)
        results = probes(cfg, train, test)
        metrics = judged(results, test[0], workspace)
        if cfg.eval.untrained:
            raw = untrained(lambda: SepCLR(cfg), cfg.seed, like=module).network
            before = probes(cfg, *(features(cfg, raw, pair, workspace) for pair in pairs))
            metrics |= {f"untrained_{name}": probe.value for name, probe in before.items()}
        if isinstance(module.network, ContrastiveVAE):
            workspace.figure("decoded", decoded_figure(cfg, module.network, pairs[1]))
    if not isinstance(module.network, SingleEncoder):
        metrics |= mechanism(cfg, test, workspace)
    show(test, results, workspace)
    return metrics


def judged(
    results: dict[str, ProbeResult], test: SetPair, workspace: Workspace
) -> dict[str, float]:
    """Probes as metrics with their chance, saved item by item.

    ``<factor>_separation`` is salient minus common.
    """
    metrics = {name: probe.value for name, probe in results.items()}
    metrics |= {f"{name}_chance": probe.chance for name, probe in results.items()}
    metrics["separation_error"] = separation_error(results, test.salient)
    items = {name: probe.scores for name, probe in results.items()}
    for factor in test.salient:
        if f"{factor}_from_common" in results:
            gap = items[f"{factor}_from_salient"] - items[f"{factor}_from_common"]
            items[f"{factor}_separation"] = gap
            metrics[f"{factor}_separation"] = float(gap.double().mean())
    for name, scores in items.items():
        workspace.items(name, scores.tolist())
    return metrics


def features(cfg: Config, network: Network, pair: SetPair, workspace: Workspace) -> Part:
    """The readable samples and their codes; the network must be in evaluation mode."""
    _, plain = transforms(cfg)
    device = next(network.parameters()).device
    outputs, kept = source_outputs(
        network,
        pair.samples.source(plain),
        device,
        batch_size=cfg.eval.batch_size,
        num_workers=cfg.data.num_workers,
        progress=workspace.progress,
        name="codes",
    )
    return (pair if len(kept) == len(pair) else pair.rows(kept)), Codes(*outputs)


def probes(cfg: Config, train: Part, test: Part) -> dict[str, ProbeResult]:
    """All probes with the config's options."""
    return space_probes(
        train,
        test,
        balanced=cfg.eval.balanced,
        standardize=cfg.eval.standardize,
        domain_from_heads=cfg.eval.domain_from_heads,
    )


def mechanism(cfg: Config, test: Part, workspace: Workspace) -> dict[str, float]:
    """Salient norms of both sets, entropies of the codes, attributes against dimensions."""
    pair, codes = test
    norms = codes.salient_head.norm(dim=1)
    metrics = {
        "salient_norm_target": float(norms[pair.target].mean()),
        "salient_norm_background": float(norms[~pair.target].mean()),
        "salient_norm_auc": auc(norms, pair.target),
        **code_entropies(codes, pair.target, cfg.method.bandwidth),
    }
    workspace.figure("salient_norm", norm_figure(norms, pair.target))
    if cfg.method.attributes:
        factors = {name: pair.salient[name][pair.target] for name in cfg.method.attributes}
        matrix = dimension_correlations(codes.salient_head[pair.target], factors)
        others = matrix[~torch.eye(len(matrix), dtype=torch.bool)]
        metrics["own_dimension_correlation"] = float(matrix.diagonal().mean())
        if len(others):
            metrics["other_dimension_correlation"] = float(others.mean())
        workspace.figure("attribute_dimensions", matrix_figure(matrix, cfg.method.attributes))
    return metrics


# -- pictures ------------------------------------------------------------------------------------


def show(test: Part, results: dict[str, ProbeResult], workspace: Workspace) -> None:
    """Neighbours of targets in both spaces, maps of both spaces, and the probes as bars."""
    pair, codes = test
    workspace.figure("probes", probe_figure(results))
    picked = {
        "common": _class_factor(pair, pair.common),
        "salient": _class_factor(pair, pair.salient),
    }
    for space, rep in (("common", codes.common_rep), ("salient", codes.salient_rep)):
        for kind, name in picked.items():
            if name is None:
                continue
            rows = (pair.target & known(pair.factors[name])).nonzero()[:, 0]
            labels, x = pair.factors[name][rows], rep[rows]
            names = pair.class_names.get(name) or [str(c) for c in range(int(labels.max()) + 1)]
            title = f"{space} code, targets by {name}"
            workspace.figure(f"{space}_by_{name}", embedding_map(x, labels, names, title))
            if kind == space:
                workspace.gallery(f"neighbours by {space} code", gallery(pair, rows, x, labels))


def _class_factor(pair: SetPair, factors: dict[str, Tensor]) -> str | None:
    """The first factor that is a class and that some targets have."""
    for name, values in factors.items():
        if not values.is_floating_point() and bool((pair.target & known(values)).any()):
            return name
    return None


def gallery(pair: SetPair, rows: Tensor, x: Tensor, labels: Tensor) -> list[dict[str, Any]]:
    """Nearest other targets of some targets; queries are every fourth one, so none is its own."""
    is_query = torch.arange(len(rows)) % 4 == 0
    queries, others = rows[is_query].tolist(), rows[~is_query].tolist()
    if not others:
        return []
    return class_gallery(
        (x[is_query], labels[is_query]),
        (x[~is_query], labels[~is_query]),
        lambda i: pair.samples.picture(queries[i]),
        lambda i: pair.samples.picture(others[i]),
    )


def probe_figure(results: dict[str, ProbeResult]) -> Any:
    """Accuracies with chance as ticks."""
    from matplotlib.figure import Figure

    kept = {name: probe for name, probe in results.items() if probe.is_class}
    figure = Figure(figsize=(5.5, 0.35 * len(kept) + 1))
    axes = figure.subplots()
    places = range(len(kept))
    colours = ["tab:blue" if name.endswith("common") else "tab:orange" for name in kept]
    axes.barh(places, [probe.value for probe in kept.values()], color=colours)
    chances = [probe.chance for probe in kept.values()]
    axes.scatter(chances, places, marker="|", s=150, color="black", label="chance", zorder=3)
    axes.set_yticks(places, [name.replace("_", " ") for name in kept])
    axes.invert_yaxis()
    axes.set_xlim(0, 1)
    axes.set_xlabel("probe accuracy on test samples")
    axes.legend(fontsize=8)
    return figure


def norm_figure(norms: Tensor, target: Tensor) -> Any:
    """Histograms of ||s|| of both sets."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(4.5, 3))
    axes = figure.subplots()
    sets = {"background": norms[~target], "target": norms[target]}
    bins = torch.linspace(0, float(norms.max()), 31).tolist()
    for name, values in sets.items():
        axes.hist(values.tolist(), bins=bins, alpha=0.6, label=name)
    axes.set_xlabel("norm of the projected salient code")
    axes.set_ylabel("test samples")
    axes.legend()
    return figure


def matrix_figure(matrix: Tensor, names: list[str]) -> Any:
    """Correlations of attributes with salient dimensions."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(4, 3.2))
    axes = figure.subplots()
    image = axes.imshow(matrix.tolist(), vmin=0, vmax=1, cmap="viridis")
    axes.set_yticks(range(len(names)), names)
    axes.set_xlabel("salient dimension")
    figure.colorbar(image, ax=axes, label="absolute correlation")
    return figure


def decoded_figure(cfg: Config, network: ContrastiveVAE, pair: SetPair) -> Any:
    """Targets, their reconstructions, and what is decoded without the salient code."""
    from matplotlib.figure import Figure

    rows = pair.target.nonzero()[:NUM_DECODED, 0]
    images, _ = pair.samples.source(transforms(cfg)[1]).load(rows.tolist())
    images = images.to(next(network.parameters()).device)
    codes = network(images)
    whole = network.decode(codes.common_rep, codes.salient_rep)
    without = network.decode(codes.common_rep, 0 * codes.salient_rep)
    lines = {"target": images, "decoded": whole, "without salient code": without}
    figure = Figure(figsize=(1.1 * len(rows), 3.6))
    grid = figure.subplots(3, len(rows), squeeze=False)
    for line, (name, pictures) in enumerate(lines.items()):
        for column, picture in enumerate(pictures.cpu().clamp(0, 1)):
            grid[line][column].imshow(to_pil_image(picture))
            grid[line][column].set_axis_off()
        grid[line][0].set_title(name, fontsize=8, loc="left")
    return figure
