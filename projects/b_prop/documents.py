"""Documents with their words, attention and counts; what a whole collection says about words."""

import json
import sys
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from common.config import UserError
from common.damage import parse_json
from common.data.lines import LineFile, read_lines
from common.encoders.modes import evaluation_mode
from common.encoders.text.cross_encoder import pad_pairs
from common.files import replacing, write_text
from projects.b_prop.config import WordsConfig
from projects.b_prop.corpus_statistics import CorpusStatistics
from projects.b_prop.distribution import random_distribution, saturate
from projects.b_prop.word_attention import WordPieces, cls_attention, word_pieces

# id, text, words (distinct, in order), counts, pieces; attention if an encoder was asked
Row = dict[str, Any]
DOCUMENTS, COLLECTION, INDEX = "documents.jsonl", "collection.json", "index.npz"


class Documents(Protocol):
    """Rows by index."""

    def __len__(self) -> int:
        """Documents."""
        ...

    def __getitem__(self, index: int) -> Row:
        """One of them."""
        ...


class Analyser:
    """Documents -> words with counts, and the attention that [CLS] pays to them.

    Source: Ma et al. 2021, "B-PROP", section 4.1, arXiv 2104.09791.

    Args:
        tokenizer: a fast one; its own words are the words of a document.
        encoder: frozen, in evaluation mode, see `expose_attention`; None: counts alone.
        words: section of the config.
        max_pieces: of a document, special tokens not counted; also the most that ``pieces`` says.
        batch_size: documents of a pass.
        keep_words: without an encoder, all words of a text are counted, and its first white-space
            words alone are kept as the text; None: words within `max_pieces` are counted.
    """

    def __init__(
        self,
        tokenizer: Any,
        encoder: Any,
        words: WordsConfig,
        max_pieces: int,
        batch_size: int,
        keep_words: int | None = None,
    ) -> None:
        self.tokenizer, self.encoder, self.words = tokenizer, encoder, words
        self.max_pieces, self.batch_size = max_pieces, batch_size
        self.keep_words = None if encoder is not None else keep_words

    def __call__(self, rows: Sequence[Row], seeds: Sequence[Any] = ()) -> list[Row]:
        """Rows with id and text -> the same with words, counts, pieces and attention."""
        texts, limit = [str(row["text"]) for row in rows], self.max_pieces
        if self.keep_words is not None:
            limit = sys.maxsize
        cut = word_pieces(self.tokenizer, texts, limit)
        if self.keep_words is not None:  # what is trained on; the counts are of the whole
            texts = [" ".join(text.split()[: self.keep_words]) for text in texts]
        analysed: list[Row] = []
        for row, text, pieces in zip(rows, texts, cut, strict=True):
            counts = Counter(pieces.words)
            ends = (0, *pieces.first, len(pieces.ids))  # of words: none is cut in its middle
            analysed.append(
                {
                    "id": str(row["id"]),
                    "text": text,
                    "words": list(counts),
                    "counts": list(counts.values()),
                    "pieces": max(end for end in ends if end <= self.max_pieces),
                }
            )
        if self.encoder is not None:
            order = sorted(range(len(rows)), key=lambda i: -len(cut[i].ids))
            for start in range(0, len(order), self.batch_size):
                places = order[start : start + self.batch_size]
                for i, words in zip(places, self._attend([cut[i] for i in places]), strict=True):
                    if self.words.parity_extraction:  # [CLS] and [SEP] come as words
                        analysed[i]["words"] = list(words)
                        analysed[i]["counts"] = [1, *analysed[i]["counts"], 1]
                    analysed[i]["attention"] = [round(words[w], 9) for w in analysed[i]["words"]]
        return analysed

    def _attend(self, cut: Sequence[WordPieces]) -> Iterator[dict[str, float]]:
        """Word -> attention, summed over its places, for each document of a pass."""
        tokenizer = self.tokenizer
        rows = [[tokenizer.cls_token_id, *encoding.ids, tokenizer.sep_token_id] for encoding in cut]
        padded = pad_pairs([(ids, [0] * len(ids)) for ids in rows], tokenizer.pad_token_id)
        mask = padded["attention_mask"]
        if self.words.parity_extraction:  # the release hides the later pieces of a word
            for i, encoding in enumerate(cut):
                hidden = [j + 1 for j, goes_on in enumerate(encoding.continues) if goes_on]
                mask[i, hidden] = 0
        device = next(self.encoder.parameters()).device
        with evaluation_mode(self.encoder):
            attention = (
                cls_attention(
                    self.encoder,
                    padded["input_ids"].to(device),
                    mask.to(device),
                    layer=self.words.layer,
                    heads=self.words.heads,
                )
                .double()
                .cpu()
            )
        for values, ids, encoding in zip(attention, rows, cut, strict=True):
            words: dict[str, float] = {}
            if self.words.parity_extraction:
                words["[CLS]"] = float(values[0])
            for word, place in zip(encoding.words, encoding.first, strict=True):
                words[word] = words.get(word, 0.0) + float(values[place + 1])
            if self.words.parity_extraction:
                words["[SEP]"] = float(values[len(ids) - 1])
            yield words


