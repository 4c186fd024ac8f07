"""An encoder before and after training, and on sets in the BEIR layout next to lexical methods."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import fields
from pathlib import Path

import torch
from torch import nn

from common.config import UserError
from common.data.retrieval.corpus_file import texts_of
from common.data.tables import read_jsonl
from common.encoders.modes import evaluated, untrained
from common.encoders.state_dict import weights_digest
from common.engine.own_texts import show_queries
from common.engine.progress import track
from common.engine.workspace import Workspace
from common.evaluation.retrieval.answers import answer_recall
from common.evaluation.retrieval.beir import RetrievalSet, load_corpus, load_titles
from common.evaluation.retrieval.chosen_fusion import choose_fusion, weighted_runs
from common.evaluation.retrieval.fusion import linear_fusion, reciprocal_rank_fusion
from common.evaluation.retrieval.ranking import Run
from common.evaluation.retrieval.runs import (
    DEPTH,
    LEXICAL,
    Lexical,
    OnDisk,
    RunScores,
    dense_run,
    lexical_run,
    run_scores,
)
from common.families.retrieval.config import RetrievalEval
from common.families.retrieval.encoder import E, EncoderRecipe
from common.families.retrieval.protocol import RetrievalExperimentConfig
from common.families.retrieval.sets import SYNTHETIC as SYNTHETIC
from common.families.retrieval.sets import is_bundled, read_set, set_counts, set_folder
from common.families.retrieval.sets import named_sets as named_sets
from common.families.retrieval.sets import set_names as set_names

# metrics whose values by query are kept, and which are averaged over sets
ITEMS = ("ndcg_at_10", "recall_at_100", "mrr", "map")
ROWS = ("", "untrained_", "bm25_", "tfidf_", "hybrid_", "rrf_", "chosen_")
WON = ("recall_at_100", "ndcg_at_10")  # metrics by which sets are won against BM25
ANSWER_KS = (5, 20, 100)


def before_and_after(
    cfg: RetrievalExperimentConfig,
    recipe: EncoderRecipe[E],
    encoder: E,
    measure: Callable[[E, Workspace | None], dict[str, float]],
    workspace: Workspace,
    documents: int = 0,
) -> dict[str, float]:
    """What `measure` finds of the trained encoder; ``untrained_*`` alongside it if the config asks.

    Args:
        cfg: the project's config.
        recipe: builds the encoder before training, see `untrained`.
        encoder: the trained one.
        measure: given an encoder in evaluation mode, on the GPU if allowed, and the run's
            workspace, which is None for the untrained encoder.
        workspace: of the run.
        documents: of the set; above ``eval.shard_size``, ``eval.untrained_shards`` decides.
    """
    with evaluated(encoder, cfg.trainer.accelerator):
        metrics = measure(encoder, workspace)
    if cfg.eval.untrained and (cfg.eval.untrained_shards or documents <= cfg.eval.shard_size):
        raw = untrained(recipe.build, cfg.seed, like=encoder)
        with evaluated(raw, cfg.trainer.accelerator):
            before = measure(raw, None)
        metrics |= {f"untrained_{k}": v for k, v in before.items() if not k.endswith("_chance")}
    return metrics


def evaluate_beir(
    cfg: RetrievalExperimentConfig, recipe: EncoderRecipe[E], encoder: E, workspace: Workspace
) -> dict[str, float]:
    """Metrics ``<set>_<metric>`` of ``eval.beir`` by exact search, and their averages.

    One call gives all rows of the table: the encoder; ``untrained_*``, and ``bm25_*``, ``tfidf_*``,
    ``hybrid_*``, ``rrf_*`` and ``chosen_*`` of the same set, as the config says (``chosen_*``:
    reciprocal ranks with weights of `choose_fusion`). ``average_<metric>`` are means
    over sets, ``<group>_<metric>`` those of ``eval.groups``, each of which counts as one set;
    ``sets_won_<metric>`` counts the sets, of ``num_sets``, where the encoder is ahead of BM25;
    `set_counts` says how many queries and documents a set has.
    Values by query of all rows are saved for `make compare`, a gallery for `make report`.

    Raises:
        UserError: a set that is missing or broken, or two that would have the same name.
    """
    names, dev = named_sets(cfg.eval)
    metrics: dict[str, float] = {}
    for place, name in names.items():
        data = load_set(cfg, place)
        metrics |= set_counts(data, name, workspace)
        metrics |= _evaluate_set(cfg, recipe, encoder, data, name, workspace)
    units = _averages(cfg, names, metrics, workspace)
    if cfg.eval.lexical and names:
        for m in WON:
            won = [metrics[f"{n}_{m}"] > metrics[f"bm25_{n}_{m}"] for n in units]
            metrics[f"sets_won_{m}"] = float(sum(won))
        metrics["num_sets"] = float(len(units))
    for place, name in dev.items():
        metrics |= _evaluate_dev(cfg, recipe, encoder, load_set(cfg, place), name, workspace)
    asked = set_names(cfg.eval.answers)
    for folder in dict.fromkeys(place.partition("@")[0] for place in asked):
        own_sets = {p: name for p, name in asked.items() if p.partition("@")[0] == folder}
        metrics |= _evaluate_answers(cfg, recipe, encoder, own_sets, workspace)
    if len(asked) > 1:
        for k in ANSWER_KS:
            recalls = [metrics[f"{name}_answer_recall_at_{k}"] for name in asked.values()]
            metrics[f"average_answer_recall_at_{k}"] = sum(recalls) / len(recalls)
    return metrics


def keep_scores(scores: RunScores, row: str, name: str, workspace: Workspace) -> dict[str, float]:
    """Metrics of a ranking as ``<set>_<metric>``.

    Its values by query are saved with the row's prefix.

    Args:
        scores: of the ranking.
        row: "" or a prefix such as "bm25_".
        name: of the set.
        workspace: of the run.
    """
    for metric in ITEMS:
        workspace.items(f"{row}{name}_{metric}", scores.per_query[metric])
    return {f"{name}_{metric}": value for metric, value in scores.metrics.items()}


def average_scores(
    names: Sequence[str], metrics: Mapping[str, float], row: str, title: str, workspace: Workspace
) -> dict[str, float]:
    """Means of `ITEMS` over sets, without a row's prefix, and how `make compare` finds their items.

    Args:
        names: of the sets.
        metrics: hold ``<row><set>_<metric>``.
        row: "" or a prefix.
        title: what the mean is called.
        workspace: of the run.
    """
    averages = {}
    for metric in ITEMS:
        keys = [f"{row}{name}_{metric}" for name in names]
        averages[f"{title}_{metric}"] = sum(metrics[key] for key in keys) / len(keys)
        workspace.mean_items(f"{row}{title}_{metric}", keys)
    return averages


def _averages(
    cfg: RetrievalExperimentConfig,
    names: Mapping[str, str],
    metrics: dict[str, float],
    workspace: Workspace,
) -> list[str]:
    """Add the means of groups and over all sets; the sets and groups that count as one set each."""
    groups = {title: [names[p] for p in sets] for title, sets in cfg.eval.groups.items() if sets}
    grouped = {name for sets in groups.values() for name in sets}
    units = [*groups, *(name for name in names.values() if name not in grouped)]
    if len(units) > 1:
        groups["average"] = units
    for row in ROWS:
        for title, sets in groups.items():
            if all(f"{row}{name}_{ITEMS[0]}" in metrics for name in sets):
                means = average_scores(sets, metrics, row, title, workspace)
                metrics |= {f"{row}{k}": v for k, v in means.items()}
    return units


def _evaluate_dev(
    cfg: RetrievalExperimentConfig,
    recipe: EncoderRecipe[E],
    encoder: E,
    data: RetrievalSet,
    name: str,
    workspace: Workspace,
) -> dict[str, float]:
    def measure(some: E, output: Workspace | None) -> dict[str, float]:
        scores = run_scores(data, encoder_run(cfg, recipe, some, data))
        return {f"{name}_{metric}": value for metric, value in scores.metrics.items()}

    return before_and_after(cfg, recipe, encoder, measure, workspace, len(data.corpus))


def encoder_run(
    cfg: RetrievalExperimentConfig, recipe: EncoderRecipe[E], encoder: E, data: RetrievalSet
) -> Run:
    """What an encoder, in evaluation mode, finds for the queries of a set.

    A set larger than ``eval.shard_size`` is encoded to files, see `OnDisk`.
    """
    return dense_run(
        data,
        lambda texts: recipe.queries(encoder, texts),
        lambda texts: recipe.documents(encoder, texts),
        metric=recipe.metric,
        on_disk=on_disk(cfg, encoder),
    )


def on_disk(cfg: RetrievalExperimentConfig, encoder: nn.Module) -> OnDisk:
    """Where an encoder's vectors of large sets are kept, under its weights and settings."""
    options = cfg.eval
    shared = {f.name for f in fields(RetrievalEval)} - {"normalize_text", "lower_case"}
    settings = {name: value for name, value in vars(options).items() if name not in shared}
    for section in ("model", "method"):
        settings[section] = repr(getattr(cfg, section, None))

    def model_key() -> str:
        return f"{weights_digest(encoder)} {sorted(settings.items())}"

    folder = options.embeddings or Path(cfg.runs_dir) / "embeddings"
    on_gpu = torch.cuda.is_available() and cfg.trainer.accelerator != "cpu"
    return OnDisk(
        Path(folder).expanduser(),
        model_key,
        options.shard_size,
        options.index,
        "cuda" if on_gpu else "cpu",
        track,
    )


