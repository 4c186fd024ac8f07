"""STS scores, geometry and gallery of a sentence encoder, before and after training."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from common.data.text.options import is_pair_file, metric_prefix
from common.data.text.sets import StsSet
from common.encoders.modes import evaluated, untrained
from common.encoders.text.sentence import SentenceEncoder
from common.engine.own_texts import show_pairs
from common.engine.workspace import Workspace
from common.evaluation.features import geometry
from common.evaluation.figures import score_figure
from common.evaluation.gallery import retrieval_gallery
from common.evaluation.text.pair_baselines import tfidf_cosine, word_overlap
from common.evaluation.text.sts import sts_score
from common.evaluation.text.sts_protocol import evaluate_sts
from common.evaluation.text.transfer import evaluate_transfer, load_transfer
from common.families.sentences.data import first_sts_set, sts_set
from common.families.sentences.module import SentenceModule, build_encoder
from common.families.sentences.protocol import SentenceExperimentConfig

PARAPHRASE = 0.8  # share of the gold scale from which a pair counts as positive (4 of 5)
GALLERY_QUERIES = 6


def evaluate_sentences(
    cfg: SentenceExperimentConfig, module: SentenceModule, workspace: Workspace
) -> dict[str, float]:
    """STS scores of the encoder, the untrained encoder alongside them, geometry and transfer tasks.

    Files of scored pairs also have counts and training-free scores, see `own_pairs`. Cosines and
    gold scores of every set are saved for `make compare`.

    Raises:
        UserError: the config names no STS set.
    """
    primary = first_sts_set(cfg)
    sets = {name: sts_set(cfg, name) for name in cfg.eval.sets}
    with encoding(cfg, module.encoder) as encode:
        metrics, cosines = evaluate_sts(encode, sets)
        metrics |= sentence_geometry(encode, primary)
        rows = sentence_gallery(encode, primary)
        if cfg.eval.transfer:
            tasks = {name: load_transfer(cfg.data.root, name) for name in cfg.eval.transfer}
            metrics |= evaluate_transfer(encode, tasks)
    if cfg.eval.untrained:
        with encoding(cfg, untrained_encoder(cfg, module)) as encode:
            before, _ = evaluate_sts(encode, sets)
            before |= sentence_geometry(encode, primary)
        metrics |= {f"untrained_{name}": value for name, value in before.items()}
    metrics |= own_pairs(sets, cosines, workspace)
    key, cosine = f"{metric_prefix(primary.name)}_spearman", cosines[primary.name]
    save_sts_items(workspace, sets, cosines)
    workspace.gallery("nearest sentences", rows)
    title = f"{primary.name}: Spearman {metrics[key]:.3f}"
    workspace.figure("sts", score_figure(cosine, primary.scores, title))
    return metrics


def own_pairs(
    sets: Mapping[str, StsSet], cosines: Mapping[str, list[float]], workspace: Workspace
) -> dict[str, float]:
    """Counts and training-free scores of the sets that are files of the user.

    Args:
        sets: by name; those that are not files are passed over.
        cosines: of the pairs of each set, by the trained encoder.
        workspace: of the run, which is told about skipped rows and takes galleries of the pairs
            that are ranked worst.

    Returns:
        ``<set>_num_pairs`` and ``<set>_num_skipped``; ``jaccard_<set>_spearman`` and
        ``tfidf_<set>_spearman``.
    """
    metrics: dict[str, float] = {}
    for name, data in sets.items():
        if not is_pair_file(name):
            continue
        title = metric_prefix(name)
        metrics |= {
            f"{title}_num_pairs": float(len(data)),
            f"{title}_num_skipped": float(data.num_skipped),
        }
        if data.num_skipped:
            rows = len(data) + data.num_skipped
            workspace.say(
                f"{Path(name).name}: {data.num_skipped} of {rows} rows have no text or no score"
            )
        show_pairs(data, cosines[name], workspace)
        for row, similarity in (("jaccard", word_overlap), ("tfidf", tfidf_cosine)):
            scores = similarity(data.first, data.second)
            metrics[f"{row}_{title}_spearman"] = sts_score(scores, data.scores)["spearman"]
            workspace.rank_items(f"{row}_{title}_spearman", scores, data.scores)
    return metrics


def save_sts_items(
    workspace: Workspace, sets: Mapping[str, StsSet], similarities: Mapping[str, Sequence[float]]
) -> None:
    """Items of ``<set>_spearman`` of every set, and of their average.

    Args:
        workspace: of the run.
        sets: by name.
        similarities: of the pairs of each set.
    """
    names = {name: f"{metric_prefix(name)}_spearman" for name in sets}
    for name, data in sets.items():
        workspace.rank_items(names[name], similarities[name], data.scores)
    workspace.mean_items("sts_average_spearman", list(names.values()))


class encoding:
    """Context in which an encoder's `encode` runs, on the GPU if allowed.

    Several measures ask for the same sentences; each distinct one is encoded once per context.
    """

    def __init__(self, cfg: SentenceExperimentConfig, encoder: SentenceEncoder) -> None:
        self.encoder, self.batch_size = encoder, cfg.eval.batch_size
        self.context = evaluated(encoder, cfg.trainer.accelerator)
        self.rows: dict[str, Tensor] = {}

    def __enter__(self) -> Callable[[list[str]], Tensor]:
        self.context.__enter__()
        return self.encode

    def __exit__(self, *error: Any) -> None:
        self.rows = {}
        self.context.__exit__(*error)

    def encode(self, texts: Sequence[str]) -> Tensor:
        """N texts -> (N, D) on the CPU."""
        new = [text for text in dict.fromkeys(texts) if text not in self.rows]
        if new:
            embeddings = self.encoder.encode(new, batch_size=self.batch_size)
            self.rows |= dict(zip(new, embeddings, strict=True))
        return torch.stack([self.rows[text] for text in texts])


def untrained_encoder(
    cfg: SentenceExperimentConfig, like: nn.Module | None = None
) -> SentenceEncoder:
    """The encoder of a config before training, see `untrained`, on the device of `like`."""
    return untrained(lambda: build_encoder(cfg.model), cfg.seed, like)


def before_and_after(
    cfg: SentenceExperimentConfig,
    module: SentenceModule,
    measure: Callable[[Callable[[list[str]], Tensor]], dict[str, float]],
) -> dict[str, float]:
    """What `measure` finds of the trained encoder; ``untrained_*`` alongside it if the config asks.

    Args:
        cfg: the project's config.
        module: holds the trained encoder.
        measure: given an encoder's `encode`, N texts -> (N, D).
    """
    with encoding(cfg, module.encoder) as encode:
        metrics = measure(encode)
    if cfg.eval.untrained:
        with encoding(cfg, untrained_encoder(cfg, module)) as encode:
            before = measure(encode)
        metrics |= {f"untrained_{name}": value for name, value in before.items()}
    return metrics


def sentence_geometry(encode: Callable[[list[str]], Tensor], sts: StsSet) -> dict[str, float]:
    """Alignment of pairs with at least 4/5 of the top score; uniformity and mean cosine of all.

    Source: Wang & Isola 2020, arXiv 2005.10242; Gao et al. 2021, section 6, arXiv 2104.08821.
    """
    first, second = encode(sts.first), encode(sts.second)
    gold = torch.tensor(sts.scores)
    close = gold >= PARAPHRASE * gold.max()
    everything = torch.cat([first, second])
    return {
        "alignment": geometry.alignment(first[close], second[close]),
        "uniformity": geometry.uniformity(everything),
        "mean_cosine": geometry.mean_cosine(everything),
    }


def sentence_gallery(encode: Callable[[list[str]], Tensor], sts: StsSet) -> list[dict[str, Any]]:
    """Nearest second sentences of the best-scored pairs."""
    order = sorted(range(len(sts)), key=lambda i: -sts.scores[i])[: 4 * GALLERY_QUERIES]
    texts = list(dict.fromkeys(sts.second))
    queries = [sts.first[i] for i in order]
    scores = (
        nn.functional.normalize(encode(queries), dim=1)
        @ nn.functional.normalize(encode(texts), dim=1).T
    )
    right = [texts.index(sts.second[i]) for i in order]
    return retrieval_gallery(scores, queries, texts, right, num_queries=GALLERY_QUERIES)
