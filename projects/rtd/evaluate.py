"""Composed retrieval before and after RTD: drawings, official sets, drift of plain texts, cost."""

from collections import defaultdict
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple

import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

from common.config import UserError
from common.data.lookup import data_root
from common.encoders import modes
from common.engine.workspace import Workspace, write_json
from common.evaluation.retrieval.cross_modal import relevant_ranks
from common.evaluation.search import search
from projects.rtd import composed_sets as sets
from projects.rtd.composed_retrieval import evaluate_composed, submission
from projects.rtd.composer import Composer
from projects.rtd.config import Config
from projects.rtd.data import synthetic_set
from projects.rtd.drawings import Query, decode, queries, read_drawings, unseen
from projects.rtd.module import ComposedModule
from projects.rtd.pictures import preprocess, tower_transform

PRIMARY = ("tone", "gender", "class")  # colour has too few families: shown, not averaged
KS = (1, 5, 10)
SHOWN_QUERIES, SHOWN_RESULTS = 8, 5


class Task(NamedTuple):
    """Pictures, queries on them, and which of the pictures are searched."""

    images: Tensor  # (N, 3, S, S) uint8
    names: list[str]
    queries: list[Query]
    gallery: list[int]


def task_of(cfg: Config, split: str | None = None) -> Task | None:
    """The small task of a source; None for files."""
    if cfg.data.source == "files":
        return None
    if cfg.data.source == "synthetic":
        return synthetic_task(cfg)
    drawings = read_drawings(cfg.data.root)
    images = decode(drawings, cfg.data.image_size, cfg.data.root)
    asked = queries(drawings, split or cfg.eval.split)
    everything = split == "train" or cfg.eval.split == "train"
    gallery = list(range(len(drawings))) if everything else unseen(drawings)
    return Task(images, [d.name for d in drawings], asked, gallery)


def synthetic_task(cfg: Config) -> Task:
    """The first image of each class as reference, the next class asked for."""
    pairs = synthetic_set(cfg)
    first = {int(label): i for i, label in reversed(list(enumerate(pairs.labels)))}
    asked = []
    for label, place in sorted(first.items()):
        other = (label + 1) % len(first)
        name = pairs.class_names[other]
        asked.append(Query(place, f"shows a {name}", first[other], "class", str(label)))
    names = [pairs.class_names[int(label)] for label in pairs.labels]
    return Task(pairs.images, names, asked, list(range(len(names))))


def encode_task(cfg: Config, composer: Composer, task: Task) -> Tensor:
    """(N, P) embeddings of its pictures by the frozen image tower, not normalised."""
    transform = tower_transform(composer.encoder)
    parts = [
        composer.encoder.encode_image(transform.batch(part).to(composer.device)).float().cpu()
        for part in torch.split(task.images, cfg.eval.batch_size)
    ]
    return torch.cat(parts)


def composed(
    cfg: Config, composer: Composer, task: Task, images: Tensor, *, anchor: bool = False
) -> Tensor:
    """(Q, P) unit embeddings of the task's queries."""
    references = images[torch.tensor([q.reference for q in task.queries])]
    texts = [q.condition for q in task.queries]
    parts = []
    for start in range(0, len(texts), cfg.eval.batch_size):
        rows = slice(start, start + cfg.eval.batch_size)
        parts.append(composer.compose(references[rows], texts[rows], anchor=anchor).float().cpu())
    return F.normalize(torch.cat(parts), dim=1)


def ranks_of(task: Task, query: Tensor, images: Tensor, gallery: Sequence[int]) -> Tensor:
    """(Q,) rank of each answer in a gallery, the reference taken out."""
    place = {row: i for i, row in enumerate(gallery)}
    units = F.normalize(images[torch.tensor(list(gallery))], dim=1)
    targets = [[place[q.target]] for q in task.queries]
    references = [[place[q.reference]] if q.reference in place else [] for q in task.queries]
    return relevant_ranks(query, units, targets, exclude=references)