def encode_large_sets(cfg: RetrievalExperimentConfig, recipe: EncoderRecipe[E], encoder: E) -> None:
    """Encode the sets of the evaluation that are larger than a shard, with other processes.

    Each process takes the shards that nobody else has; `evaluate_beir` finds them.

    Args:
        cfg: the project's config.
        recipe: its encoder.
        encoder: the trained one.
    """
    places = [*cfg.eval.beir, *(p for p in cfg.eval.dev if p not in cfg.eval.beir)]
    corpora = {place.partition("@")[0]: load_set(cfg, place).corpus for place in places}
    for place in cfg.eval.answers:
        corpora[place.partition("@")[0]] = load_corpus(beir_folder(cfg, place))
    large = [c for c in corpora.values() if len(c) > cfg.eval.shard_size]
    encoders = [encoder]
    if large and cfg.eval.untrained and cfg.eval.untrained_shards:
        encoders.append(untrained(recipe.build, cfg.seed, like=encoder))
    for some in encoders:
        with evaluated(some, cfg.trainer.accelerator):
            for corpus in large:
                on_disk(cfg, some).vectors(
                    lambda texts, some=some: recipe.documents(some, texts),  # type: ignore[misc]
                    texts_of(corpus),
                    wait=False,
                )


def _evaluate_set(
    cfg: RetrievalExperimentConfig,
    recipe: EncoderRecipe[E],
    encoder: E,
    data: RetrievalSet,
    name: str,
    workspace: Workspace,
) -> dict[str, float]:
    runs: dict[str, Run] = {}

    def measure(some: E, output: Workspace | None) -> dict[str, float]:
        run = encoder_run(cfg, recipe, some, data)
        scores = run_scores(data, run)
        if output is not None:
            runs[""] = run
            show_queries(data, run, scores.per_query["ndcg_at_10"], output, name)
        row = "untrained_" if output is None else ""
        return keep_scores(scores, row, name, workspace)

    size = len(data.corpus)
    metrics = before_and_after(cfg, recipe, encoder, measure, workspace, size)
    for method in lexical_methods(cfg, size):
        runs[f"{method}_"] = lexical_run(data, method, on_disk=on_disk(cfg, encoder))
    if cfg.eval.hybrid:
        both, dense = [runs[""], runs["bm25_"]], cfg.eval.hybrid_weight
        runs["hybrid_"] = linear_fusion(both, [dense, 1 - dense], depth=DEPTH)
        runs["rrf_"] = reciprocal_rank_fusion(both, depth=DEPTH)
        chosen = choose_fusion(
            data, weighted_runs(both[0], both[1], DEPTH), cfg.eval.hybrid_queries
        )
        if chosen is not None:
            runs["chosen_"] = chosen.run
            metrics[f"chosen_{name}_dense_weight"] = chosen.weight
            workspace.say(f"set '{name}', {chosen.helped('the encoder', 'BM25')}")
    for row, run in runs.items():
        if row:
            scores = keep_scores(run_scores(data, run), row, name, workspace)
            metrics |= {f"{row}{k}": v for k, v in scores.items()}
    return metrics


