"""Lexical level: ESCO job titles as training strings, and alternative -> preferred title search."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal

from torch import Tensor

from common.data.lookup import bundled
from common.data.samplers import sample_rng
from common.data.splits import stable_fraction
from common.data.tables import read_jsonl
from common.evaluation.retrieval.cross_modal import cross_modal_recall, relevant_ranks

TitlePart = Literal["train", "dev", "test"]
Encode = Callable[[list[str]], Tensor]
_QUERY_STREAM = 43


@dataclass(frozen=True)
class TitleSearch:
    """Alternative titles as queries, all preferred titles as gallery.

    Attributes:
        queries: alternative titles that are nobody's preferred title.
        gallery: preferred titles of all occupations.
        relevant: gallery indices of the occupations that list the query.
    """

    queries: list[str]
    gallery: list[str]
    relevant: list[list[int]]


def occupation_part(uri: str) -> TitlePart:
    """Occupations by hash of their address: 70 % train, 10 % development, 20 % test."""
    place = stable_fraction(uri)
    return "train" if place < 0.7 else "dev" if place < 0.8 else "test"


def training_titles(root: str | None) -> list[str]:
    """Distinct titles of the training occupations, in file order, without saying whose they are.

    Titles that are queries of the development or test part are left out.
    """
    held_out = {q for part in ("dev", "test") for q in _search(_rows(root), part).queries}
    titles = dict.fromkeys(
        title
        for row in _rows(root)
        if occupation_part(row["uri"]) == "train"
        for title in (row["title"], *row["alt_titles"])
    )
    return [title for title in titles if title not in held_out]


def title_search(root: str | None, part: TitlePart, limit: int | None = None) -> TitleSearch:
    """The retrieval task of a part; with `limit` a fixed draw of that many queries.

    Raises:
        UserError: the bundled ESCO set is missing.
    """
    whole = _search(_rows(root), part)
    if limit is None or limit >= len(whole.queries):
        return whole
    order = sample_rng(0, 0, 0, _QUERY_STREAM).permutation(len(whole.queries))
    chosen = sorted(int(i) for i in order[:limit])
    return TitleSearch(
        [whole.queries[i] for i in chosen], whole.gallery, [whole.relevant[i] for i in chosen]
    )


def evaluate_titles(encode: Encode, task: TitleSearch) -> tuple[dict[str, float], list[float]]:
    """Recall and mean reciprocal rank by cosine, and Recall@1 of every query.

    Args:
        encode: texts -> embeddings (N, D).
        task: queries and gallery.
    """
    query, gallery = encode(task.queries), encode(task.gallery)
    metrics = cross_modal_recall(query, gallery, task.relevant, (1, 5))
    hits = relevant_ranks(query, gallery, task.relevant).eq(1).double().tolist()
    keys = ("recall_at_1", "recall_at_1_chance", "recall_at_5", "recall_at_5_chance", "mrr")
    return {f"esco_{key}": metrics[key] for key in keys}, hits


def _search(rows: list[dict[str, Any]], part: TitlePart) -> TitleSearch:
    gallery = [row["title"] for row in rows]
    preferred = {title.casefold() for title in gallery}
    owners: dict[str, list[int]] = {}
    titles: dict[str, None] = {}
    for index, row in enumerate(rows):
        for title in dict.fromkeys(row["alt_titles"]):
            if title.casefold() not in preferred:
                owners.setdefault(title, []).append(index)
                if occupation_part(row["uri"]) == part:
                    titles[title] = None
    return TitleSearch(list(titles), gallery, [owners[title] for title in titles])


def _rows(root: str | None) -> list[dict[str, Any]]:
    return _read(bundled("esco-occupations", root) / "occupations.jsonl.gz")


@lru_cache(1)
def _read(path: Path) -> list[dict[str, Any]]:
    return read_jsonl(path, ("uri", "title", "alt_titles"))
