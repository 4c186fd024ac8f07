"""Dictionaries: entries of any number of words with their definitions, and the training set."""

import warnings
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypedDict

import numpy as np
import torch
from torch import Tensor

from common.config import UserError
from common.data.lookup import bundled
from common.data.samplers import Key, sample_rng
from common.data.splits import stable_fraction
from common.data.synthetic_words import SYLLABLES
from common.data.tables import read_jsonl
from common.data.text.lexical import words
from common.data.text.sets import load_sts
from common.data.text.views import TextViews
from common.encoders.text.sentence import SentenceEncoder
from common.encoders.text.template import plain_ids, special_tokens, without_template
from common.encoders.text.tiny_tokenizer import tiny_tokenizer
from common.encoders.text.tower import TextTower, load_tokenizer
from common.engine.experiment import Requirement, bundled_requirement
from common.families.sentences.data import text_path
from projects.defsent_plus.config import Config, DictionaryData

SEPARATOR = "<|list_more_def|>"  # between the definitions of a line
POOLING = {
    "cls": "cls_before_pooler",
    "mean": "avg",
    "max": "max",
    "ac": "cls_before_pooler",
    "amp": "avg",
}
_DRAW = 2**31 + 6  # random stream of data.limit
_WORDS = ("people", "way", "work", "men", "good", "world", "years", "state", "own", "little")


class DefinitionBatch(TypedDict):
    """B definitions."""

    input_ids: Tensor  # (B, L) int64, right-padded
    attention_mask: Tensor  # (B, L) int64
    ids: Tensor  # (B,) int64 sample indices
    labels: Tensor  # (B,) int64, row of the entry in the matrix of targets


@dataclass(frozen=True)
class Dictionary:
    """Entries with at least one definition each, and definitions that are held out.

    Attributes:
        entries: n names; row i of the entry matrix is entry i.
        definitions: of every entry.
        held_out: definitions that occur nowhere above, with the rows of all entries that they
            define.
        pieces: vocabulary ids of the entries, if only entries of one piece are kept, else empty.
        num_dropped: entries that are not one piece, counted before any definition is left out.
        num_excluded: distinct definitions that are texts of `data.exclude_sets`.
    """

    entries: list[str]
    definitions: list[list[str]]
    held_out: list[tuple[str, tuple[int, ...]]]
    pieces: tuple[int, ...] = ()
    num_dropped: int = 0
    num_excluded: int = 0

    @property
    def num_definitions(self) -> int:
        """Pairs of entry and definition."""
        return sum(len(texts) for texts in self.definitions)

    def pairs(self) -> list[tuple[str, int]]:
        """Definitions with the row of their entry: the training items."""
        return [(text, row) for row, texts in enumerate(self.definitions) for text in texts]

    def statistics(self) -> dict[str, float]:
        """Sizes; ``shared_definition_share``: of the pairs whose text defines another entry too.

        ``dropped_entry_share``: entries that are not one piece, over these and `entries`. The
        dropped ones are counted before `data.exclude_sets` and `data.held_out`, the others after:
        entries of one piece that lose all their definitions to these are in neither number.
        """
        owners = Counter(text for texts in self.definitions for text in set(texts))
        shared = sum(owners[text] > 1 for text, _ in self.pairs())
        total = len(self.entries) + self.num_dropped
        return {
            "num_entries": len(self.entries),
            "num_definitions": self.num_definitions,
            "multi_word_share": sum(" " in e for e in self.entries) / len(self.entries),
            "shared_definition_share": shared / self.num_definitions,
            "dropped_entry_share": self.num_dropped / total,
            "num_excluded_definitions": self.num_excluded,
        }