def _evaluate_answers(
    cfg: RetrievalExperimentConfig,
    recipe: EncoderRecipe[E],
    encoder: E,
    asked: Mapping[str, str],
    workspace: Workspace,
) -> dict[str, float]:
    """Answer recall of the sets of one folder, place -> name, whose passages are encoded once.

    Passages are found by title and text, answers are looked for in the text alone, as DPR does.
    """
    folder = beir_folder(cfg, next(iter(asked)))
    _, texts = load_titles(folder)
    corpus = load_corpus(folder)
    questions: dict[str, str] = {}
    accepted: dict[str, dict[str, list[str]]] = {}  # name of a set -> question's id -> answers
    for place, name in asked.items():
        part = place.partition("@")[2]
        file = f"questions.{part}.jsonl" if part else "questions.jsonl"
        rows = _questions(folder / file)
        ids = [f"{name} question {i}" for i in range(len(rows))]  # not those of passages
        questions |= {i: question for i, (question, _) in zip(ids, rows, strict=True)}
        accepted[name] = {i: answers for i, (_, answers) in zip(ids, rows, strict=True)}
    data = RetrievalSet(corpus, questions, {})

    def recalls(run: Run, row: str) -> dict[str, float]:
        metrics = {}
        for name, answers in accepted.items():
            passages = [[texts[d] for d in run[question]] for question in answers]
            values = answer_recall(passages, list(answers.values()), ANSWER_KS)
            for metric, items in values.items():
                workspace.items(f"{row}{name}_answer_{metric}", items)
                metrics[f"{name}_answer_{metric}"] = sum(items) / len(items)
        return metrics

    def measure(some: E, output: Workspace | None) -> dict[str, float]:
        return recalls(encoder_run(cfg, recipe, some, data), "untrained_" if output is None else "")

    metrics = before_and_after(cfg, recipe, encoder, measure, workspace, len(corpus))
    if cfg.eval.lexical:
        run = lexical_run(data, "bm25", on_disk=on_disk(cfg, encoder))
        metrics |= {f"bm25_{k}": v for k, v in recalls(run, "bm25_").items()}
    return metrics


