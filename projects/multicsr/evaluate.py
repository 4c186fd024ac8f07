"""STS, held-back triplets, zero-shot retrieval, and what the stages did to the data."""

from collections.abc import Callable
from pathlib import Path

from torch import Tensor

from common.data.text.sets import load_nli_triplets
from common.engine.workspace import Workspace
from common.evaluation.retrieval.runs import dense_run, run_scores
from common.evaluation.text.sts import pair_cosine
from common.evaluation.text.sts_protocol import evaluate_sts
from common.families.retrieval.sets import read_set
from common.families.sentences.data import sts_set
from common.families.sentences.evaluation import encoding, evaluate_sentences, untrained_encoder
from projects.multicsr.config import Config
from projects.multicsr.data import ERRORS, Prepared, prepare
from projects.multicsr.module import MultiCSR

Encode = Callable[[list[str]], Tensor]
ITEMS = ("ndcg_at_10", "recall_at_100")


def evaluate(cfg: Config, module: MultiCSR, workspace: Workspace) -> dict[str, float]:
    """All metrics of a trained student; those of the data are measured anew, from kept scores."""
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
    return metrics | data_metrics(prepare(cfg))


def further_metrics(cfg: Config, encode: Encode, workspace: Workspace | None) -> dict[str, float]:
    """Held-back triplets and zero-shot retrieval; items are saved if there is a workspace."""
    found: dict[str, float] = {}
    if cfg.eval.triplets:
        hits = triplet_hits(cfg, encode)
        found["triplet_accuracy"] = sum(hits) / len(hits)
        if workspace is not None:
            workspace.items("triplet_accuracy", hits)
    return found | retrieval_metrics(cfg, encode, workspace)


def second_pooler(cfg: Config, module: MultiCSR) -> dict[str, float]:
    """STS through the trained MLP, ``mlp_*``, where the raw [CLS] is what is evaluated and exported.

    Source: released evaluation script, which reports both poolers.
    """
    if cfg.model.pooling != "cls" or not cfg.model.mlp_only_train:
        return {}
    tower, sets = module.encoder.tower, {name: sts_set(cfg, name) for name in cfg.eval.sets}
    tower.mlp_only_train = False
    try:
        with encoding(cfg, module.encoder) as encode:
            found, _ = evaluate_sts(encode, sets)
    finally:
        tower.mlp_only_train = True
    return {f"mlp_{name}": value for name, value in found.items()}


def held_back(cfg: Config) -> list[list[str]]:
    """Premises, entailments and contradictions of the NLI triplets that no training sees."""
    rows = [row for row in load_nli_triplets(cfg.data.root, "test") if all(row)]
    return [list(side) for side in zip(*rows, strict=True)]


def triplet_hits(cfg: Config, encode: Encode) -> list[float]:
    """Of held-back NLI triplets: 1 where the entailment is nearer to the premise, else 0."""
    premise, positive, negative = (encode(side) for side in held_back(cfg))
    nearer = pair_cosine(premise, positive) > pair_cosine(premise, negative)
    found: list[float] = nearer.double().tolist()
    return found


def retrieval_metrics(cfg: Config, encode: Encode, workspace: Workspace | None) -> dict[str, float]:
    """Zero-shot retrieval of every set of ``eval.retrieval``, ``<set>_<metric>``, and the means."""
    metrics: dict[str, float] = {}
    names = []
    for place in cfg.eval.retrieval:
        data = read_set(place, root=cfg.data.root)
        scores = run_scores(data, dense_run(data, encode, encode))
        names.append(Path(place).name.replace("-", "_"))
        for metric in ITEMS:
            metrics[f"{names[-1]}_{metric}"] = scores.metrics[metric]
            if workspace is not None:
                workspace.items(f"{names[-1]}_{metric}", scores.per_query[metric])
    for metric in ITEMS if len(names) > 1 else ():
        own = [f"{name}_{metric}" for name in names]
        metrics[f"retrieval_{metric}"] = sum(metrics[key] for key in own) / len(own)
        if workspace is not None:
            workspace.mean_items(f"retrieval_{metric}", own)
    return metrics


def data_metrics(prepared: Prepared) -> dict[str, float]:
    """Shares of stage 2, and precision and recall of what it dropped, by the kind of error.

    A reversed triplet that was put right counts as found.
    """
    found = {"triplets": float(len(prepared.triplets))}
    curated = prepared.curated
    if curated is None:
        return found
    found |= curated.metrics()
    errors = [row.error for row in prepared.rows]
    if not any(errors):
        return found
    kept, swapped = set(curated.places), set(curated.swapped)
    mended = {i for i in kept & swapped if errors[i] == "reversed"}
    removed = set(range(len(errors))) - kept
    wrong = {i for i, error in enumerate(errors) if error}
    found["filter_precision"] = len(removed & wrong) / max(1, len(removed))
    found["filter_recall"] = len((removed & wrong) | mended) / max(1, len(wrong))
    for name in ERRORS:
        own = {i for i in wrong if errors[i] == name}
        if own:
            found[f"filter_recall_{name}"] = len((removed & own) | (mended & own)) / len(own)
    left = {i for i in kept & wrong if i not in mended}
    broken = {
        i for i in kept & swapped if errors[i] != "reversed"
    }  # right ones that were exchanged
    found["error_share"] = len(wrong) / len(errors)
    found["error_share_after"] = len(left | broken) / max(1, len(kept))
    return found