def load_dictionary(cfg: Config) -> Dictionary:
    """The dictionary of a config, cut into training and held-out definitions.

    A definition is held out by its text, so that none of its entries (synonyms share a definition)
    is trained on it; entries without another definition are left out. Those with the words of a
    text of `data.exclude_sets` are neither trained on nor held out.

    Raises:
        UserError: missing or malformed file, `data.limit` out of range, or nothing left.
    """
    data = cfg.data
    rows = _limited(_rows(cfg), data, cfg.seed)
    total = len(rows)
    if data.single_piece:
        pieces = single_pieces(plain_tokenizer(cfg), [entry for entry, _ in rows])
        rows = [row for row, piece in zip(rows, pieces, strict=True) if piece is not None]
    dropped = total - len(rows)
    rows, excluded = _without(rows, evaluation_texts(data) if data.exclude_sets else frozenset())
    kept = [(entry, [t for t in texts if not _held_out(t, data.held_out)]) for entry, texts in rows]
    entries = [entry for entry, texts in kept if texts]
    if len(entries) < 2:
        raise UserError(
            f"{len(entries) or 'no'} entry is left, and a contrast needs two: raise data.limit, lower"
            " data.held_out, or set data.single_piece=false"
        )
    places = {i: row for row, i in enumerate(i for i, (_, texts) in enumerate(kept) if texts)}
    golds: dict[str, list[int]] = {}
    for i, row in places.items():
        for text in rows[i][1]:
            if _held_out(text, data.held_out):
                golds.setdefault(text, []).append(row)
    held_out = [(text, tuple(dict.fromkeys(gold))) for text, gold in golds.items()]
    definitions = [t for _, t in kept if t]
    dictionary = Dictionary(
        entries, definitions, held_out, num_dropped=dropped, num_excluded=len(excluded)
    )
    if not data.single_piece:
        return dictionary
    ids = single_pieces(plain_tokenizer(cfg), entries)
    return replace(dictionary, pieces=tuple(i for i in ids if i is not None))


def dictionary_if_here(cfg: Config) -> Dictionary | None:
    """The dictionary; None where its file is missing, or the vocabulary that it is cut by."""
    if all(need.present for need in dictionary_requirements(cfg)):
        try:
            return load_dictionary(cfg)
        except UserError:
            if not cfg.data.single_piece:
                raise
    return None


def dictionary_requirements(cfg: Config) -> tuple[Requirement, ...]:
    """Files of the dictionary, for `make check`."""
    if cfg.data.source == "wordnet":
        return (bundled_requirement("wordnet"),)
    if cfg.data.source == "file":
        path = text_path(cfg.data)
        hint = "one entry per line: entry, tab, definitions; see the card, Data"
        return (Requirement("data: dictionary", str(path), path.is_file(), hint),)
    return ()


def read_dictionary(lines: Iterable[str], place: str) -> list[tuple[str, list[str]]]:
    r"""Entries with their definitions, one a line: ``entry TAB def-1<|list_more_def|>def-2...``.

    The number of an entry is that of its line; empty lines are skipped. As in the official code an
    entry of two lines is two entries, and further columns are not read; both are warned of.

    Args:
        lines: of the file, decoded.
        place: names the file in messages.

    Raises:
        UserError: a line without a tab, an entry or a definition; or no line at all.

    >>> read_dictionary(["ice cream\tfrozen dessert<|list_more_def|>cold sweet"], "x")
    [('ice cream', ['frozen dessert', 'cold sweet'])]
    """
    entries, wider = [], 0
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        entry, tab, rest = line.rstrip("\r\n").removeprefix("\ufeff").partition("\t")
        rest, *others = rest.split("\t")
        wider += any(cell.strip() for cell in others)
        texts = [text.strip() for text in rest.split(SEPARATOR) if text.strip()]
        if not tab or not entry.strip() or not texts:
            raise UserError(
                f"{place}, line {number}: write an entry, a tab and its definitions, joined by "
                f"{SEPARATOR}"
            )
        entries.append((entry.strip(), texts))
    if not entries:
        raise UserError(f"{place} has no entries")
    repeated = len(entries) - len({entry for entry, _ in entries})
    if repeated:
        text = f"{place}: {repeated} lines repeat an entry, and count as entries of their own"
        warnings.warn(f"{text}; to merge them, join their definitions by {SEPARATOR}", stacklevel=2)
    if wider:
        text = f"{place}: {wider} lines have more than two columns, of which only two are read"
        warnings.warn(f"{text}; definitions are joined by {SEPARATOR}", stacklevel=2)
    return entries


