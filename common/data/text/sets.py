"""Text corpora: sentences, training rows in SimCSE's formats, NLI, and graded sentence pairs (STS).

Bundled sets are read from the data root or the repository's ``data/``; the official SentEval files
from ``SentEval/data/downstream`` (or ``downstream``) below the data root.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Literal

from common.config import UserError, nearest
from common.data.lines import read_lines
from common.data.lookup import bundled, data_root, require
from common.data.samplers import sample_rng
from common.data.splits import Split, sentence_split
from common.data.tables import csv_header, read_csv, read_jsonl
from common.data.text.options import PAIR_FILES

MISSING = " "  # what an empty cell of a training file becomes
TEXT_COLUMNS, SCORE_COLUMN = ("sentence1", "sentence2"), "score"
STSB_PARTS = ("train", "dev", "test")
STS_YEARS = ("sts12", "sts13", "sts14")
SENTEVAL_STS = {
    "STS12": ("MSRpar", "MSRvid", "SMTeuroparl", "surprise.OnWN", "surprise.SMTnews"),
    "STS13": ("FNWN", "headlines", "OnWN"),
    "STS14": ("deft-forum", "deft-news", "headlines", "images", "OnWN", "tweet-news"),
    "STS15": ("answers-forums", "answers-students", "belief", "headlines", "images"),
    "STS16": ("answer-answer", "headlines", "plagiarism", "postediting", "question-question"),
}
_SENTEVAL_PARTS = {
    "STSBenchmark": "STS/STSBenchmark/sts-test.csv",
    "STSBenchmark-dev": "STS/STSBenchmark/sts-dev.csv",
    "STSBenchmark-train": "STS/STSBenchmark/sts-train.csv",
    "SICKRelatedness": "SICK/SICK_test_annotated.txt",
    "SICKRelatedness-dev": "SICK/SICK_trial.txt",
    "SICKRelatedness-train": "SICK/SICK_train.txt",
}
_SENTEVAL = "https://github.com/facebookresearch/SentEval (get_transfer_data.bash)"
_PREFIX = "senteval:"
STS_NAMES = (
    *(f"stsb-{part}" for part in STSB_PARTS),
    *STS_YEARS,
    *(_PREFIX + name for name in (*SENTEVAL_STS, *_SENTEVAL_PARTS)),
)
_LIMIT_STREAM = 2**31 + 1


@dataclass(frozen=True)
class StsSet:
    """Sentence pairs with a gold similarity.

    Raises:
        ValueError: the lists are of unequal length or empty.
    """

    name: str
    first: list[str]
    second: list[str]
    scores: list[float]  # gold, any scale (0-5 in STS, 1-5 in SICK)
    subsets: list[str] = field(default_factory=list)  # genre of each pair; empty: one subset
    num_skipped: int = 0  # rows of a file without a text or a score

    def __post_init__(self) -> None:
        if not self.subsets:
            object.__setattr__(self, "subsets", [self.name] * len(self.scores))
        lengths = {len(x) for x in (self.first, self.second, self.scores, self.subsets)}
        if lengths != {len(self.scores)} or not self.scores:
            raise ValueError(f"StsSet {self.name}: lists of lengths {sorted(lengths)}")

    def __len__(self) -> int:
        return len(self.scores)


def load_sentences(
    root: str | None,
    *,
    split: Split = "train",
    sources: Sequence[str] | None = None,
    limit: int | None = None,
    seed: int = 0,
) -> list[str]:
    """English sentences of ``sentences-en``, in the order of the file.

    Args:
        root: ``cfg.data.root``.
        split: side of `common.data.splits.sentence_split`.
        sources: values of the ``source`` column to keep; None: all.
        limit: number of sentences to draw without replacement; None: all.
        seed: of the draw.

    Returns:
        The sentences.

    Raises:
        UserError: unknown source, or fewer than `limit` sentences.
    """
    if split not in ("train", "test"):
        raise UserError(f"unknown split '{split}'{nearest(split, ['train', 'test'])}")
    rows = _sentence_rows(bundled("sentences-en", root) / "sentences.jsonl.gz")
    present = sorted({source for _, source in rows})
    for source in sources or ():
        if source not in present:
            raise UserError(f"sentences-en has no source '{source}'{nearest(source, present)}")
    texts = [
        text
        for text, source in rows
        if (sources is None or source in sources) and sentence_split(text) == split
    ]
    if limit is None:
        return texts
    if not 0 < limit <= len(texts):
        raise UserError(f"{limit} sentences requested, {len(texts)} available: change data.limit")
    order = sample_rng(seed, 0, 0, _LIMIT_STREAM).permutation(len(texts))
    return [texts[i] for i in sorted(order[:limit])]


@lru_cache(1)
def _sentence_rows(path: Path) -> tuple[tuple[str, str], ...]:
    return tuple((row["text"], row["source"]) for row in read_jsonl(path, ("text", "source")))


def load_text_rows(path: str | Path) -> list[tuple[str, ...]]:
    """Training rows in SimCSE's formats.

    ``.txt``: one sentence a line (see `read_lines`), one column. ``.csv`` / ``.tsv`` with a header
    and one to three columns by position: sentence; pair; pair and hard negative. The delimiter is a
    tab if the name contains ``tsv``, else a comma. A missing or empty cell becomes one space.

    Source: Gao et al. 2021, released code, arXiv 2104.08821.

    Args:
        path: the file; ``.gz`` is unpacked in the case of CSV and TSV.

    Raises:
        UserError: file missing, empty, of another kind or encoding, or of more than three columns.
    """
    path = Path(path).expanduser()
    rows: list[tuple[str, ...]]
    if path.suffix == ".txt":
        if not path.is_file():
            raise UserError(f"text file {path} does not exist")
        rows = [(line or MISSING,) for line in read_lines(path)]
    elif _is_table(path):
        # SimCSE's reader takes quotation marks between tabs too
        cells = read_csv(path, delimiter=_delimiter(path), fill=MISSING, quoted=True)
        rows = [tuple(value or MISSING for value in row.values()) for row in cells]
    else:
        raise UserError(f"{path}: expected a .txt, .csv or .tsv file of sentences")
    if not rows:
        raise UserError(f"{path} has no rows")
    if len(rows[0]) > 3:
        raise UserError(
            f"{path} has {len(rows[0])} columns; expected sentence, or sentence and positive, or "
            "sentence, positive and hard negative"
        )
    return rows


def count_text_columns(path: str | Path) -> int:
    """Columns of a file that `load_text_rows` reads, from its first line.

    Raises:
        UserError: file missing.
    """
    path = Path(path).expanduser()
    return len(csv_header(path, delimiter=_delimiter(path))) if _is_table(path) else 1


def _is_table(path: Path) -> bool:
    return Path(path.name.removesuffix(".gz")).suffix in (".csv", ".tsv")


def _delimiter(path: Path) -> str:
    return "\t" if "tsv" in path.name else ","


def load_nli_triplets(root: str | None, split: Split = "train") -> list[tuple[str, str, str]]:
    """(premise, entailment, contradiction) of the bundled NLI set.

    Raises:
        UserError: the files are missing.
    """
    rows = _nli_rows(root, "triplets", split, ("premise", "entailment", "contradiction"))
    return [(row["premise"], row["entailment"], row["contradiction"]) for row in rows]


def load_nli_pairs(root: str | None, split: Split = "train") -> list[tuple[str, str, str]]:
    """(premise, hypothesis, label) of the bundled NLI set; entailment, neutral, contradiction.

    Raises:
        UserError: the files are missing.
    """
    rows = _nli_rows(root, "pairs", split, ("premise", "hypothesis", "label"))
    return [(row["premise"], row["hypothesis"], row["label"]) for row in rows]


def _nli_rows(
    root: str | None, kind: Literal["triplets", "pairs"], split: str, columns: Sequence[str]
) -> list[dict[str, str]]:
    return read_jsonl(bundled("nli", root) / f"{kind}-{split}.jsonl.gz", columns)


def load_sts(root: str | None, name: str, *, drop_stsb_overlap: bool = True) -> StsSet:
    """One graded set by name.

    ``stsb-train|dev|test``, ``sts12|13|14``: bundled, without the parts of Microsoft origin, so
    their scores are not the published ones. ``senteval:STS12`` ... ``senteval:STS16``,
    ``senteval:STSBenchmark`` and ``senteval:SICKRelatedness`` (test; ``-dev`` and ``-train`` for
    the other parts): official files. As in SentEval, white space is normalised and pairs without a
    score are left out.

    Args:
        root: ``cfg.data.root``.
        name: one of `STS_NAMES`.
        drop_stsb_overlap: leave out pairs of the bundled ``sts12`` to ``sts14`` that are, in either
            order, also in any part of the bundled ``stsb``.

    Raises:
        UserError: unknown name or missing files.
    """
    if name not in STS_NAMES:
        raise UserError(
            f"unknown STS set '{name}'{nearest(name, STS_NAMES)}; or give a file of scored pairs "
            f"({', '.join(PAIR_FILES)})"
        )
    if name.startswith(_PREFIX):
        try:
            return _senteval_sts(root, name)
        except ValueError as error:
            raise UserError(f"the files of {name} are damaged: {error}") from error
    if name in STS_YEARS:
        rows = _sts_rows(bundled("sts-years", root) / f"{name}.jsonl.gz")
        if drop_stsb_overlap:
            taken = stsb_pairs(root)
            rows = [row for row in rows if frozenset(row[:2]) not in taken]
    else:
        rows = _stsb_rows(root, name.removeprefix("stsb-"))
    first, second, scores, subsets = (list(column) for column in zip(*rows, strict=True))
    return StsSet(name, first, second, scores, subsets if name in STS_YEARS else [])


def load_scored_pairs(path: str | Path) -> StsSet:
    """Pairs with a score from ``.csv`` or ``.tsv`` with a header, or ``.jsonl``, each also ``.gz``.

    The columns are ``sentence1``, ``sentence2`` and ``score``. Without these names, the first two
    columns are the texts, and the score is the column ``score`` or else the third. Rows without a
    text or a score are skipped and counted.

    Args:
        path: the file.

    Returns:
        The set; scores are of any scale.

    Raises:
        UserError: the file is missing or broken, has fewer than three columns, a score that is no
            finite number, or fewer than two different scores.
    """
    path = Path(path).expanduser()
    is_jsonl = path.name.removesuffix(".gz").endswith(".jsonl")
    rows = read_jsonl(path) if is_jsonl else read_csv(path)
    left, right, gold = _pair_columns(path, list(rows[0]) if rows else [])
    pairs: list[tuple[str, str, float]] = []
    for number, row in enumerate(rows, start=1):
        first, second = (joined(_text(row.get(column))) for column in (left, right))
        score = _text(row.get(gold))
        if not (first and second and score):
            continue
        try:
            value = float(score)
        except ValueError:
            value = math.nan
        if not math.isfinite(value):
            raise UserError(
                f"{path}, row {number}: '{gold}' is '{score}', give a number such as 3.5, or leave "
                "it empty to skip the row"
            )
        pairs.append((first, second, value))
    scores = [score for _, _, score in pairs]
    if len(set(scores)) < 2:
        raise UserError(
            f"{path}: {len(pairs)} pairs with {len(set(scores))} different scores in '{gold}'; a "
            "rank correlation needs at least two"
        )
    texts = [pair[0] for pair in pairs], [pair[1] for pair in pairs]
    return StsSet(str(path), *texts, scores, num_skipped=len(rows) - len(pairs))


def _pair_columns(path: Path, header: list[str]) -> tuple[str, str, str]:
    """Names of the columns of the first text, the second and the score."""
    score = SCORE_COLUMN if SCORE_COLUMN in header else None
    others = [name for name in header if name != score]
    texts = list(TEXT_COLUMNS if {*TEXT_COLUMNS} <= {*header} else others[:2])
    rest = [name for name in others if name not in texts]
    if len(texts) < 2 or not (score or rest):
        raise UserError(
            f"{path} has the columns {', '.join(header) or '(none)'}; expected "
            f"{', '.join(TEXT_COLUMNS)} and {SCORE_COLUMN}, or two texts and a score in this order"
        )
    return texts[0], texts[1], score or rest[0]


def _text(cell: object) -> str:
    return "" if cell is None else str(cell).strip()


def stsb_pairs(root: str | None) -> set[frozenset[str]]:
    """Unordered sentence pairs of all parts of the bundled English STS-B."""
    return {frozenset(row[:2]) for part in STSB_PARTS for row in _stsb_rows(root, part)}


def senteval_folder(root: str | None) -> Path:
    """``downstream`` folder of the official SentEval data.

    Raises:
        UserError: it is neither at ``SentEval/data/downstream`` nor at ``downstream``.
    """
    base = data_root(root)
    short = base / "downstream"
    return require(
        short if short.is_dir() else base / "SentEval" / "data" / "downstream",
        what="SentEval data",
        layout="downstream/{STS,SICK,MR,CR,SUBJ,MPQA,SST,TREC,MRPC} as the download script writes",
        source=_SENTEVAL,
        size="about 0.1 GB",
    )


def senteval_lines(path: Path, encoding: str = "utf-8") -> list[str]:
    """Lines of one SentEval file, split at line feeds only (texts may hold other separators).

    Raises:
        UserError: the file is missing.
    """
    path = require(
        path,
        what=f"SentEval's {path.name}",
        layout=f"downstream/.../{path.parent.name}/{path.name}",
        source=_SENTEVAL,
        size="about 0.1 GB in all",
    )
    lines = path.read_bytes().decode(encoding).split("\n")
    return [line.rstrip("\r") for line in (lines if lines[-1] else lines[:-1])]


def joined(text: str) -> str:
    """Text with its white-space separated tokens joined by single spaces, as SentEval has it.

    >>> joined(" a  b ")
    'a b'
    """
    return " ".join(text.split())


_Row = tuple[str, str, float, str]


def _stsb_rows(root: str | None, part: str) -> list[_Row]:
    return _sts_rows(bundled("stsb", root) / f"en-{part}.jsonl.gz")


def _sts_rows(path: Path) -> list[_Row]:
    return [
        (
            joined(row["sentence1"]),
            joined(row["sentence2"]),
            float(row["score"]),
            row.get("genre", ""),
        )
        for row in read_jsonl(path, ("sentence1", "sentence2", "score"))
    ]


def _senteval_sts(root: str | None, name: str) -> StsSet:
    task, folder = name.removeprefix(_PREFIX), senteval_folder(root)
    if task in SENTEVAL_STS:
        rows = [
            (*pair, subset)
            for subset in SENTEVAL_STS[task]
            for pair in _senteval_subset(folder / "STS" / f"{task}-en-test", subset)
        ]
    else:
        rows = [(*pair, name) for pair in _senteval_table(folder / _SENTEVAL_PARTS[task])]
    first, second, scores, subsets = (list(column) for column in zip(*rows, strict=True))
    return StsSet(name, first, second, scores, subsets)


def _senteval_subset(folder: Path, subset: str) -> list[tuple[str, str, float]]:
    pairs = senteval_lines(folder / f"STS.input.{subset}.txt")
    scores = senteval_lines(folder / f"STS.gs.{subset}.txt")
    if len(pairs) != len(scores):
        raise UserError(
            f"{folder}: {len(pairs)} pairs and {len(scores)} scores of {subset}; get both again"
        )
    rows = []
    for number, (pair, score) in enumerate(zip(pairs, scores, strict=True), start=1):
        if score.strip():
            cells = pair.split("\t")
            if len(cells) < 2:
                raise UserError(f"{folder}, {subset}, line {number}: no tab between two sentences")
            rows.append((joined(cells[0]), joined(cells[1]), float(score)))
    return rows


def _senteval_table(path: Path) -> list[tuple[str, str, float]]:
    """STS-B (genre, file, year, id, score, two sentences) or SICK (id, two sentences, score)."""
    lines = senteval_lines(path)
    score, first, second = (4, 5, 6) if path.suffix == ".csv" else (3, 1, 2)
    if path.suffix == ".txt":
        lines = lines[1:]
    rows = []
    for line in lines:  # a quotation mark is a character of the text
        cells = line.split("\t")
        if len(cells) <= max(score, first, second):
            raise UserError(f"{path}: a row of {len(cells)} fields: {' | '.join(cells)[:80]}")
        rows.append((joined(cells[first]), joined(cells[second]), float(cells[score])))
    return rows
