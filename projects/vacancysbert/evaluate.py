"""Title normalisation of the trained encoder and of all baselines, in one call and on one list.

All of them read the texts of the benchmark as `load_data` hands them out: cleaned for all or for
none. Every row of the table asks twice: with the title alone and with the advert's skills next to it
(and, as a control, with the skills of a related occupation, where the benchmark has them).
"""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor

from common.encoders.modes import evaluated
from common.encoders.text.sentence import SentenceEncoder
from common.engine.workspace import Workspace
from common.evaluation.gallery import retrieval_gallery
from common.evaluation.retrieval.runs import tfidf_vectors
from common.export.sentence_transformers import load_sentence_transformers
from common.families.retrieval.dense import build_dense
from common.families.retrieval.evaluation import before_and_after
from projects.vacancysbert.config import Config
from projects.vacancysbert.data import load_data
from projects.vacancysbert.encoder import TitleSkillEncoder
from projects.vacancysbert.module import VacancySBERT
from projects.vacancysbert.normalisation import (
    ALL,
    KS,
    Scores,
    TitleBenchmark,
    cosines,
    gold_ranks,
    mixed,
    rank_metrics,
    sparse_cosines,
)
from projects.vacancysbert.places import WORD_VECTORS, file_path
from projects.vacancysbert.stages import recipe_of
from projects.vacancysbert.texts import skill_text
from projects.vacancysbert.word_vectors import read_word_vectors

PRIMARY = f"recall_at_{KS[-1]}"
BETAS = [i / 10 for i in range(11)]
LEXICAL: dict[str, dict[str, object]] = {
    "tfidf": {},
    "char_ngrams": {"analyzer": "char_wb", "ngram_range": (3, 5)},
}
_THIRDS = ("low", "middle", "high")
Side = Literal["titles", "skills"]
# texts of a side, candidates -> similarities
Compare = Callable[[list[str], Side, list[str]], Scores]


def evaluate(cfg: Config, module: VacancySBERT, workspace: Workspace) -> dict[str, float]:
    """All rows of the table: the method, ``untrained_*``, lexical ones and references.

    Metrics are ``<row><setting>_<part>_<metric>`` and ``<row><setting>_<metric>``, the mean over
    the parts that rows name (or over all rows); gains over the best baseline of each setting as
    difference and as ratio.

    Raises:
        UserError: missing data, weights or word vectors.
    """
    sets = load_data(cfg)
    data = sets.benchmark(cfg.eval.part)

    def measure(encoder: TitleSkillEncoder, output: Workspace | None) -> dict[str, float]:
        row = "untrained_" if output is None else ""
        compare = encoder_compare(cfg, encoder)
        if output is not None:
            output.gallery("standard titles", _gallery(compare, data))
        return score_row(cfg, compare, workspace, row)

    metrics = before_and_after(cfg, recipe_of(cfg), module.encoder, measure, workspace)
    for name in LEXICAL if cfg.eval.lexical else ():
        metrics |= _named(name, score_row(cfg, lexical_compare(name), workspace, f"{name}_"))
    for name, place in cfg.eval.references.items():
        with reference_compare(cfg, place) as compare:
            metrics |= _named(name, score_row(cfg, compare, workspace, f"{name}_"))
    metrics |= {name: float(count) for name, count in sets.counts.items()}
    if naming := sets.counts.get("test_rows_with_title_in_skills"):
        workspace.say(
            f"{naming} test rows had a title among their skills; it was taken out of them"
        )
    metrics["excluded_queries"] = float(data.excluded)
    names = [
        n
        for n in ("untrained", *LEXICAL, *cfg.eval.references)
        if f"{n}_titles_{PRIMARY}" in metrics
    ]
    metrics |= gains(metrics, names)
    workspace.say(table(metrics, names))
    return metrics


def score_row(
    cfg: Config, compare: Compare, workspace: Workspace, row: str = ""
) -> dict[str, float]:
    """One row of the table: titles alone, with skills, and with the controls' skills.

    Values per query are saved under the row's prefix, for `make compare`.

    Args:
        cfg: the project's config.
        compare: similarities of texts with candidates.
        workspace: of the run.
        row: "" or a prefix.

    Returns:
        Metrics without the prefix.
    """
    sets = load_data(cfg)
    data = sets.benchmark(cfg.eval.part)
    beta = cfg.eval.beta
    if beta is None:
        beta = best_beta(cfg, compare, sets.benchmark("dev"))
    ranks = setting_ranks(cfg, compare, data, beta)
    metrics = {
        f"{setting}_{name}": value
        for setting, values in ranks.items()
        for name, value in rank_metrics(values, data).items()
    }
    metrics["beta"] = beta
    hits = {setting: values.le(KS[-1]).double() for setting, values in ranks.items()}
    items = {f"{setting}_{PRIMARY}": values for setting, values in hits.items()}
    for setting in data.settings:
        # what skills add to the title, and the own ones to those of a related occupation
        base = "titles" if setting == "with_skills" else setting
        items[f"with_skills_minus_{base}"] = hits["with_skills"] - hits[base]
    for name, values in items.items():
        parts = []
        for part in data.averaged:
            parts.append(f"{row}{name}.{part}")
            workspace.items(parts[-1], values[data.parts[part]].tolist())
        workspace.mean_items(f"{row}{name}", parts)
        if "_minus_" in name:
            means = [values[data.parts[part]].mean() for part in data.averaged]
            metrics[name] = float(sum(means) / len(means))
    return metrics | by_overlap(hits["titles"], data)