def single_pieces(tokenizer: Any, entries: Sequence[str]) -> list[int | None]:
    """Vocabulary id of each entry that is one piece, as a word inside a text.

    None for the others.
    """
    plain = plain_ids(tokenizer, [f" {entry}" for entry in entries])
    unknown = tokenizer.unk_token_id
    return [ids[0] if len(ids) == 1 and ids[0] != unknown else None for ids in plain]


def plain_tokenizer(cfg: Config) -> Any:
    """Tokenizer of the config's model, without a template."""
    model = cfg.model
    if model.pretrained == "random":
        return tiny_tokenizer(int((model.config or {}).get("vocab_size", 256)))
    return load_tokenizer(model.pretrained)


def definition_encoder(cfg: Config, encoder: SentenceEncoder, pooling: str) -> SentenceEncoder:
    """The same transformer for definitions: no template, their own pooling and length.

    Args:
        cfg: the experiment's config.
        encoder: of inference; its transformer is shared, not copied.
        pooling: "cls", "mean", "max", or an encoding of entries: "ac", "amp".
    """
    tower = TextTower(encoder.tower.model, POOLING[pooling])  # type: ignore[arg-type]
    tokenizer = without_template(encoder.tokenizer, encoder.template)
    cut = cfg.data.long == "truncate" and encoder.max_length is not None
    length = min(cfg.data.max_length, encoder.max_length or 0) if cut else cfg.data.max_length
    return SentenceEncoder(
        tower, tokenizer, max_length=length, length_groups=cfg.model.length_groups
    )


class DefinitionViews(TextViews):
    """Definitions as `TextViews`, with the rows of their entries.

    Args:
        items: definitions with their rows in the matrix of targets.
        encoder: of definitions, see `definition_encoder`.
        long: "refuse" or "truncate" what is longer than the encoder reads.

    Raises:
        UserError: a definition that is too long.
    """

    def __init__(
        self, items: Sequence[tuple[str, int]], encoder: SentenceEncoder, long: str = "refuse"
    ) -> None:
        length = encoder.max_length
        assert length is not None
        rows = [(text,) for text, _ in items]
        super().__init__(rows, encoder.tokenizer, max_length=length)
        self.labels = torch.tensor([row for _, row in items])
        longest = int(np.diff(self._offsets).max()) + len(self.prefix) + len(self.suffix)
        if long == "refuse":
            _refuse_above(length, longest)

    def __getitem__(self, keys: Sequence[Key]) -> Any:
        """Batch of the given ``(index, epoch)`` keys, a `DefinitionBatch`."""
        batch = super().__getitem__(keys)
        return {**batch, "labels": self.labels[batch["ids"]]}


def refuse_long(texts: Sequence[str], encoder: SentenceEncoder) -> None:
    """Refuse definitions that an encoder would cut.

    Raises:
        UserError: there is one; it names the length to set.
    """
    around = sum(len(ids) for ids in special_tokens(encoder.tokenizer))
    longest = max(len(ids) for ids in plain_ids(encoder.tokenizer, list(dict.fromkeys(texts))))
    assert encoder.max_length is not None
    _refuse_above(encoder.max_length, longest + around)


def _refuse_above(length: int, longest: int) -> None:
    if longest > length:
        raise UserError(
            f"the longest definition has {longest} tokens: set data.max_length={longest}, or "
            "data.long=truncate to cut it"
        )


def definition_views(
    cfg: Config, encoder: SentenceEncoder, dictionary: Dictionary | None = None
) -> DefinitionViews:
    """The training set: every definition of every entry is an item."""
    dictionary = dictionary or load_dictionary(cfg)
    items = dictionary.pairs()
    if cfg.entry.targets == "lm_head":
        items = [(text, dictionary.pieces[row]) for text, row in items]
    return DefinitionViews(items, definition_encoder(cfg, encoder, cfg.train.pool), cfg.data.long)