def by_family(task: Task, values: Tensor) -> dict[str, list[float]]:
    """Kind -> mean over the queries of each family: large families count as much as small ones."""
    values_of: dict[str, dict[str, list[float]]] = defaultdict(lambda: defaultdict(list))
    for query, value in zip(task.queries, values.double().tolist(), strict=True):
        values_of[query.kind][query.family].append(value)
    return {
        kind: [sum(v) / len(v) for _, v in sorted(families.items())]
        for kind, families in sorted(values_of.items())
    }


def recall_figures(task: Task, ranks: Tensor, ks: Sequence[int] = KS) -> dict[str, float]:
    """``<kind>_recall_at_k``, means over families, and ``recall_at_k``, mean over primary kinds."""
    metrics: dict[str, float] = {}
    for k in ks:
        means = {kind: sum(v) / len(v) for kind, v in by_family(task, ranks <= k).items()}
        metrics |= {f"{kind}_recall_at_{k}": value for kind, value in means.items()}
        primary = [value for kind, value in means.items() if kind in PRIMARY]
        metrics[f"recall_at_{k}"] = sum(primary) / len(primary)
    return metrics


def reference_first(task: Task, query: Tensor, images: Tensor) -> float:
    """Share of queries whose best hit, among all pictures searched, is their own reference."""
    place = {row: i for i, row in enumerate(task.gallery)}
    units = F.normalize(images[torch.tensor(task.gallery)], dim=1)
    best = search(query, units, 1).indices[:, 0]
    references = torch.tensor([place.get(q.reference, -1) for q in task.queries])
    return float((best == references).double().mean())


def name_recall(composer: Composer, task: Task, images: Tensor, *, anchor: bool = False) -> float:
    """R@10 of the searched pictures' own names: what plain texts have lost in the text tower."""
    names = [task.names[row] for row in task.gallery]
    encode = composer.anchor if anchor else composer.query
    texts = torch.cat(
        [
            encode(composer.tokens(names[i : i + 256])).float().cpu()
            for i in range(0, len(names), 256)
        ]
    )
    same = [[i for i, other in enumerate(names) if other == name] for name in names]
    units = F.normalize(images[torch.tensor(task.gallery)], dim=1)
    ranks = relevant_ranks(F.normalize(texts, dim=1), units, same)
    return float((ranks <= 10).double().mean())


def task_metrics(
    cfg: Config, composer: Composer, task: Task, images: Tensor, *, anchor: bool = False
) -> dict[str, float]:
    """All figures of the small task with one text tower."""
    query = composed(cfg, composer, task, images, anchor=anchor)
    metrics = recall_figures(task, ranks_of(task, query, images, task.gallery))
    full = recall_figures(task, ranks_of(task, query, images, range(len(task.images))))
    metrics |= {f"{name}_full": full[name] for name in ("recall_at_1", "recall_at_10")}
    metrics["reference_first"] = reference_first(task, query, images)
    metrics["name_recall_at_10"] = name_recall(composer, task, images, anchor=anchor)
    return metrics


def evaluate(cfg: Config, module: ComposedModule, workspace: Workspace) -> dict[str, float]:
    """Figures with the trained text tower, and ``before_*`` with CLIP's (not in an export)."""
    composer, task = module.composer, task_of(cfg)
    if task is None and not official_sets(cfg):
        raise UserError(
            "nothing to evaluate: set eval.cirr, eval.circo, eval.fashioniq or eval.genecis"
        )
    metrics = cost(module)
    with modes.evaluated(module, cfg.trainer.accelerator):
        if task is not None:
            images = encode_task(cfg, composer, task)
            metrics |= task_metrics(cfg, composer, task, images)
            if composer.has_anchor:
                before = task_metrics(cfg, composer, task, images, anchor=True)
                metrics |= {f"before_{name}": value for name, value in before.items()}
            metrics["recall_at_1_chance"] = 1 / (len(task.gallery) - 1)
            leave_behind(cfg, composer, task, images, workspace)
        metrics |= official(cfg, composer, workspace)
    return metrics