def setting_ranks(
    cfg: Config, compare: Compare, data: TitleBenchmark, beta: float
) -> dict[str, Tensor]:
    """Ranks of the gold titles, (Q,) for each setting; "titles" is the first.

    Args:
        cfg: the project's config.
        compare: see `score_row`.
        data: the benchmark.
        beta: share of the title alongside skills; 1 is the title alone.
    """
    titles = [row.title for row in data.rows]
    alone = compare(titles, "titles", data.candidates)
    ranks = {"titles": gold_ranks(alone, data.gold)}
    for setting in data.settings:
        skills = [
            skill_text(sorted(names)[: cfg.data.max_skills]) for names in data.skills(setting)
        ]
        some = torch.tensor([bool(text) for text in skills])[:, None]
        if cfg.eval.query == "concatenated":
            both = [f"{t}: {s}" if s else t for t, s in zip(titles, skills, strict=True)]
            ranks[setting] = gold_ranks(compare(both, "titles", data.candidates), data.gold)
            continue
        texts = [s or t for t, s in zip(titles, skills, strict=True)]
        scores = _where(some, compare(texts, "skills", data.candidates), alone)
        ranks[setting] = gold_ranks(mixed(alone, scores, beta), data.gold)
    return ranks


def best_beta(cfg: Config, compare: Compare, dev: TitleBenchmark) -> float:
    """The share of the title with the best Recall@10 on the development part, in steps of 0.1."""
    held: dict[tuple[Side, str], Scores] = {}

    def once(texts: list[str], side: Side, candidates: list[str]) -> Scores:
        key = side, "\n".join(texts)
        if key not in held:
            held[key] = compare(texts, side, candidates)
        return held[key]

    def quality(beta: float) -> float:
        ranks = setting_ranks(cfg, once, dev, beta)["with_skills"]
        return rank_metrics(ranks, dev)[PRIMARY]

    return max(BETAS, key=quality)


def encoder_compare(cfg: Config, encoder: TitleSkillEncoder) -> Compare:
    """Similarities by the encoder, in evaluation mode; candidates are embedded once.

    Texts are taken as they are, as the baselines take them: the benchmark's titles are clean.
    """
    held: dict[str, Tensor] = {}

    def compare(texts: list[str], side: Side, candidates: list[str]) -> Scores:
        key = "\n".join(candidates)
        if key not in held:
            held[key] = encoder.encode_title_texts(candidates, cfg.eval.batch_size)
        encode = encoder.encode_title_texts if side == "titles" else encoder.encode_skill_texts
        return cosines(encode(texts, cfg.eval.batch_size), held[key])

    return compare


def text_compare(encode: Callable[[list[str]], Tensor]) -> Compare:
    """Similarities by any encoder that has one side; candidates are embedded once."""
    held: dict[str, Tensor] = {}

    def compare(texts: list[str], side: Side, candidates: list[str]) -> Scores:
        key = "\n".join(candidates)
        if key not in held:
            held[key] = encode(candidates)
        return cosines(encode(texts), held[key])

    return compare


def lexical_compare(name: str) -> Compare:
    """TF-IDF vectors of words or of character n-grams; document frequencies of the candidates."""

    def compare(texts: list[str], side: Side, candidates: list[str]) -> Scores:
        table, vectors = tfidf_vectors(candidates, **LEXICAL[name])
        return sparse_cosines(vectors(texts), table)

    return compare


