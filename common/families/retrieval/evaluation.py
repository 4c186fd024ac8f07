"""An encoder before and after training, and on sets in the BEIR layout beside lexical methods."""

from collections.abc import Callable
from pathlib import Path

from common.config import UserError
from common.data.lookup import data_root
from common.encoders.modes import evaluated, untrained
from common.engine.workspace import Workspace
from common.evaluation.retrieval.beir import RetrievalSet, load_beir
from common.evaluation.retrieval.ranking import Run
from common.evaluation.retrieval.runs import RunScores, dense_run, run_scores, trivial_baselines
from common.families.retrieval.encoder import E, EncoderRecipe
from common.families.retrieval.protocol import RetrievalExperimentConfig

ITEMS = ("ndcg_at_10", "recall_at_100")  # metrics whose values by query are kept
GALLERY_QUERIES, GALLERY_HITS = 6, 5


def before_and_after(
    cfg: RetrievalExperimentConfig,
    recipe: EncoderRecipe[E],
    encoder: E,
    measure: Callable[[E, Workspace | None], dict[str, float]],
    workspace: Workspace,
) -> dict[str, float]:
    """What `measure` finds of the trained encoder; ``untrained_*`` beside it if the config asks.

    Args:
        cfg: the project's config.
        recipe: builds the encoder as training began with it.
        encoder: the trained one.
        measure: given an encoder in evaluation mode, on the GPU if allowed, and the run's
            workspace, which is None for the untrained encoder.
        workspace: of the run.
    """
    with evaluated(encoder, cfg.trainer.accelerator):
        metrics = measure(encoder, workspace)
    if cfg.eval.untrained:
        raw = untrained(recipe.build, cfg.seed, like=encoder)
        with evaluated(raw, cfg.trainer.accelerator):
            before = measure(raw, None)
        metrics |= {f"untrained_{k}": v for k, v in before.items() if not k.endswith("_chance")}
    return metrics


def evaluate_beir(
    cfg: RetrievalExperimentConfig, recipe: EncoderRecipe[E], encoder: E, workspace: Workspace
) -> dict[str, float]:
    """Metrics on every set of ``eval.beir`` by exact search, ``<set>_<metric>``.

    Beside them ``untrained_*``, and ``bm25_*`` and ``tfidf_*`` of the same set, as the config says.
    Values by query of all rows are saved for `make compare`, a gallery for `make report`.

    Raises:
        UserError: a set that is missing or broken.
    """
    metrics: dict[str, float] = {}
    for name in cfg.eval.beir:
        data = _load(beir_folder(cfg, name))
        metrics |= _evaluate_set(cfg, recipe, encoder, data, Path(name).name, workspace)
    return metrics


def _evaluate_set(
    cfg: RetrievalExperimentConfig, recipe: EncoderRecipe[E], encoder: E, data: RetrievalSet,
    name: str, workspace: Workspace,
) -> dict[str, float]:  # fmt: skip
    def kept(scores: RunScores, row: str) -> dict[str, float]:
        for metric in ITEMS:
            workspace.items(f"{row}{name}_{metric}", scores.per_query[metric])
        return {f"{name}_{metric}": value for metric, value in scores.metrics.items()}

    def measure(some: E, own: Workspace | None) -> dict[str, float]:
        run = dense_run(
            data,
            lambda texts: recipe.queries(some, texts),
            lambda texts: recipe.documents(some, texts),
            metric=recipe.metric,
        )
        if own is not None:
            own.gallery(f"nearest documents {name}", beir_gallery(data, run))
        return kept(run_scores(data, run), "untrained_" if own is None else "")

    metrics = before_and_after(cfg, recipe, encoder, measure, workspace)
    for method, scores in trivial_baselines(data).items() if cfg.eval.lexical else ():
        row = f"{method}_"
        metrics |= {f"{row}{k}": v for k, v in kept(scores, row).items()}
    return metrics


def beir_folder(cfg: RetrievalExperimentConfig, name: str) -> Path:
    """Folder of a set of ``eval.beir``: as named, or below the data root."""
    path = Path(name).expanduser()
    return path if path.is_dir() else data_root(cfg.data.root) / name


def beir_gallery(data: RetrievalSet, run: Run) -> list[dict[str, object]]:
    """What some queries retrieve; documents that were judged relevant are marked."""
    rows: list[dict[str, object]] = []
    for query in list(run)[:GALLERY_QUERIES]:
        hits = list(run[query].items())[:GALLERY_HITS]
        results = [
            {"item": data.corpus[d], "score": s, "correct": data.qrels[query].get(d, 0) > 0}
            for d, s in hits
        ]
        rows.append({"query": data.queries[query], "results": results})
    return rows


def _load(folder: Path) -> RetrievalSet:
    if not folder.is_dir():
        raise UserError(
            f"{folder} does not exist: eval.beir takes folders with corpus.jsonl, queries.jsonl "
            "and qrels.tsv or qrels/test.tsv, below data.root"
        )
    return load_beir(folder, "test" if (folder / "qrels/test.tsv").is_file() else None)
