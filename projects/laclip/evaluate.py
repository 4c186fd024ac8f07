"""What varied texts change: class nouns, names and keywords of held-out drawings."""

from collections import Counter
from collections.abc import Callable, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from common.data.image.sources import CachedImages
from common.data.image_text.captions import CaptionedImages, CaptionFiles
from common.data.image_text.drawings import words
from common.data.lookup import bundled, data_root
from common.data.packed import Packed
from common.encoders import modes
from common.engine.workspace import Workspace
from common.evaluation.gallery import retrieval_gallery
from common.evaluation.image_text.zeroshot import class_embeddings
from common.evaluation.retrieval.cross_modal import relevant_ranks
from common.families.image_text.drawings import (
    POOL,
    UNSEEN_TEMPLATES,
    pool_images,
    pool_picture,
    read_held_out,
)
from common.families.image_text.drawings_evaluation import (
    loss_gap,
    recall_both_ways,
    training_rows,
)
from common.families.image_text.evaluation import evaluate_image_text, protocol
from common.families.image_text.own_data import judge_captions
from projects.laclip.config import Config
from projects.laclip.data import caption_of, drawn_texts, training_pairs
from projects.laclip.encoders import Encoders, encoders, prompt_agreement
from projects.laclip.module import LaCLIP
from projects.laclip.scenes import evaluate_scenes

LEFT_OUT = ("flag",)  # a quarter of the class items, told by nothing but a rectangle
NAMED = 2  # training names that hold a class noun, at least: every arm has read it
KNOWN = 3  # training names that hold every word of a known keyword, at least
UNTRAINED = ("zeroshot_mean_per_class", "name_recall_at_10", "keyword_recall_at_10")


class HeldOut(NamedTuple):
    """Drawings of a split and what is asked about them.

    Attributes:
        rows: as stored: image, name, query, noun.
        pixels: (N, 3, S, S) uint8.
        classes: C nouns, sorted.
        labelled: rows whose noun is a class.
        labels: (K,) their classes.
        queried: rows whose keyword query is theirs alone, of two keywords or more.
        known: rows and queries cut to words of training names, each query once.
    """

    rows: list[dict[str, Any]]
    pixels: Tensor
    classes: list[str]
    labelled: list[int]
    labels: Tensor
    queried: list[int]
    known: list[tuple[int, str]]


def evaluate(
    cfg: Config, module: LaCLIP, workspace: Workspace, build: Callable[[], LaCLIP]
) -> dict[str, float]:
    """All metrics that the config asks for; of the pool those of this file, of scenes those of `scenes`."""
    if cfg.data.source == "scenes":
        metrics = evaluate_scenes(cfg, module, workspace, build)
    elif cfg.data.source == "pool":
        metrics = evaluate_drawings(cfg, module, workspace, build)
    else:
        metrics = evaluate_image_text(cfg, module, workspace, build)
    if cfg.eval.pairs is not None:
        pairs = (data_root(cfg.data.root) / cfg.eval.pairs).resolve()
        metrics |= judge_captions(cfg, module, workspace=workspace, build=build, file=pairs)
    return metrics


def evaluate_drawings(
    cfg: Config, module: LaCLIP, workspace: Workspace, build: Callable[[], LaCLIP]
) -> dict[str, float]:
    """Metrics on held-out drawings of the pool, and on the config's labelled image sets."""
    metrics = {"logit_scale": float(module.logit_scale())}
    with modes.evaluated(module, cfg.trainer.accelerator):
        held, pairs = held_out(cfg), training_pairs(cfg)
        raw = pool_metrics(encoders(cfg, modes.untrained(build, cfg.seed, module)), held)
        metrics |= {f"untrained_{name}": raw[name] for name in UNTRAINED}
        metrics |= pool_metrics(encoders(cfg, module), held, workspace)
        metrics |= name_losses(cfg, module, held, pairs)
        show(cfg, encoders(cfg, module), held, workspace)
        if cfg.eval.datasets:
            metrics |= protocol(cfg, module, workspace)(cfg.eval.datasets)
    return metrics | drawn_texts(pairs)


# -- what is asked -------------------------------------------------------------------------------


def held_out(cfg: Config) -> HeldOut:
    """The drawings of `eval.split` that are not, byte for byte, a training drawing.

    Class nouns are the held-out ones that stand in two training names or more, without `LEFT_OUT`.
    """
    files = CaptionFiles(bundled(POOL, cfg.data.root) / "train.csv", root="")
    images, names = zip(
        *((str(files.path(i)), files.texts(i)[0]) for i in range(len(files))), strict=True
    )
    trained = set(_contents(images, cfg))
    rows = read_held_out(cfg)
    contents = _contents([row["image"] for row in rows], cfg)
    rows = [row for row, content in zip(rows, contents, strict=True) if content not in trained]
    counts = Counter(noun for name in names for noun in nouns_of(name))
    classes = sorted(
        {row["noun"] for row in rows if counts[row["noun"]] >= NAMED} - {*LEFT_OUT, ""}
    )
    labelled = [i for i, row in enumerate(rows) if row["noun"] in classes]
    times = Counter(row["query"] for row in rows)
    single = Counter(word for name in names for word in set(words(name)))
    cut = [_cut(row["query"], single) for row in rows]
    alone = Counter(cut)
    return HeldOut(
        rows,
        pool_images([row["image"] for row in rows], cfg.data),
        classes,
        labelled,
        torch.tensor([classes.index(rows[i]["noun"]) for i in labelled]),
        [i for i, r in enumerate(rows) if times[r["query"]] == 1 and ", " in r["query"]],
        [(i, query) for i, query in enumerate(cut) if query and alone[query] == 1],
    )


