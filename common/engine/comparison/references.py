"""What a run's metrics are compared with: untrained weights, training-free baselines, chance.

The baselines are those of the project's compare.yaml, evaluated with the settings of the run. Their
values are kept in ``<runs_dir>/<project>/baselines`` under a key of data, settings and code, so that
they cost nothing in later runs.
"""

import hashlib
import json
import math
import os
import tempfile
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from common.config import CONFIG_DIR, ExperimentConfig, first_line, lineage, load, to_dict
from common.data.lookup import BUNDLED, data_root
from common.engine import workspace as ws
from common.engine.callbacks import seed_all, step_seed
from common.engine.comparison.baselines import find_baseline
from common.engine.comparison.claims import claims_of
from common.engine.comparison.schema import Comparison
from common.engine.comparison.spec import read_comparisons
from common.engine.progress import track
from common.engine.provenance import code_identity
from common.evaluation.tables import CHANCE
from common.registry import config_class

BASELINES_FILE = "baselines.json"  # of a run folder: what its table showed
MAX_ROWS, MAX_OWN_ROWS = 8, 30
# words of metrics that are better when they are smaller
SMALLER = {"l1", "chamfer", "wer", "cer", "perplexity", "rank", "loss", "error"}
# rows without training in any project
FREE = ("bm25", "tfidf", "tfidf_words", "tfidf_chars", "jaccard", "majority", "raw_pixels")
UNTRAINED = "untrained"  # how such baselines, and a run's own metrics of its start, are called
# settings that no baseline depends on
OTHER_SETTINGS = ("optim", "trainer", "tracking", "runs_dir", "run_id", "resume")
MAX_FILES = 20_000  # in data folders; values for larger ones are not kept

Baselines = Mapping[str, Mapping[str, float | None]]


@dataclass(frozen=True)
class Row:
    """A metric and the values it is compared with; None where those have no such metric."""

    metric: str
    value: float | None
    untrained: float | None
    baseline: tuple[str, float] | None  # the best one
    chance: float | None


def comparison_of(project: str, config: str) -> Comparison | None:
    """The comparison that starts from a config, or else the project's first; None without any."""
    if not (CONFIG_DIR / project / "compare.yaml").is_file():
        return None
    comparisons = read_comparisons(project)
    return next((spec for spec in comparisons if spec.base == config), comparisons[0])


def headline(
    metrics: Mapping[str, float | None], baselines: Baselines, spec: Comparison | None
) -> list[Row]:
    """The metrics that the project's comparison shows, at most `MAX_ROWS`.

    Without one of them in `metrics`, as on data of a user, the first of all metrics, those with a
    chance level before others.

    Args:
        metrics: of the run.
        baselines: name -> metrics, of `evaluate_baselines`.
        spec: of `comparison_of`.
    """
    shown = [] if spec is None else [spec.metric, *spec.also]
    names = [name for name in dict.fromkeys(shown) if name in metrics]
    if not names:
        judged = [
            name
            for name in metrics
            if not name.startswith(f"{UNTRAINED}_") and not name.endswith(CHANCE)
        ]
        names = [name for name in judged if name + CHANCE in metrics]
        names += [name for name in judged if name not in names]
    larger_is_better = {} if spec is None else _directions(spec)
    rows = []
    for name in names[:MAX_ROWS]:
        starts = [metrics.get(f"{UNTRAINED}_{name}")]
        starts += [own.get(name) for other, own in baselines.items() if _is_untrained(other)]
        levels = [metrics.get(f"{name}{CHANCE}"), baselines.get("chance", {}).get(name)]
        rows.append(
            Row(
                name,
                metrics[name],
                _first(starts),
                _best(name, baselines, spec, larger_is_better),
                _first(levels),
            )
        )
    return rows