def _rows(cfg: Config) -> list[tuple[str, list[str]]]:
    data = cfg.data
    if data.source == "synthetic":
        return synthetic_dictionary(data.limit or 96, cfg.seed)
    if data.source == "wordnet":
        definitions: dict[str, list[str]] = {}
        path = bundled("wordnet", data.root) / "synsets.jsonl.gz"
        for row in read_jsonl(path, ("lemmas", "definition")):
            for lemma in row["lemmas"]:
                texts = definitions.setdefault(lemma.replace("_", " ").lower(), [])
                if row["definition"] not in texts:
                    texts.append(row["definition"])
        return list(definitions.items())
    path = text_path(data)
    try:
        lines = path.read_text(encoding=data.encoding).split("\n")
    except FileNotFoundError:
        raise UserError(
            f"dictionary {path} does not exist: give data.file, one entry per line (entry, tab, "
            "definitions)"
        ) from None
    except OSError as error:
        raise UserError(f"dictionary {path} cannot be read: give a file ({error})") from error
    except (UnicodeError, LookupError) as error:
        raise UserError(f"{path} is not {data.encoding}: set data.encoding ({error})") from error
    return read_dictionary(lines, str(path))


def synthetic_dictionary(num_entries: int, seed: int) -> list[tuple[str, list[str]]]:
    """Made-up entries of one or two words with one to three definitions that share words.

    The first ones are words of the built-in tokenizer; every tenth shares a definition with the
    entry before.
    """
    rng = sample_rng(seed, 0, 6)
    entries: list[tuple[str, list[str]]] = []
    for i in range(num_entries):
        codes = rng.choice(len(SYLLABLES) ** 2, size=8, replace=False)
        words = [SYLLABLES[c // 10] + SYLLABLES[c % 10] for c in codes]
        name = (
            _WORDS[i]
            if i < len(_WORDS)
            else f"{words[0]}{i} {words[1]}"
            if i % 3
            else f"{words[0]}{i}"
        )
        count = int(rng.integers(1, 4))
        texts = [" ".join(rng.permutation(words[2:])[:5]) for _ in range(count)]
        if i % 10 == 9:
            texts.append(entries[-1][1][0])
        entries.append((name, list(dict.fromkeys(texts))))
    return entries


def _limited(
    rows: list[tuple[str, list[str]]], data: DictionaryData, seed: int
) -> list[tuple[str, list[str]]]:
    if data.limit is None or data.source == "synthetic":
        return rows
    if data.limit > len(rows):
        raise UserError(f"data.limit={data.limit}, but there are {len(rows)} entries")
    order = sample_rng(seed, 0, 0, _DRAW).permutation(len(rows))
    return [rows[i] for i in sorted(order[: data.limit])]


def evaluation_texts(data: DictionaryData) -> frozenset[str]:
    """Words of the texts of `data.exclude_sets`, whatever their case and punctuation."""
    sets = [load_sts(data.root, name, drop_stsb_overlap=False) for name in data.exclude_sets]
    return frozenset(_wording(text) for sts in sets for text in [*sts.first, *sts.second])


def _wording(text: str) -> str:
    return " ".join(words(text))


def _without(
    rows: list[tuple[str, list[str]]], taken: frozenset[str]
) -> tuple[list[tuple[str, list[str]]], set[str]]:
    """Rows without the definitions of those words, and what was left out."""
    if not taken:
        return rows, set()
    out = {text for text in {t for _, texts in rows for t in texts} if _wording(text) in taken}
    kept = [(entry, [t for t in texts if t not in out]) for entry, texts in rows]
    return [(entry, texts) for entry, texts in kept if texts], out


def _held_out(text: str, share: float) -> bool:
    return stable_fraction(f"definition {text}") < share