def leave_behind(
    cfg: Config, composer: Composer, task: Task, images: Tensor, workspace: Workspace
) -> None:
    """Items of the primary metric by family, and galleries of composed queries before and after."""
    query = composed(cfg, composer, task, images)
    save_items(task, ranks_of(task, query, images, task.gallery), workspace)
    workspace.gallery("composed queries", composed_gallery(task, query, images))
    if composer.has_anchor:
        old = composed(cfg, composer, task, images, anchor=True)
        workspace.gallery("composed queries before RTD", composed_gallery(task, old, images))


def save_items(task: Task, ranks: Tensor, workspace: Workspace) -> None:
    """R@1 of every family, so that a comparison draws families and not queries."""
    hits = by_family(task, ranks <= 1)
    for kind, values in hits.items():
        workspace.items(f"{kind}_recall_at_1", values)
    workspace.mean_items("recall_at_1", [f"{kind}_recall_at_1" for kind in hits if kind in PRIMARY])


def composed_gallery(task: Task, query: Tensor, images: Tensor) -> list[dict[str, Any]]:
    """Evenly spaced queries, each a reference with its sentence, and what they find."""
    units = F.normalize(images[torch.tensor(task.gallery)], dim=1)
    place = {row: i for i, row in enumerate(task.gallery)}
    step = max(1, len(task.queries) // SHOWN_QUERIES)
    rows = []
    for q in range(0, len(task.queries), step)[:SHOWN_QUERIES]:
        asked = task.queries[q]
        excluded = [place[asked.reference]] if asked.reference in place else []
        most = min(SHOWN_RESULTS, len(units) - len(excluded))
        hits = search(query[q : q + 1], units, most, exclude=[excluded])
        condition = f"a photo of $ that {asked.condition}"
        results: list[dict[str, Any]] = [{"item": condition, "score": 1.0, "name": "condition"}]
        for score, i in zip(hits.scores[0].tolist(), hits.indices[0].tolist(), strict=True):
            row = task.gallery[i]
            results.append(
                {
                    "item": _picture(task, row),
                    "score": score,
                    "correct": row == asked.target,
                    "name": task.names[row],
                }
            )
        rows.append({"query": _picture(task, asked.reference), "results": results})
    return rows


def _picture(task: Task, row: int) -> Image.Image:
    return Image.fromarray(task.images[row].permute(1, 2, 0).numpy())


# -- official sets ---------------------------------------------------------------------------------


def official_sets(cfg: Config) -> list[tuple[str, Callable[[], sets.ComposedSet]]]:
    """(name, reader) of the sets that the config names."""
    root, ev = data_root(cfg.data.root), cfg.eval
    loaders: list[tuple[str, Callable[[], sets.ComposedSet]]] = []
    if ev.fashioniq is not None:
        place = root / ev.fashioniq
        loaders += [
            (f"fashioniq_{c}", partial(sets.fashion_iq, place, c)) for c in sets.FASHION_CATEGORIES
        ]
    if ev.cirr is not None:
        split = "test1" if ev.official_split == "test" else "val"
        loaders.append(("cirr", partial(sets.cirr, root / ev.cirr, split)))
    if ev.circo is not None:
        loaders.append(("circo", partial(sets.circo, root / ev.circo, ev.official_split)))
    if ev.genecis is not None:
        place = root / ev.genecis
        loaders += [(f"genecis_{t}", partial(sets.genecis, place, t)) for t in sets.GENECIS_TASKS]
    return loaders


def official(cfg: Config, composer: Composer, workspace: Workspace) -> dict[str, float]:
    """FashionIQ, CIRR, CIRCO and GeneCIS, after and before.

    Server files where targets are not public.
    """
    metrics: dict[str, float] = {}
    encode = image_encoder(cfg, composer)
    for name, read in official_sets(cfg):
        data = read()
        after, query, gallery = evaluate_composed(
            data, encode, composer.compose, batch_size=cfg.eval.batch_size
        )
        metrics |= {f"{name}_{key}": value for key, value in after.items()}
        if composer.has_anchor:
            old = partial(composer.compose, anchor=True)
            before, _, _ = evaluate_composed(
                data, encode, old, gallery=gallery, batch_size=cfg.eval.batch_size
            )
            metrics |= {f"before_{name}_{key}": value for key, value in before.items()}
        if not after:
            metrics[f"{name}_submitted"] = float(len(data.queries))
            for file, content in submission(data, query, gallery).items():
                write_json(workspace.folder("submission") / file, content)
    return metrics | means_of(metrics)


def means_of(metrics: dict[str, float]) -> dict[str, float]:
    """Means over FashionIQ's categories and GeneCIS's tasks.

    FashionIQ's headline is that of R@10 and R@50.
    """
    means: dict[str, float] = {}
    for prefix in ("", "before_"):
        for family, parts, ks in (
            ("fashioniq", sets.FASHION_CATEGORIES, (10, 50)),
            ("genecis", sets.GENECIS_TASKS, (1, 2, 3)),
        ):
            for k in ks:
                names = [f"{prefix}{family}_{part}_recall_at_{k}" for part in parts]
                if all(name in metrics for name in names):
                    means[f"{prefix}{family}_recall_at_{k}"] = sum(metrics[n] for n in names) / len(
                        names
                    )
        both = [f"{prefix}fashioniq_recall_at_{k}" for k in (10, 50)]
        if all(name in means for name in both):
            means[f"{prefix}fashioniq_mean"] = sum(means[name] for name in both) / 2
    return means


def image_encoder(cfg: Config, composer: Composer) -> Callable[[Sequence[Any]], Tensor]:
    """PIL images -> embeddings of the frozen image tower."""
    to_tensor = preprocess(composer.encoder, cfg.eval.target_pad)

    def encode(pictures: Sequence[Any]) -> Tensor:
        pixels = torch.stack([to_tensor(picture) for picture in pictures])
        embeddings: Tensor = composer.encoder.encode_image(pixels.to(composer.device))
        return embeddings

    return encode


def judge_of(cfg: Config) -> tuple[int, Callable[[Composer], Tensor]]:
    """Validation: number of development queries; composer -> whether each has rank 1."""
    kept: list[Tensor] = []  # image embeddings: they do not change
    if cfg.data.source != "files":
        task = task_of(cfg, "dev")
        assert task is not None

        def small(composer: Composer) -> Tensor:
            kept[:] = kept or [encode_task(cfg, composer, task)]
            query = composed(cfg, composer, task, kept[0])
            return ranks_of(task, query, kept[0], task.gallery) <= 1

        return len(task.queries), small
    data = sets.cirr(data_root(cfg.data.root) / str(cfg.eval.cirr), "val")
    place = {name: i for i, name in enumerate(data.gallery)}

    def cirr(composer: Composer) -> Tensor:
        encoded = kept[0] if kept else None
        _, query, gallery = evaluate_composed(
            data, image_encoder(cfg, composer), composer.compose, gallery=encoded
        )
        kept[:] = [gallery]
        targets = [[place[q.targets[0]]] for q in data.queries]
        references = [[place[q.reference]] for q in data.queries]
        return relevant_ranks(query, F.normalize(gallery, dim=1), targets, exclude=references) <= 1

    return len(data.queries), cirr


def cost(module: ComposedModule) -> dict[str, float]:
    """Parameters that each part trains, and the wall time of what this process has fitted."""
    composer = module.composer
    names = {"phi": "host", "student": "rtd"}
    costs = {
        "cost_host_parameters": float(sum(p.numel() for p in composer.phi.parameters())),
        "cost_rtd_parameters": float(sum(p.numel() for p in composer.student.parameters())),
    }
    return costs | {f"cost_{names[part]}_seconds": s for part, s in module.seconds.items()}