class Terms:
    """Words -> terms: stems if so configured, and which words a unigram model counts.

    Source: Porter 1980, "An algorithm for suffix stripping" (as NLTK has it).

    Args:
        words: section of the config.

    Raises:
        UserError: the file of stop words is missing.
    """

    def __init__(self, words: WordsConfig) -> None:
        self.stop_words = _stop_words(words.stop_words)
        self.stem: Callable[[str], str] = _stemmer() if words.stemming else str

    def counts(self, row: Row) -> dict[str, int]:
        """Alphabetic terms of a document that are no stop words, with their counts."""
        counts: dict[str, int] = {}
        for word, count in zip(row["words"], row["counts"], strict=True):
            if word.isalpha() and word not in self.stop_words:
                term = self.stem(word)
                counts[term] = counts.get(term, 0) + count
        return counts

    def all_counts(self, row: Row) -> dict[str, int]:
        """All terms of a document with their counts, stop words too."""
        counts: dict[str, int] = {}
        for word, count in zip(row["words"], row["counts"], strict=True):
            term = self._term(word)
            counts[term] = counts.get(term, 0) + count
        return counts

    def _term(self, word: str) -> str:
        return self.stem(word) if word.isalpha() else word

    def attention(self, row: Row) -> dict[str, float]:
        """Summed attention of all terms of a document.

        Raises:
            UserError: the documents were prepared without attention.
        """
        if "attention" not in row:
            raise UserError(
                "these documents hold no attention: prepare them with prepare.attention=true, or "
                "set words.distribution=unigram"
            )
        sums: dict[str, float] = {}
        for word, value in zip(row["words"], row["attention"], strict=True):
            term = self._term(word)
            sums[term] = sums.get(term, 0.0) + value
        return sums


@dataclass
class Collection:
    """What all documents say about words.

    Attributes:
        statistics: counts of terms without stop words.
        totals: term -> sum of the saturated attention, numbers and punctuation included; empty
            without attention.
        surfaces: stem -> its words and their counts; empty without stemming.
        settings: of the config, that these depend on.
        attention: encoder, layer and so on that the attention was read from; empty without.
        max_document: pieces that the documents were cut at.
    """

    settings: dict[str, Any]
    statistics: CorpusStatistics = field(default_factory=CorpusStatistics)
    totals: dict[str, float] = field(default_factory=dict)
    surfaces: dict[str, dict[str, int]] = field(default_factory=dict)
    attention: dict[str, Any] = field(default_factory=dict)
    max_document: int | None = None

    @classmethod
    def of(cls, rows: Iterable[Row], words: WordsConfig) -> "Collection":
        """Read all documents once."""
        terms, collection = Terms(words), cls(settings_of(words))
        for row in rows:
            collection.statistics.add(terms.counts(row))
            if words.stemming:
                for word, count in zip(row["words"], row["counts"], strict=True):
                    if word.isalpha():
                        surfaces = collection.surfaces.setdefault(terms.stem(word), {})
                        surfaces[word] = surfaces.get(word, 0) + count
            if "attention" in row:
                attention = terms.attention(row)  # numbers too: they are left out of gamma alone
                saturated = saturate(
                    np.array(list(attention.values())), words.saturation, words.saturation_k
                )
                for word, value in zip(attention, saturated.tolist(), strict=True):
                    collection.totals[word] = collection.totals.get(word, 0.0) + value
        return collection

    @property
    def random_distribution(self) -> dict[str, float]:
        """P(w|R)."""
        return random_distribution(self.totals, self.statistics.num_documents)

    def save(self, path: Path) -> None:
        """Write as JSON."""
        values = {
            "settings": self.settings,
            "attention": self.attention,
            "max_document": self.max_document,
            "statistics": self.statistics.to_json(),
            "totals": self.totals,
            "surfaces": self.surfaces,
        }
        write_text(path, json.dumps(values, ensure_ascii=False) + "\n")

    @classmethod
    def load(
        cls,
        path: Path,
        words: WordsConfig,
        max_document: int,
        attention: Mapping[str, Any] | None = None,
    ) -> "Collection":
        """Read what `save` wrote.

        Args:
            path: of the file.
            words: section of the config.
            max_document: pieces that the config cuts documents at.
            attention: where the config reads it from; None: it is not used.

        Raises:
            UserError: no such file, or one that was made with other settings.
        """
        if not path.is_file():
            raise UserError(
                f"{path} is missing: make run PROJECT=b_prop CONFIG=<yours> TASK=prepare writes it"
            )
        values: Any = parse_json(path.read_text(encoding="utf-8"), path, 1)
        try:
            settings, statistics = values["settings"], values["statistics"]
            collection = cls(
                settings,
                CorpusStatistics.from_json(statistics),
                values["totals"],
                values["surfaces"],
                values["attention"],
                values.get("max_document"),
            )
        except (KeyError, TypeError, ValueError) as error:
            raise UserError(f"{path} is not a collection of TASK=prepare: {error!r}") from error
        if collection.max_document != max_document:
            raise UserError(
                f"{path.parent}: the documents were cut at"
                f" data.max_document={collection.max_document}, "
                f"the config has {max_document}: prepare them again, into another folder, with the "
                "CONFIG that you train, or set data.max_document"
            )
        for name, expected in settings_of(words).items():
            if settings.get(name) != expected:
                raise UserError(
                    f"{path} was made with words.{name}={settings.get(name)}, the config has "
                    f"{expected}: prepare the documents again, or set words.{name}"
                )
        for name, expected in (attention or {}).items() if collection.attention else ():
            if collection.attention.get(name) != expected:
                raise UserError(
                    f"{path.parent}: the attention was read with"
                    f" {name}={collection.attention.get(name)}, the config has {expected}: set"
                    f" words.{name}, or prepare the documents again"
                )
        return collection