def own_rows(
    metrics: Mapping[str, float | None], baselines: Baselines, spec: Comparison | None
) -> list[Row]:
    """The metrics of an evaluation of ``eval.own``, at most `MAX_OWN_ROWS`.

    ``<row>_<metric>`` is shown next to ``<metric>`` where the row is untrained or a training-free
    baseline, of which the best value counts. Other rows, such as fusions, follow with their first
    metric that is no count.

    Args:
        metrics: of the evaluation.
        baselines: name -> metrics, of `evaluate_baselines`.
        spec: of `comparison_of`; names further baselines.
    """
    free = {*FREE, *(spec.baselines if spec else ()), *baselines} - {"chance"}
    beside: dict[str, dict[str, float | None]] = {}
    shown, further = [], []
    for name in metrics:
        row = _row_of(name, metrics)
        if name.endswith(CHANCE):
            continue
        if row is None:
            shown.append(name)
        elif row in free or _is_untrained(row):
            beside.setdefault(name.removeprefix(f"{row}_"), {})[row] = metrics[name]
        else:
            further.append(name)
    first = next((name for name in shown if "num_" not in name), "")
    rows = []
    for name in [*shown, *(n for n in further if n.endswith(f"_{first}"))][:MAX_OWN_ROWS]:
        values = {row: own.get(name) for row, own in baselines.items()} | beside.get(name, {})
        rivals = {
            row: value
            for row, value in values.items()
            if value is not None and row in free and not _is_untrained(row)
        }
        choose = min if set(name.split("_")) & SMALLER else max
        best = choose(rivals, key=lambda row: rivals[row], default=None)
        rows.append(
            Row(
                name,
                metrics[name],
                _first([value for row, value in values.items() if _is_untrained(row)]),
                None if best is None else (best, rivals[best]),
                _first([metrics.get(f"{name}{CHANCE}"), values.get("chance")]),
            )
        )
    return rows


def _row_of(name: str, metrics: Collection[str]) -> str | None:
    """The row of a metric ``<row>_<metric>``; None for those of the model itself."""
    if (rest := name.removeprefix(f"{UNTRAINED}_")) != name and rest in metrics:
        return UNTRAINED
    parts = name.split("_")
    suffixes = ("_".join(parts[i:]) for i in range(len(parts) - 1, 0, -1))  # the shortest first
    metric = next((suffix for suffix in suffixes if suffix in metrics), None)
    return None if metric is None else name.removesuffix(f"_{metric}")


def _first(values: Sequence[float | None]) -> float | None:
    return next((value for value in values if value is not None), None)


def _directions(spec: Comparison) -> dict[str, bool]:
    """Whether more is better, of the primary metric and of those that a claim is about."""
    directions = {spec.metric: spec.direction == "max"}
    for claim in claims_of(spec):
        for part in (claim, *claim.others):
            directions.setdefault(part.metric, part.maximise)
    return directions


def _best(
    metric: str,
    baselines: Baselines,
    spec: Comparison | None,
    larger_is_better: Mapping[str, bool],
) -> tuple[str, float] | None:
    """The best baseline in a metric; where its direction is unknown, the best in the primary one."""
    if spec is None:
        return None
    judged = metric if metric in larger_is_better else spec.metric
    sign = 1.0 if larger_is_better[judged] else -1.0
    rivals = {
        name: values
        for name, values in baselines.items()
        if not _is_untrained(name) and name not in ("chance", *spec.bounds)
    }
    scores = {
        name: sign * value for name, own in rivals.items() if (value := own.get(judged)) is not None
    }
    if not scores:
        return None
    best = max(scores, key=lambda name: scores[name])
    value = rivals[best].get(metric)
    return None if value is None else (best, value)


def _is_untrained(baseline: str) -> bool:
    return baseline.startswith(UNTRAINED)


# -- values -------------------------------------------------------------------------------------


