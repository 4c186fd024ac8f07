"""Judged sets of an evaluation by name: bundled, below the data root, made up; parts of them."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from common.config import UserError
from common.data.lookup import BUNDLED, data_root
from common.engine.workspace import Workspace
from common.evaluation.retrieval.beir import RetrievalSet, load_beir, load_titles
from common.evaluation.retrieval.subsets import (
    reduced,
    split_queries,
    synthetic_set,
    title_queries,
)
from common.families.retrieval.config import RetrievalEval

SYNTHETIC, TITLES = "synthetic", "titles"


def set_names(places: Sequence[str]) -> dict[str, str]:
    """How sets are called in metrics: by their last folder, in full where two would be the same.

    Raises:
        UserError: two places that are called the same even in full.

    >>> set_names(["beir/scifact", "mrtydi/ar", "miracl/ar"])
    {'beir/scifact': 'scifact', 'mrtydi/ar': 'mrtydi_ar', 'miracl/ar': 'miracl_ar'}
    >>> set_names(["mkqa@de"])
    {'mkqa@de': 'mkqa_de'}
    """

    def plain(text: str) -> str:
        return text.strip("/").replace("/", "_").replace("@", "_")

    short = {place: plain(Path(place).name) for place in places}
    seen = list(short.values())
    names = {p: name if seen.count(name) == 1 else plain(p) for p, name in short.items()}
    owners: dict[str, str] = {}
    for place, name in names.items():
        if (other := owners.setdefault(name, place)) != place:
            raise UserError(
                f"the sets '{other}' and '{place}' would both be called '{name}' in the metrics: "
                "rename a folder, or leave one out"
            )
    return names


def named_sets(options: RetrievalEval) -> tuple[dict[str, str], dict[str, str]]:
    """Sets of ``eval.beir``, and those of ``eval.dev`` that are not among them: place -> name.

    Both lists are named together, so that their metrics have different names.

    Args:
        options: section of the config.

    Raises:
        UserError: see `set_names`.
    """
    names = set_names([*options.beir, *options.dev])
    test = {place: names[place] for place in options.beir}
    return test, {place: name for place, name in names.items() if place not in test}


def read_set(
    place: str,
    *,
    root: str | None,
    seed: int = 0,
    max_documents: int | None = None,
    held_out_queries: int = 0,
    held_out: bool = False,
) -> RetrievalSet:
    """A set, reduced.

    Args:
        place: folder in the BEIR layout (see `set_folder`), or "synthetic"; "folder@part" takes
            queries.part.jsonl and qrels/part.tsv, "folder@titles" titles as queries for the texts
            without them.
        root: ``cfg.data.root``.
        seed: of the made-up set.
        max_documents: the relevant ones and others; None: all.
        held_out_queries: queries that are left for training.
        held_out: those queries instead of the others.

    Raises:
        UserError: a set that is missing or broken, or has too few queries.
    """
    name, _, part = place.partition("@")
    if name == SYNTHETIC and not part:
        whole = synthetic_set(seed=seed)
    else:
        whole = _load(set_folder(name, root), part)
    data = whole if max_documents is None else reduced(whole, max_documents)
    try:
        data = split_queries(data, held_out_queries)[0 if held_out else 1]
    except ValueError as error:
        raise UserError(f"eval.held_out_queries, set '{place}': {error}") from error
    before = len(whole.queries), len(whole.corpus)
    is_cut = (len(data.queries), len(data.corpus)) != before
    return replace(data, cut_from=before if is_cut else None, num_unjudged=whole.num_unjudged)


def is_bundled(place: str, root: str | None) -> bool:
    """Whether a set is part of the repository; limits of a config act on no other."""
    name, _, part = place.partition("@")
    if name == SYNTHETIC and not part:
        return True
    return set_folder(name, root).resolve().is_relative_to(BUNDLED.resolve())


def set_counts(data: RetrievalSet, name: str, workspace: Workspace) -> dict[str, float]:
    """Queries and documents of a set as metrics; a line on the terminal if not all are judged.

    Args:
        data: the set.
        name: of the set in metrics.
        workspace: of the run.

    Returns:
        ``<set>_num_queries`` and ``<set>_num_documents``; if the set is cut, also
        ``<set>_num_queries_total`` and ``<set>_num_documents_total``; those of
        `RetrievalSet.gaps`.
    """
    counts = {"queries": len(data.queries), "documents": len(data.corpus)}
    metrics = {f"{name}_num_{kind}": float(count) for kind, count in counts.items()}
    if data.cut_from is not None:
        totals = dict(zip(counts, data.cut_from, strict=True))
        parts = [f"{counts[kind]} of {total} {kind}" for kind, total in totals.items()]
        workspace.say(f"set '{name}' is cut to {' and '.join(parts)}")
        metrics |= {f"{name}_num_{kind}_total": float(total) for kind, total in totals.items()}
    missing, sentence = data.gaps()
    if sentence:
        workspace.say(f"set '{name}': {sentence}")
    return metrics | {f"{name}_{key}": value for key, value in missing.items()}


def set_folder(name: str, root: str | None) -> Path:
    """Folder of a set: as named, below the data root, or bundled."""
    path = Path(name.partition("@")[0]).expanduser()
    if path.is_dir():
        return path
    below = data_root(root) / path
    return BUNDLED / path if (BUNDLED / path).is_dir() and not below.is_dir() else below


def _load(folder: Path, part: str) -> RetrievalSet:
    if not folder.is_dir():
        raise UserError(
            f"{folder} does not exist: eval.beir takes folders with corpus.jsonl, queries.jsonl "
            "and qrels.tsv or qrels/test.tsv, below data.root"
        )
    if part == TITLES:
        return title_queries(*load_titles(folder))
    if part:
        return load_beir(folder, part, f"queries.{part}.jsonl")
    return load_beir(folder, "test" if (folder / "qrels/test.tsv").is_file() else None)
