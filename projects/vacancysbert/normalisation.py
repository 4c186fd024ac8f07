"""Normalisation of titles: free-form ones, with or without skills, to one of a standard list.

The benchmark stands by itself: rows with their gold title, a list of candidates that may be
exchanged, and scores of the embeddings of any model.

# Q queries, C candidates, D dim
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from common.config import UserError
from common.data.lines import read_lines
from common.data.tables import Row, read_jsonl, write_jsonl
from common.data.text.lexical import words
from common.evaluation.matrices import as_matrix, as_pair, blocks, exact_math
from common.files import write_text

KS = (1, 5, 10)
ALL, ZERO_OVERLAP = "all", "zero_overlap"
_MARGIN = 1e-6  # cosines closer than this are tied: rounding decides nothing
_BLOCK = 2048  # queries that are scored together
Scores = Callable[[slice], Tensor]  # queries -> their similarities (B, C), float64 or float32


@dataclass(frozen=True)
class TitleRow:
    """One test row.

    Attributes:
        title: as an advert has it.
        gold: the standard title.
        skills: of the same advert; may be empty.
        part: of the benchmark; None: "all", and "zero_overlap" if it shares no word with the gold.
        others: further lists of skills by name, such as those of a related occupation (a control).
    """

    title: str
    gold: str
    skills: tuple[str, ...] = ()
    part: str | None = None
    others: Mapping[str, tuple[str, ...]] = field(default_factory=dict)


@dataclass(frozen=True)
class TitleBenchmark:
    """Queries with the index of their only right candidate.

    Attributes:
        rows: Q test rows.
        candidates: C standard titles, distinct but for case and spaces.
        gold: (Q,) index of each row's title among them.
        parts: name -> rows.
        excluded: rows that were left out, their gold title being no candidate.
    """

    rows: list[TitleRow]
    candidates: list[str]
    gold: Tensor
    parts: dict[str, list[int]]
    excluded: int

    @property
    def averaged(self) -> list[str]:
        """Parts whose mean is the overall figure: those that rows name, and "all" other rows.

        "zero_overlap", where no row names it, holds rows of "all" a second time and is a figure
        alongside it.
        """
        named = {row.part or ALL for row in self.rows}
        return [part for part in self.parts if part in named]

    def skills(self, setting: str) -> list[tuple[str, ...]]:
        """Skills of every row: its own for "with_skills", else those of `TitleRow.others`."""
        if setting == "with_skills":
            return [row.skills for row in self.rows]
        return [tuple(row.others.get(setting, ())) for row in self.rows]

    @property
    def settings(self) -> list[str]:
        """Ways to ask with skills: "with_skills", then the controls."""
        return ["with_skills", *dict.fromkeys(name for row in self.rows for name in row.others)]


def title_key(title: str) -> str:
    """What makes two titles the same: letters without case, single spaces.

    >>> title_key(" Data  Engineer ")
    'data engineer'
    """
    return " ".join(title.casefold().split())


def share_a_word(first: str, second: str) -> bool:
    """Whether two titles have a word in common, in any case."""
    return not set(words(first)).isdisjoint(words(second))


def title_benchmark(
    rows: Sequence[TitleRow], candidates: Sequence[str] | None = None
) -> TitleBenchmark:
    """Queries against a list of standard titles.

    Args:
        rows: test rows.
        candidates: standard titles, merged where they are the same; None: the gold titles of the
            rows. Rows whose title is not among them are left out and counted.

    Raises:
        UserError: no row is left.
    """
    listed = [row.gold for row in rows] if candidates is None else candidates
    names: dict[str, str] = {}
    for title in listed:
        names.setdefault(title_key(title), " ".join(title.split()))
    place = {key: i for i, key in enumerate(names)}
    kept = [row for row in rows if title_key(row.gold) in place]
    if not kept:
        raise UserError("no test title has its standard title among the candidates")
    parts: dict[str, list[int]] = {}
    for i, row in enumerate(kept):
        row_parts = [ALL] if row.part is None else [row.part]
        if row.part is None and not share_a_word(row.title, row.gold):
            row_parts.append(ZERO_OVERLAP)
        for part in row_parts:
            parts.setdefault(part, []).append(i)
    gold = torch.tensor([place[title_key(row.gold)] for row in kept])
    return TitleBenchmark(kept, list(names.values()), gold, parts, len(rows) - len(kept))


def read_title_rows(path: str | Path) -> list[TitleRow]:
    """Rows of a JSON-lines file: ``title``, ``normalized_title``, ``skills``; ``part`` if wanted.

    Raises:
        UserError: a missing file or field, or rows that still have a description only.
    """
    rows = []
    for number, row in enumerate(read_jsonl(path, ("title", "normalized_title")), 1):
        if "skills" not in row and "description" in row:
            raise UserError(
                f"{path}, row {number}: a description without skills; extract them first with "
                "`make run TASK=extract`, in one call with the training file"
            )
        place = f"{path}, row {number}"
        listed = row.get("other_skills") or {}
        if not isinstance(listed, dict):
            raise UserError(f"{place}: other_skills is an object of lists of skills")
        others = {k: strings(v, place) for k, v in listed.items()}
        skills = strings(row.get("skills") or [], place)
        title, gold = strings([row["title"], row["normalized_title"]], place)
        rows.append(TitleRow(title, gold, skills, row.get("part"), others))
    return rows


def strings(value: Any, place: str) -> tuple[str, ...]:
    """A list of strings of a file's row.

    Raises:
        UserError: something else, such as one string, whose letters would be taken for strings.
    """
    if not isinstance(value, list) or not all(isinstance(x, str) for x in value):
        raise UserError(
            f"{place}: titles are strings and skills are lists of strings, got {value!r}"
        )
    return tuple(value)


def read_candidates(path: str | Path) -> list[str]:
    """Standard titles, one a line; blank lines are skipped.

    Raises:
        UserError: a missing file, or no title in it.
    """
    titles = [line.strip() for line in read_lines(Path(path)) if line.strip()]
    if not titles:
        raise UserError(f"{path} has no title")
    return titles


def write_benchmark(folder: Path, data: TitleBenchmark) -> Path:
    """Write ``test.jsonl`` and ``candidates.txt`` as the readers take them; returns the folder."""
    folder.mkdir(parents=True, exist_ok=True)
    rows: list[Row] = [
        {"title": r.title, "skills": list(r.skills), "normalized_title": r.gold}
        | ({} if r.part is None else {"part": r.part})
        | ({"other_skills": {k: list(v) for k, v in r.others.items()}} if r.others else {})
        for r in data.rows
    ]
    write_jsonl(folder / "test.jsonl", rows)
    text = "".join(f"{title}\n" for title in data.candidates)
    write_text(folder / "candidates.txt", text)
    return folder


def cosines(query: Tensor, candidates: Tensor) -> Scores:
    """Similarities of embeddings.

    Args:
        query: (Q, D).
        candidates: (C, D).

    Raises:
        ValueError: see `as_pair`.
    """
    query, candidates = as_pair(query, candidates, "cosine")

    def scores(rows: slice) -> Tensor:
        with exact_math(query.device):
            return query[rows] @ candidates.T

    return scores


def sparse_cosines(query: Any, candidates: Any) -> Scores:
    """The same of sparse unit rows, such as TF-IDF vectors."""
    return lambda rows: torch.from_numpy((query[rows] @ candidates.T).toarray())


def mixed(first: Scores, second: Scores, beta: float) -> Scores:
    """``beta * first + (1 - beta) * second``.

    The order of candidates is that of the cosine with ``norm(beta * u + (1 - beta) * v)`` of unit
    vectors u and v, whose norm is the same for all candidates.
    """
    if beta == 1.0:
        return first
    return lambda rows: beta * first(rows) + (1 - beta) * second(rows)


def gold_ranks(scores: Scores, gold: Tensor) -> Tensor:
    """Rank of the only right candidate of every query, (Q,) int64, 1 is best.

    Candidates that score as high count as before it, so that equal embeddings solve nothing.

    Args:
        scores: queries -> similarities (B, C).
        gold: (Q,) index of the right candidate.

    Raises:
        ValueError: similarities that are not finite.

    >>> gold_ranks(lambda rows: torch.tensor([[0.5, 0.9], [0.5, 0.5]])[rows], torch.tensor([1, 0]))
    tensor([1, 2])
    """
    ranks = []
    for rows in blocks(len(gold), _BLOCK):
        block = as_matrix(scores(rows), "similarities")
        gold_scores = block.gather(1, gold[rows, None].to(block.device))
        ranks.append((block >= gold_scores - _MARGIN).sum(1).cpu())
    return torch.cat(ranks)


def rank_metrics(ranks: Tensor, data: TitleBenchmark, ks: Sequence[int] = KS) -> dict[str, float]:
    """Recall@k and mean reciprocal rank of every part, and means over `TitleBenchmark.averaged`.

        Recall@k = 1/Q sum_q [rank_q <= k],    MRR = 1/Q sum_q 1 / rank_q

    Args:
        ranks: (Q,), see `gold_ranks`.
        data: parts, and C for the chance.
        ks: cut-offs.

    Returns:
        ``<part>_recall_at_<k>``, ``<part>_mrr``; ``recall_at_<k>``, ``mrr`` as means of parts;
        chances.
    """
    values = {f"recall_at_{k}": ranks.le(k).double() for k in ks}
    values["mrr"] = 1 / ranks.double()
    metrics = {
        f"{part}_{name}": float(values_of[rows].mean())
        for part, rows in data.parts.items()
        for name, values_of in values.items()
    }
    for name in values:
        values_of = [metrics[f"{part}_{name}"] for part in data.averaged]
        metrics[name] = sum(values_of) / len(values_of)
    for k in ks:
        metrics[f"recall_at_{k}_chance"] = min(1.0, k / len(data.candidates))
    return metrics


def score_embeddings(
    data: TitleBenchmark,
    titles: Tensor,
    candidates: Tensor,
    skills: Tensor | None = None,
    beta: float = 0.5,
) -> dict[str, float]:
    """Both settings of the benchmark for the embeddings of any model.

    Args:
        data: the benchmark.
        titles: (Q, D) of the rows' titles.
        candidates: (C, D).
        skills: (Q, D) of the rows' skills; rows without skills are taken as titles alone.
        beta: in [0, 1], share of the title in the query with skills.

    Returns:
        `rank_metrics` as ``titles_*`` and, with skills, ``with_skills_*``.

    Raises:
        ValueError: numbers of rows that are not those of the benchmark, or beta out of range.
    """
    sizes = (len(titles), len(candidates), len(titles) if skills is None else len(skills))
    if sizes != (len(data.rows), len(data.candidates), len(data.rows)):
        raise ValueError(
            f"{len(data.rows)} rows and {len(data.candidates)} candidates need as many embeddings, "
            f"got {sizes}"
        )
    if not 0 <= beta <= 1:
        raise ValueError(f"beta must be in [0, 1], got {beta}")
    alone = cosines(titles, candidates)
    by_setting = {"titles": gold_ranks(alone, data.gold)}
    if skills is not None:
        has_skills = torch.tensor([bool(row.skills) for row in data.rows])[:, None]
        filled = torch.where(has_skills.to(skills.device), skills, titles)
        by_setting["with_skills"] = gold_ranks(
            mixed(alone, cosines(filled, candidates), beta), data.gold
        )
    return {
        f"{setting}_{name}": value
        for setting, ranks in by_setting.items()
        for name, value in rank_metrics(ranks, data).items()
    }