def lexical_methods(cfg: RetrievalExperimentConfig, documents: int) -> tuple[Lexical, ...]:
    """Which lexical methods a set of so many documents is scored by.

    TF-IDF has no index on disk, so that large sets have BM25 alone.
    """
    if not cfg.eval.lexical:
        return ()
    return LEXICAL if documents <= cfg.eval.shard_size else ("bm25",)


def _questions(file: Path) -> list[tuple[str, list[str]]]:
    """Questions with their accepted answers; a single answer may be no list."""
    rows = []
    for number, row in enumerate(read_jsonl(file, ("question", "answers")), start=1):
        question, answers = row["question"], row["answers"]
        answers = [answers] if isinstance(answers, str) else answers
        if not isinstance(question, str) or not question.strip():
            raise UserError(f"{file}, row {number}: 'question' has to be a text")
        if not isinstance(answers, list) or not all(isinstance(a, str) for a in answers):
            raise UserError(f"{file}, row {number}: 'answers' has to be a text or a list of texts")
        rows.append((question, answers))
    if not rows:
        raise UserError(f"{file} has no question")
    return rows


def load_set(cfg: RetrievalExperimentConfig, place: str, *, held_out: bool = False) -> RetrievalSet:
    """A set of the evaluation, reduced as the config says; see `read_set`.

    Sets that are not bundled are reduced only by ``eval.own_limits``.

    Args:
        cfg: the project's config.
        place: see ``eval.beir``.
        held_out: the queries that are left for fine-tuning instead of those that are asked.
    """
    options = cfg.eval
    bundled = is_bundled(place, cfg.data.root)

    def acts(limit: str) -> bool:
        return bundled or limit in options.own_limits

    return read_set(
        place,
        root=cfg.data.root,
        seed=cfg.seed,
        max_documents=options.max_documents if acts("max_documents") else None,
        held_out_queries=options.held_out_queries if acts("held_out_queries") else 0,
        held_out=held_out,
    )


def beir_folder(cfg: RetrievalExperimentConfig, name: str) -> Path:
    """Folder of a set of ``eval.beir``, see `set_folder`."""
    return set_folder(name, cfg.data.root)