def nouns_of(name: str) -> set[str]:
    """Words and pairs of words of a name, with and without a final s: what a noun may be.

    >>> sorted(nouns_of("red cats"))
    ['cat', 'cats', 'red', 'red cat', 'red cats']
    """
    single = words(name)
    names = {*single, *(f"{a} {b}" for a, b in pairwise(single))}
    return names | {word.removesuffix("s") for word in names}


def _cut(query: str, counts: Counter[str]) -> str:
    """The keywords of a query whose words all stand in training names."""
    trained = [k for k in query.split(", ") if k and all(counts[w] >= KNOWN for w in words(k))]
    return ", ".join(trained)


def _contents(names: Sequence[str], cfg: Config) -> list[bytes]:
    """Encoded bytes of drawings ``<set>/<row>.jpg``."""
    sets = {Path(name).parent.name for name in names}
    packed = {s: Packed(bundled(f"{s}/images.npz", cfg.data.root)) for s in sets}
    return [packed[Path(n).parent.name].item(int(Path(n).stem)).tobytes() for n in names]


# -- metrics -------------------------------------------------------------------------------------


def pool_metrics(
    model: Encoders, held: HeldOut, workspace: Workspace | None = None
) -> dict[str, float]:
    """Zero-shot nouns, retrieval by name and by keywords; a workspace gets the item values.

    ``zeroshot_*`` is over prompts in sentences that no text is made from, ``bare_*`` over the nouns
    alone, as names are; items of ``*_mean_per_class`` are the classes. Recalls are means of both
    directions. ``known_keyword_*`` has queries of words that stand in training names. ``score`` is
    the mean of zero-shot and name recall. ``prompt_agreement`` is the mean cosine of a class's
    prompts in different sentences minus that of different classes in one sentence.
    """
    images = model.images(held.pixels)
    metrics: dict[str, float] = {}
    items: dict[str, list[float]] = {}
    for name, templates in (("zeroshot", UNSEEN_TEMPLATES), ("bare", ("{}",))):
        weights = class_embeddings(lambda t: model.texts(t), held.classes, templates)
        right = (relevant_ranks(images[held.labelled], weights, held.labels) == 1).double()
        sizes = torch.bincount(held.labels, minlength=len(held.classes))
        recalls = torch.bincount(held.labels, right, minlength=len(held.classes)) / sizes
        metrics[f"{name}_top1"] = float(right.mean())
        metrics[f"{name}_mean_per_class"] = float(recalls.mean())
        items[f"{name}_mean_per_class"] = recalls.tolist()
        for key in ("top1", "mean_per_class"):
            metrics[f"{name}_{key}_chance"] = 1 / len(held.classes)
    names = [row["name"] for row in held.rows]
    asked = {
        "name": (list(range(len(names))), names),
        "keyword": (held.queried, [held.rows[i]["query"] for i in held.queried]),
        "known_keyword": ([i for i, _ in held.known], [query for _, query in held.known]),
    }
    for name, (rows, texts) in asked.items():
        hits, chance = recall_both_ways(images[rows], model.texts(texts), texts)
        metrics[f"{name}_recall_at_10"] = float(hits.mean())
        metrics[f"{name}_recall_at_10_chance"] = chance
        items[f"{name}_recall_at_10"] = hits.tolist()
    parts = ["zeroshot_mean_per_class", "name_recall_at_10"]
    for end in ("", "_chance"):
        metrics[f"score{end}"] = sum(metrics[part + end] for part in parts) / 2
    metrics["prompt_agreement"] = prompt_agreement(model, held.classes)
    if workspace is not None:
        for name, values in items.items():
            workspace.items(name, values)
        workspace.mean_items("score", parts)
    return metrics


def name_losses(
    cfg: Config, module: LaCLIP, held: HeldOut, pairs: CaptionedImages
) -> dict[str, float]:
    """`loss_gap` between names that were trained on and held-out ones."""
    source, model = pairs.images, encoders(cfg, module)
    assert isinstance(source, CachedImages)
    rows = training_rows(len(pairs), len(held.rows))
    training = None
    if rows:
        names = [caption_of(pairs, i) for i in rows]
        training = model.images(source.images[rows]), model.texts(names)
    names = [row["name"] for row in held.rows]
    return loss_gap(module, training, (model.images(held.pixels), model.texts(names)))


def show(cfg: Config, model: Encoders, held: HeldOut, workspace: Workspace) -> None:
    """Galleries: names to drawings and keywords to drawings, the best five of each query."""
    images = F.normalize(model.images(held.pixels[held.queried]), dim=1)
    pictures = [pool_picture(held.rows[i]["image"], cfg.data) for i in held.queried]
    right = list(range(len(pictures)))
    for title, key in (("names to drawings", "name"), ("keywords to drawings", "query")):
        texts = [held.rows[i][key] for i in held.queried]
        scores = model.texts(texts) @ images.T
        workspace.gallery(title, retrieval_gallery(scores, texts, pictures, right))