class reference_compare:
    """Context with the similarities of a model that was trained elsewhere.

    Args:
        cfg: the project's config.
        place: word vectors (.vec; as named or below the data root), a folder of
            sentence-transformers, or a ``pretrained:`` string, pooled as the config's own encoder.
    """

    def __init__(self, cfg: Config, place: str) -> None:
        self.cfg, self.place = cfg, place

    def __enter__(self) -> Compare:
        if self.place.endswith(WORD_VECTORS):
            return text_compare(read_word_vectors(file_path(self.cfg.data, self.place)))
        from dataclasses import replace

        encoder: SentenceEncoder
        if (Path(self.place).expanduser() / "modules.json").is_file():
            encoder = load_sentence_transformers(Path(self.place).expanduser())
        else:
            model = replace(self.cfg.model, pretrained=self.place, config=None, tokenizer=None)
            encoder = build_dense(model).eval()
        self.context = evaluated(encoder, self.cfg.trainer.accelerator)
        self.context.__enter__()
        return text_compare(lambda texts: encoder.encode(texts, self.cfg.eval.batch_size))

    def __exit__(self, *error: object) -> None:
        if hasattr(self, "context"):
            self.context.__exit__(*error)  # type: ignore[arg-type]


def by_overlap(hits: Tensor, data: TitleBenchmark) -> dict[str, float]:
    """Recall@10 of titles alone by thirds of their overlap with the gold title in characters.

    Of the part "all", or of the first part; overlap is that of the sets of three characters.

    Args:
        hits: (Q,) 0 or 1.
        data: the benchmark.
    """
    rows = data.parts.get(ALL, next(iter(data.parts.values())))
    if len(rows) < len(_THIRDS):
        return {}
    shared = torch.tensor(
        [_overlap(data.rows[i].title, data.candidates[int(data.gold[i])]) for i in rows]
    )
    order = shared.argsort(stable=True).tensor_split(len(_THIRDS))
    return {
        f"titles_overlap_{name}_{PRIMARY}": float(hits[[rows[i] for i in third.tolist()]].mean())
        for name, third in zip(_THIRDS, order, strict=True)
    }


def gains(metrics: Mapping[str, float], baselines: Sequence[str]) -> dict[str, float]:
    """Recall@10 of both settings over the best baseline: as a difference and as its share of it.

    Args:
        metrics: hold ``<setting>_recall_at_10`` and the same with each baseline's prefix.
        baselines: their names; none gives nothing.
    """
    gained = {}
    for setting in ("titles", "with_skills") if baselines else ():
        best = max(metrics[f"{name}_{setting}_{PRIMARY}"] for name in baselines)
        value = metrics[f"{setting}_{PRIMARY}"]
        gained[f"{setting}_gain_absolute"] = value - best
        if best:
            gained[f"{setting}_gain_relative"] = value / best - 1
    return gained


def table(metrics: Mapping[str, float], baselines: Sequence[str]) -> str:
    """Recall@1, @5, @10 and MRR of all rows, and the gains, as text."""
    lines = [f"{'':24}" + "".join(f"{name:>11}" for name in (*(f"R@{k}" for k in KS), "MRR"))]
    for name in (*baselines, ""):
        for setting in ("titles", "with_skills"):
            keys = [f"{name}_{setting}_" if name else f"{setting}_"]
            row = [metrics[f"{keys[0]}{m}"] for m in (*(f"recall_at_{k}" for k in KS), "mrr")]
            label = f"{name or 'this model'}, {setting}"
            lines.append(f"{label:24}" + "".join(f"{value:11.4f}" for value in row))
    for setting in ("titles", "with_skills"):
        if f"{setting}_gain_absolute" in metrics:
            absolute = metrics[f"{setting}_gain_absolute"]
            relative = metrics.get(f"{setting}_gain_relative", float("nan"))
            lines.append(
                f"{setting}: Recall@{KS[-1]} over the best baseline {absolute:+.4f} absolute, "
                f"{relative:+.1%} relative (abstract: {'10' if setting == 'titles' else '21.5'} %, "
                "kind not said)"
            )
    return "\n".join(lines)


def _named(name: str, metrics: Mapping[str, float]) -> dict[str, float]:
    return {f"{name}_{k}": v for k, v in metrics.items() if not k.endswith("_chance")}


def _where(some: Tensor, scores: Scores, alone: Scores) -> Scores:
    """`scores` in the rows that have them, else `alone`."""
    return lambda rows: torch.where(some[rows], scores(rows), alone(rows))


def _overlap(first: str, second: str) -> float:
    a, b = ({t[i : i + 3] for i in range(len(t) - 2)} for t in (first.lower(), second.lower()))
    return len(a & b) / max(1, len(a | b))


def _gallery(compare: Compare, data: TitleBenchmark) -> list[dict[str, object]]:
    rows = list(range(0, len(data.rows), max(1, len(data.rows) // 8)))
    titles = [data.rows[i].title for i in rows]
    scores = compare(titles, "titles", data.candidates)(slice(0, len(rows)))
    return retrieval_gallery(scores, titles, data.candidates, data.gold[rows].tolist())
