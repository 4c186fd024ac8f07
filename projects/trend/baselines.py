"""Training-free baselines: a copied scan, typical ranges and places, a random net."""

from collections.abc import Iterable, Sequence

import numpy as np
from numpy.typing import NDArray

from common.config import UserError
from common.encoders.modes import untrained as as_training_begins
from common.engine.callbacks import step_seed
from common.engine.workspace import Workspace
from projects.trend.config import Config, Source
from projects.trend.evaluate import held_sets, judged
from projects.trend.evaluation.average_precision import FrameBoxes, nuscenes_metrics
from projects.trend.finetune import Finetune, labelled_source
from projects.trend.forecasts import Floats, Held, copy_errors, errors_of
from projects.trend.probes import (
    detection_metrics,
    readable_frames,
    readable_scans,
    segmentation_probe,
    test_frames,
    true_boxes,
)
from projects.trend.scans.augment import PlanarSimilarity
from projects.trend.scans.boxes import BoxesInGrid, labelled_frames
from projects.trend.sources import open_source, set_folder

ELEVATION, AZIMUTH = 2.0, 10.0  # degrees of a cell of directions
NEAR = 2.0  # metres within which boxes of a class count as one place


def copy_frame(cfg: Config, workspace: Workspace) -> dict[str, float]:
    """The present scan, held still in the world and moved by the pose."""
    return _all_sets(cfg, workspace, ((p, h, copy_errors(h)) for p, h in held_sets(cfg)))


def median_range(cfg: Config, workspace: Workspace) -> dict[str, float]:
    """The median range of the training scans in the direction of a ray, whatever the scan shows.

    Raises:
        UserError: see `check_apart`.
    """
    check_apart(cfg, cfg.data.sources[0])
    typical = [_median_table(held) for _, held in held_sets(cfg, "train")]
    sets = []
    for (prefix, held), table in zip(held_sets(cfg), typical, strict=True):
        errors = [
            [table[_cell(t.rays["directions"])] - t.rays["ranges"] for t in one.targets]
            for one in held
        ]
        sets.append((prefix, held, errors))
    return _all_sets(cfg, workspace, sets)


def untrained(cfg: Config, workspace: Workspace) -> dict[str, float]:
    """Network and detector as training begins with them."""
    module = as_training_begins(lambda: Finetune(cfg), step_seed(cfg.seed, 0, 0, 0))
    network = module.network
    sets = ((p, h, errors_of(cfg, network, h).ranges) for p, h in held_sets(cfg))
    metrics = _all_sets(cfg, workspace, sets)
    detector = module.detectors["pretrained"]
    metrics |= detection_metrics(cfg, detector, test_frames(cfg))[0]  # type: ignore[arg-type]
    if cfg.eval.segmentation_frames:
        scores = segmentation_probe(cfg, network.encoder)
        metrics |= {f"segmentation_{k}": v for k, v in scores.items()}
    return metrics


def usual_boxes(cfg: Config, workspace: Workspace) -> dict[str, float]:
    """The same boxes for every scan: labelled boxes with the most others of their class near.

    Raises:
        UserError: see `check_apart`.
    """
    source = labelled_source(cfg)
    check_apart(cfg, source, cfg.finetune.folder)
    data = open_source(cfg, source, "labelled", cfg.finetune.folder)
    select, still = BoxesInGrid(cfg.data, cfg.finetune.classes), PlanarSimilarity()
    places = labelled_frames(data, cfg.finetune.frames)
    rows = [select(frame, still) for frame in readable_scans(data, places)]
    boxes = np.nan_to_num(np.concatenate([row["boxes"] for row in rows]))  # unknown velocities
    labels = np.concatenate([row["labels"] for row in rows])
    gaps = np.linalg.norm(boxes[:, None, :2] - boxes[None, :, :2], axis=2)
    near = (gaps < NEAR) & (labels[:, None] == labels[None])
    kept: list[int] = []
    for i in np.argsort(-near.sum(1), kind="stable"):
        if not near[i, kept].any():
            kept.append(int(i))
    kept = kept[: cfg.finetune.max_boxes]
    scores = near[kept].sum(1) / len(rows)
    truth = [true_boxes(frame) for frame in readable_frames(test_frames(cfg))]
    guesses = [FrameBoxes(boxes[kept], labels[kept], scores)] * len(truth)
    return nuscenes_metrics(guesses, truth, cfg.finetune.classes)


def check_apart(cfg: Config, source: Source, folder: str | None = None) -> None:
    """Refuse to learn from the scans that are judged.

    Raises:
        UserError: a user's scans without a folder of training scans.
    """
    own = cfg.eval.own is not None
    if own and not (source == "npz" and (set_folder(cfg, source, folder) / "train").is_dir()):
        raise UserError(f"it learns from training scans, and {cfg.eval.own} has judged ones alone")


def _all_sets(
    cfg: Config,
    workspace: Workspace,
    sets: Iterable[tuple[str, Sequence[Held], Sequence[Sequence[Floats]]]],
) -> dict[str, float]:
    """Metrics of prefix, windows and errors of every set."""
    metrics: dict[str, float] = {}
    for prefix, held, errors in sets:
        summary = judged(held, errors, cfg.eval.horizon, workspace, prefix)
        metrics |= {f"{prefix}{name}": value for name, value in summary.items()}
    return metrics


def _cell(directions: Floats) -> NDArray[np.int64]:
    """Number of the cell of each direction (R, 3)."""
    elevation = np.rad2deg(np.arcsin(np.clip(directions[:, 2], -1, 1)))
    azimuth = np.rad2deg(np.arctan2(directions[:, 1], directions[:, 0]))
    columns = round(360 / AZIMUTH)
    row = np.floor((elevation + 90) / ELEVATION).astype(np.int64)
    cell: NDArray[np.int64] = (
        row * columns + np.floor((azimuth + 180) / AZIMUTH).astype(np.int64) % columns
    )
    return cell


def _median_table(held: Sequence[Held]) -> Floats:
    """Median range of every cell of directions; of all returns where a cell has none.

    A ray counts as the returns that it stands for.
    """
    targets = [t for one in held for t in one.targets]
    cells = np.concatenate([_cell(t.rays["directions"]) for t in targets])
    ranges = np.concatenate([t.rays["ranges"] for t in targets])
    weights = np.concatenate([t.weight for t in targets])
    table = np.full((round(180 / ELEVATION) + 1) * round(360 / AZIMUTH), _median(ranges, weights))
    order = np.argsort(cells, kind="stable")
    cells_of_table, starts = np.unique(cells[order], return_index=True)
    for cell, rows in zip(cells_of_table, np.split(order, starts[1:]), strict=True):
        table[cell] = _median(ranges[rows], weights[rows])
    return table


def _median(values: Floats, weights: Floats) -> float:
    """Smallest value up to which at least half of the weight lies."""
    return float(np.quantile(values, 0.5, weights=weights, method="inverted_cdf"))
