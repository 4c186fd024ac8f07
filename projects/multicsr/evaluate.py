"""STS, held-back triplets, zero-shot retrieval, and what the stages did to the data."""

import warnings
from collections.abc import Callable, Sequence

from torch import Tensor

from common.config import UserError
from common.data.text.sets import load_nli_triplets
from common.engine.experiment import Requirement, bundled_requirement
from common.engine.workspace import Workspace
from common.evaluation.retrieval.beir import RetrievalSet
from common.evaluation.retrieval.ranking import Run
from common.evaluation.retrieval.runs import dense_run, run_scores
from common.evaluation.text.sts import pair_cosine
from common.evaluation.text.sts_protocol import evaluate_sts
from common.families.retrieval.sets import SYNTHETIC, read_set, set_folder, set_names
from common.families.sentences.data import sts_set
from common.families.sentences.evaluation import encoding, evaluate_sentences, untrained_encoder
from projects.multicsr.config import Config
from projects.multicsr.data import ERRORS, Prepared, prepare
from projects.multicsr.module import MultiCSR

Encode = Callable[[list[str]], Tensor]
Search = Callable[[RetrievalSet], Run]
ITEMS = ("ndcg_at_10", "recall_at_100")
TIE = 0.5  # of a triplet whose two sentences are equally near: chance


def evaluate(cfg: Config, module: MultiCSR, workspace: Workspace) -> dict[str, float]:
    """All metrics of a trained student; those of the data are measured again, from stored scores."""
    metrics = evaluate_sentences(cfg, module, workspace)
    with encoding(cfg, module.encoder) as encode:
        metrics |= further_metrics(cfg, encode, workspace)
    if cfg.eval.untrained:
        with encoding(cfg, untrained_encoder(cfg, module)) as encode:
            before = further_metrics(cfg, encode, None)
        metrics |= {f"untrained_{name}": value for name, value in before.items()}
    metrics |= second_pooler(cfg, module)
    batches, foreign, hard = module.masked.tolist()
    if batches:
        metrics |= {"masked_share": foreign / batches, "masked_own_negative_share": hard / batches}
    return metrics | kept_data_metrics(cfg)


def further_metrics(cfg: Config, encode: Encode, workspace: Workspace | None) -> dict[str, float]:
    """Held-back triplets and zero-shot retrieval; items are saved if there is a workspace."""
    metrics: dict[str, float] = {}
    if cfg.eval.triplets:
        metrics = triplet_metrics(triplet_hits(cfg, encode), workspace)
    return metrics | retrieval_metrics(cfg, lambda data: dense_run(data, encode, encode), workspace)


def triplet_metrics(hits: Sequence[float], workspace: Workspace | None) -> dict[str, float]:
    """Mean of `nearer` as ``triplet_accuracy``; items are saved if there is a workspace."""
    if workspace is not None:
        workspace.items("triplet_accuracy", hits)
    return {"triplet_accuracy": sum(hits) / len(hits)}


def nearer(positive: Sequence[float], negative: Sequence[float]) -> list[float]:
    """1 where a similarity exceeds the other, 0 where it is less, half for a tie.

    >>> nearer([0.9, 0.5, 0.1], [0.5, 0.5, 0.5])
    [1.0, 0.5, 0.0]
    """
    return [TIE if a == b else float(a > b) for a, b in zip(positive, negative, strict=True)]


def missing_sets(cfg: Config) -> list[str]:
    """Folders of ``eval.retrieval`` that are not there."""
    return [need.location for need in set_requirements(cfg) if not need.present]


def set_requirements(cfg: Config) -> list[Requirement]:
    """What the evaluation reads besides the sets of sentence pairs."""
    hint = "a folder in the BEIR layout: corpus.jsonl, queries.jsonl, qrels/test.tsv"
    folders = {
        place: set_folder(place, cfg.data.root)
        for place in cfg.eval.retrieval
        if place != SYNTHETIC
    }
    requirements = [
        Requirement(f"data: eval.retrieval, {place}", str(folder), folder.is_dir(), hint)
        for place, folder in folders.items()
    ]
    return [*requirements, bundled_requirement("nli")] if cfg.eval.triplets else requirements