def settings_of(words: WordsConfig) -> dict[str, Any]:
    """What a collection depends on alongside its documents."""
    names = ("saturation", "saturation_k", "stemming", "stop_words")
    return {name: getattr(words, name) for name in names}


def num_candidates(row: Row) -> int:
    """Alphabetic words of a document."""
    return sum(word.isalpha() for word in row["words"])


class PreparedDocuments:
    """Documents of a folder that TASK=prepare wrote, read line by line.

    Args:
        folder: see there.

    Raises:
        UserError: files are missing.
    """

    def __init__(self, folder: Path) -> None:
        if not (folder / INDEX).is_file():
            raise UserError(
                f"{folder} is not a folder of prepared documents: make run PROJECT=b_prop "
                "CONFIG=<yours> TASK=prepare writes one"
            )
        self.lines = LineFile(folder / DOCUMENTS)
        with np.load(folder / INDEX, allow_pickle=False) as index:
            self.pieces, self.candidates = index["pieces"], index["candidates"]
        if len(self.pieces) != len(self.lines):
            raise UserError(f"{folder}: {DOCUMENTS} and {INDEX} differ in length; prepare again")

    def __len__(self) -> int:
        return len(self.lines)

    def __getitem__(self, index: int) -> Row:
        row: Any = parse_json(self.lines[index], self.lines.path, index + 1)
        if not isinstance(row, dict):
            raise UserError(f"{self.lines.path}, line {index + 1} is not a prepared document")
        return row


def write_documents(folder: Path, rows: Iterable[Row]) -> tuple[int, Path]:
    """Write documents and their index; the number of rows and the file."""
    folder.mkdir(parents=True, exist_ok=True)
    pieces, candidates = list[int](), list[int]()

    def counted() -> Iterator[Row]:
        for row in rows:
            pieces.append(int(row["pieces"]))
            candidates.append(num_candidates(row))
            yield row

    write_lines(folder / DOCUMENTS, counted())
    with replacing(folder / INDEX) as partial, partial.open("wb") as file:
        np.savez(file, pieces=np.array(pieces), candidates=np.array(candidates))
    return len(pieces), folder / DOCUMENTS


def write_lines(path: Path, rows: Iterable[Row]) -> None:
    """Write rows as JSON lines, one by one; the file appears when it is whole."""
    with replacing(path) as partial, partial.open("w", encoding="utf-8") as file:
        for row in rows:
            file.write(json.dumps(row, ensure_ascii=False) + "\n")


def _stop_words(name: str) -> frozenset[str]:
    if name == "none":
        return frozenset()
    if name == "english":
        from bm25s.stopwords import STOPWORDS_EN_PLUS

        return frozenset(STOPWORDS_EN_PLUS)
    return frozenset(line.strip().lower() for line in read_lines(Path(name).expanduser()))


def _stemmer() -> Callable[[str], str]:
    from nltk.stem.porter import PorterStemmer

    stem: Callable[[str], str] = PorterStemmer().stem
    return cache(stem)