def evaluate_baselines(
    spec: Comparison,
    config: str,
    overrides: Sequence[str],
    metrics: Mapping[str, float | None],
) -> tuple[dict[str, dict[str, float | None]], list[str]]:
    """The baselines of a run, kept ones where data, settings and code are the same.

    Only for configs of the comparison's kind: its base, what that extends, and what extends either.
    At full size a baseline may take longer than the evaluation; `make eval BASELINE=` runs one.

    Args:
        spec: of `comparison_of`.
        config: name.
        overrides: those of the run.
        metrics: of the run; what they have already is not evaluated again.

    Returns:
        Name -> metrics; and a line for each baseline that can't be evaluated on these data.
    """
    project = spec.project
    if not set(lineage(project, config)) & set(lineage(project, spec.base)):
        return {}, []
    cfg = load(config_class(project), project, config, overrides)
    names = [name for name in spec.baselines if name not in spec.bounds]
    if f"{UNTRAINED}_{spec.metric}" in metrics:
        names = [name for name in names if not _is_untrained(name)]
    if f"{spec.metric}{CHANCE}" in metrics:
        names = [name for name in names if name != "chance"]
    key = cache_key(cfg)
    folder = Path(cfg.runs_dir) / project / "baselines"
    paths = {name: folder / f"{name}-{key}.json" for name in names}
    values = {name: ws.read_json(paths[name]) for name in names if paths[name].is_file()}
    missing = [name for name in names if name not in values]
    problems: list[str] = []
    refused: dict[str, list[str]] = {}  # why -> baselines
    for name in track(missing, "training-free baselines, once for these data"):
        try:
            cfg = load(config_class(project), project, config, overrides)
            values[name] = _evaluate(project, config, cfg, name)
        except KeyboardInterrupt:
            problems.append(f"baselines left out: {', '.join(missing[missing.index(name) :])}")
            break
        except Exception as error:  # the run is finished, and its data may be a user's
            refused.setdefault(first_line(error), []).append(name)
        else:
            if key is not None:
                ws.write_json(paths[name], values[name])
    problems += [f"no baseline {', '.join(several)}: {why}" for why, several in refused.items()]
    return {name: values[name] for name in names if name in values}, problems


def _evaluate(
    project: str, config: str, cfg: ExperimentConfig, name: str
) -> dict[str, float | None]:
    seed_all(step_seed(cfg.seed, 0, 0, 0))
    with tempfile.TemporaryDirectory() as folder, torch.inference_mode():
        values = find_baseline(project, name)(cfg, ws.Workspace(Path(folder), project, config))
    return {k: float(v) if math.isfinite(v) else None for k, v in values.items()}


def cache_key(cfg: ExperimentConfig) -> str | None:
    """Digest of what a baseline's value depends on: files of data, settings, code.

    A file is identified by name, size and time. None where there are too many to look at.
    """
    settings = {key: v for key, v in to_dict(cfg).items() if key not in OTHER_SETTINGS}
    digest = hashlib.sha256(json.dumps([settings, code_identity()], default=str).encode())
    root = data_root(cfg.data.root)
    folders = {path.resolve() for path in (BUNDLED, root) if path.is_dir()}
    folders |= {
        (place / text).expanduser().resolve()
        for text in _texts(settings)
        for place in (Path(), root)
        if text.strip("./") and os.path.exists(os.path.expanduser(place / text))
    }
    count = 0
    for path in sorted(folders):
        for file in _files(path):
            count += 1
            if count > MAX_FILES:
                return None
            state = file.stat()
            digest.update(f"{file} {state.st_size} {state.st_mtime_ns}\n".encode())
    return digest.hexdigest()[:16]


def _texts(node: Any) -> Iterator[str]:
    """All texts among settings, of which some are paths."""
    if isinstance(node, str):
        yield node
    elif isinstance(node, Mapping):
        for value in node.values():
            yield from _texts(value)
    elif isinstance(node, list):
        for value in node:
            yield from _texts(value)


def _files(path: Path) -> Iterator[Path]:
    if path.is_file():
        yield path
    for folder, names, files in os.walk(path):
        names.sort()
        yield from (Path(folder) / name for name in sorted(files))