def second_pooler(cfg: Config, module: MultiCSR) -> dict[str, float]:
    """STS through the trained MLP, ``mlp_*``, where the raw [CLS] is evaluated and exported.

    Source: released evaluation script, which reports both poolers.
    """
    tower = module.encoder.tower
    # an exported student has no MLP
    if tower.cls_head is None or not tower.mlp_only_train:
        return {}
    sets = {name: sts_set(cfg, name) for name in cfg.eval.sets}
    tower.mlp_only_train = False
    try:
        with encoding(cfg, module.encoder) as encode:
            metrics, _ = evaluate_sts(encode, sets)
    finally:
        tower.mlp_only_train = True
    return {f"mlp_{name}": value for name, value in metrics.items()}


def held_back(cfg: Config) -> list[list[str]]:
    """Premises, entailments and contradictions of the NLI triplets that no training sees."""
    rows = [row for row in load_nli_triplets(cfg.data.root, "test") if all(row)]  # 1,200
    return [list(side) for side in zip(*rows, strict=True)]


def triplet_hits(cfg: Config, encode: Encode) -> list[float]:
    """Of held-back NLI triplets: whether the entailment is nearer to the premise, see `nearer`."""
    premise, positive, negative = (encode(side) for side in held_back(cfg))
    sides = pair_cosine(premise, positive), pair_cosine(premise, negative)
    return nearer(*(side.tolist() for side in sides))


def retrieval_names(cfg: Config) -> dict[str, str]:
    """What the sets of ``eval.retrieval`` are called in metrics, by folder."""
    names = set_names(cfg.eval.retrieval)
    return {place: name.replace("-", "_") for place, name in names.items()}


def retrieval_metrics(cfg: Config, search: Search, workspace: Workspace | None) -> dict[str, float]:
    """Zero-shot retrieval of every set of ``eval.retrieval``, ``<set>_<metric>``, and the means.

    Args:
        cfg: the experiment's config.
        search: ranks the documents of a set.
        workspace: saves the values of the queries; None: nothing is saved.
    """
    metrics: dict[str, float] = {}
    places = retrieval_names(cfg)
    for place, name in places.items():
        data = read_set(place, root=cfg.data.root)
        scores = run_scores(data, search(data))
        for metric in ITEMS:
            metrics[f"{name}_{metric}"] = scores.metrics[metric]
            if workspace is not None:
                workspace.items(f"{name}_{metric}", scores.per_query[metric])
    names = list(places.values())
    for metric in ITEMS if len(names) > 1 else ():
        keys = [f"{name}_{metric}" for name in names]
        metrics[f"retrieval_{metric}"] = sum(metrics[key] for key in keys) / len(keys)
        if workspace is not None:
            workspace.mean_items(f"retrieval_{metric}", keys)
    return metrics


def kept_data_metrics(cfg: Config) -> dict[str, float]:
    """`data_metrics` of what training was given; none, with a warning, where it is not here.

    Never the work of stages 1 and 2: one process evaluates, perhaps on a machine without the
    training texts.
    """
    try:
        return data_metrics(prepare(cfg, kept=True))
    except UserError as error:
        warnings.warn(f"no figures on the training triplets: {error}", stacklevel=2)
        return {}


def data_metrics(prepared: Prepared) -> dict[str, float]:
    """Shares of stage 2, and precision and recall of what it dropped, by the kind of error.

    A reversed triplet that was put right counts as found.
    """
    metrics = {"triplets": float(len(prepared.triplets))}
    curated = prepared.curated
    if curated is None:
        return metrics
    metrics |= curated.metrics()
    errors = [row.error for row in prepared.rows]
    if not any(errors):
        return metrics
    kept, swapped = set(curated.places), set(curated.swapped)
    mended = {i for i in kept & swapped if errors[i] == "reversed"}
    removed = set(range(len(errors))) - kept
    wrong = {i for i, error in enumerate(errors) if error}
    metrics["filter_precision"] = len(removed & wrong) / max(1, len(removed))
    metrics["filter_recall"] = len((removed & wrong) | mended) / max(1, len(wrong))
    for name in ERRORS:
        spoilt = {i for i in wrong if errors[i] == name}
        if spoilt:
            metrics[f"filter_recall_{name}"] = len((removed | mended) & spoilt) / len(spoilt)
    left = {i for i in kept & wrong if i not in mended}
    broken = {
        i for i in kept & swapped if errors[i] != "reversed"
    }  # right ones that were exchanged
    metrics["error_share"] = len(wrong) / len(errors)
    metrics["error_share_after"] = len(left | broken) / max(1, len(kept))
    return metrics
