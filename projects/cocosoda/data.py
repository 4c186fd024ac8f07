"""Batches of pairs with augmented keys, one language each; collections that are searched."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any, TypedDict, cast

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from common.config import UserError
from common.data.lookup import data_root
from common.data.mixture import source_probabilities
from common.data.module import ContrastiveData
from common.data.padding import TextInputs, padded
from common.data.samplers import Key, sample_rng
from common.data.synthetic_words import SYLLABLES
from common.encoders.text.sentence import SentenceEncoder
from common.encoders.text.template import plain_ids, special_tokens
from common.engine.experiment import Requirement, bundled_requirement, weights_requirement
from common.engine.trainer import world_size
from projects.cocosoda.code.lexer import piece_types, token_spans
from projects.cocosoda.code.search_sets import (
    PIECES,
    CodePair,
    CodeSearchSet,
    Part,
    bundled_docstrings,
    code_search_net_set,
    cosqa_pairs,
    read_code_search_net,
    read_cosqa,
    set_of_pairs,
    without_name,
)
from projects.cocosoda.code.soda import Ids, SoftAugmentation
from projects.cocosoda.code.types import TYPES, TYPES_OF, Language, Strategy, leaf_type, type_token
from projects.cocosoda.config import Config
from projects.cocosoda.mixture import DrawnMixture

_SODA_STREAM, _TYPE_STREAM, _SYNTHETIC_STREAM = 83, 2**31 + 84, 85
_LINE_COMMENTS: dict[Language, tuple[str, ...]] = {
    "go": ("//",),
    "java": ("//",),
    "javascript": ("//",),
    "php": ("//", "#"),
    "python": ("#",),
    "ruby": ("#",),
}
_CACHED = 1 << 15  # functions whose pieces are kept by a process
_SYNTHETIC = {"train": 64, "valid": 12, "test": 24}


class CodeBatch(TypedDict, total=False):
    """B pairs of one language."""

    code: TextInputs
    query: TextInputs
    augmented_code: TextInputs  # left out in fine-tuning, as what follows
    augmented_query: TextInputs
    altered: Tensor  # (B,) share of the code's pieces that the augmentation changed
    ids: Tensor  # (B,) int64, places in the language's pairs


@dataclass(frozen=True)
class SodaStep:
    """What is done in one step of the whole run: the same on all ranks."""

    strategy: Strategy
    chosen_type: int  # place in `TYPES`


class CodePairs(Dataset[CodeBatch]):
    """Map-style training set that returns whole batches; draws depend on (seed, epoch, index).

    Args:
        pairs: by language.
        tokenizer: fast, of transformers, as `prepare_encoder` leaves it.
        cfg: the experiment's config.
        augment: whether keys are made alongside code and query.
    """

    def __init__(
        self,
        pairs: Mapping[Language, Sequence[CodePair]],
        tokenizer: Any,
        cfg: Config,
        *,
        augment: bool,
    ) -> None:
        self.languages, self.pairs = list(pairs), list(pairs.values())
        self.tokenizer, self.cfg, self.soda = tokenizer, cfg, cfg.data.soda
        self.augment = augment
        sizes = [len(members) for members in self.pairs]
        probabilities = source_probabilities(sizes, cfg.data.language_exponent)
        self.size = cfg.data.batch_size * world_size(cfg.trainer)
        self.mixture = DrawnMixture(sizes, probabilities, cfg.seed, self.size)
        self.prefix, self.suffix = special_tokens(tokenizer)
        around = len(self.prefix) + len(self.suffix)
        self.code_room = cfg.model.code_length - around
        self.query_room = cfg.model.query_length - around
        self.augmentation = soft_augmentation(tokenizer, cfg)
        self._pieces = lru_cache(_CACHED)(self._find_pieces)

    def __getstate__(self) -> dict[str, Any]:
        return {k: v for k, v in self.__dict__.items() if k != "_pieces"}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._pieces = lru_cache(_CACHED)(self._find_pieces)

    def __len__(self) -> int:
        return len(self.mixture)

    def step(self, index: int, epoch: int) -> SodaStep | None:
        """Augmentation of the step that a place of an epoch belongs to; None: keys as they are."""
        strategies = self.soda.strategies
        if not self.augment or not strategies:
            return None
        number = epoch * self.mixture.num_batches + index // self.size
        language = self.languages[int(self.mixture.order(epoch)[index, 0])]
        types = TYPES_OF[language]
        place = sample_rng(self.cfg.seed, 0, number, _TYPE_STREAM).integers(len(types))
        return SodaStep(strategies[number % len(strategies)], TYPES.index(types[int(place)]))

    def __getitem__(self, keys: Sequence[Key]) -> CodeBatch:
        """Batch of the given ``(index, epoch)`` keys, which belong to one step."""
        places = [self.mixture.order(epoch)[index] for index, epoch in keys]
        drawn = [self._pieces(int(t), int(row)) for t, row in places]
        batch: CodeBatch = {
            "code": self._inputs([code for code, _, _ in drawn]),
            "query": self._inputs([query for _, _, query in drawn]),
            "ids": torch.tensor([int(row) for _, row in places]),
        }
        if self.augment:
            step = self.step(*keys[0])
            made = [self.keys(item, step, key) for item, key in zip(drawn, keys, strict=True)]
            pairs = zip(drawn, made, strict=True)
            shares = [
                float(np.mean(item[0] != code)) if len(code) else 0.0 for item, (code, _) in pairs
            ]
            batch["augmented_code"] = self._inputs([code for code, _ in made])
            batch["augmented_query"] = self._inputs([query for _, query in made])
            batch["altered"] = torch.tensor(shares)
        return batch

    def keys(self, drawn: tuple[Ids, Ids, Ids], step: SodaStep | None, key: Key) -> tuple[Ids, Ids]:
        """Augmented ids of code and query, drawn at every access.

        Args:
            drawn: ids of the code, their types, ids of the query.
            step: what is done; None: nothing.
            key: index and epoch.
        """
        code, types, query = drawn
        if step is None:
            return code, query
        index, epoch = key
        rng = sample_rng(self.cfg.seed, epoch, index, _SODA_STREAM)
        augmented = self.augmentation.code(step.strategy, code, types, rng, step.chosen_type)
        if step.strategy in self.soda.queries_in:
            query = self.augmentation.query(query, rng)
        return augmented, query

    def _find_pieces(self, language: int, row: int) -> tuple[Ids, Ids, Ids]:
        pair = self.pairs[language][row]
        (query,) = plain_ids(self.tokenizer, [pair.query])
        code, types = typed_pieces(self.tokenizer, pair, self.code_room)
        if not self.cfg.data.typed:
            types = np.full_like(types, -1)
        return code, types, np.array(query[: self.query_room], dtype=np.int64)

    def _inputs(self, rows: Sequence[Ids]) -> TextInputs:
        pad = self.tokenizer.pad_token_id
        return padded([row.tolist() for row in rows], pad, self.prefix, self.suffix)


class SearchQueries(Dataset[tuple[str, int]]):
    """Queries of a collection with their places, for validation."""

    def __init__(self, data: CodeSearchSet) -> None:
        self.data = data

    def __len__(self) -> int:
        return len(self.data.queries)

    def __getitem__(self, index: int) -> tuple[str, int]:
        return self.data.queries[index], index

    @staticmethod
    def collate(rows: Sequence[tuple[str, int]]) -> tuple[list[str], Tensor]:
        """Queries, and their places (B,) int64."""
        queries, places = zip(*rows, strict=True)
        return list(queries), torch.tensor(places)


def typed_pieces(
    tokenizer: Any, pair: CodePair, room: int, lines: str | None = None
) -> tuple[Ids, Ids]:
    """Ids of a function's first pieces (L,), and the place of each type in `TYPES` (-1: none).

    Args:
        tokenizer: fast, of transformers.
        pair: its stored pieces are taken where it has some.
        room: L at most.
        lines: the code in which types are looked up, with line breaks for some of its spaces, see
            `with_line_breaks`; None: the pair's own.

    Raises:
        UserError: stored pieces of another tokenizer.
    """
    if pair.pieces is not None:
        pieces, kinds = (pair_ids[:room] for pair_ids in pair.pieces)
        ids = tokenizer.convert_tokens_to_ids(list(pieces))
        unknown = tokenizer.unk_token_id
        for piece, pair_ids in zip(pieces, ids, strict=True):
            if pair_ids is None or (pair_ids == unknown and piece != tokenizer.unk_token):
                raise UserError(
                    f"{pair.key}: {PIECES} has {piece!r}, not a piece of this tokenizer: "
                    "make the rows again with TASK=prepare and the model of this config"
                )
        both = zip(pieces, kinds, strict=True)
        names = [kind if kind in TYPES else leaf_type(kind, piece, True) for piece, kind in both]
        places = [TYPES.index(name) if name in TYPES else -1 for name in names]
        return np.array(ids, dtype=np.int64), np.array(places, dtype=np.int64)
    encoding = tokenizer(
        pair.code,
        add_special_tokens=False,
        truncation=False,
        return_offsets_mapping=True,
        verbose=False,
    )
    ids, offsets = encoding["input_ids"][:room], encoding["offset_mapping"][:room]
    shown = (pair.code if lines is None else lines)[: offsets[-1][1]] if offsets else ""
    # byte pairs have their space in front, whose place is not that of their token
    texts = [shown[start:end] for start, end in offsets]
    inside = [(e - len(t.lstrip() or t), e) for t, (_, e) in zip(texts, offsets, strict=True)]
    return np.array(ids, dtype=np.int64), piece_types(token_spans(shown, pair.language), inside)


def with_line_breaks(tokens: Sequence[str], language: Language) -> str:
    r"""Tokens separated by spaces; a line break ends a comment that runs to the end of its line.

    >>> with_line_breaks(["# why", "return", "a"], "python")
    '# why\nreturn a'
    """
    starts = _LINE_COMMENTS[language]
    ends = [t.startswith(starts) and not t.startswith("#{") for t in tokens]
    return "".join(t + ("\n" if end else " ") for t, end in zip(tokens, ends, strict=True))[:-1]


def soft_augmentation(tokenizer: Any, cfg: Config) -> SoftAugmentation:
    """The augmentations of a config.

    Raises:
        UserError: a tokenizer without mask token where tokens are to be masked.
    """
    soda, size = cfg.data.soda, len(tokenizer)
    if soda.strategies and tokenizer.mask_token_id is None:
        raise UserError("data.soda.strategies: this tokenizer has no mask token; set them to []")
    types = np.full(len(TYPES), -1)
    if cfg.model.type_tokens:
        types = np.array(tokenizer.convert_tokens_to_ids([type_token(name) for name in TYPES]))
        size = int(types.min())  # random tokens are no types
    return SoftAugmentation(
        int(tokenizer.mask_token_id or 0),
        types,
        size,
        tuple(tokenizer.all_special_ids),
        soda.ratio,
        soda.type_ratio,
    )


# -- what a config reads -------------------------------------------------------------------------


def folder_of(cfg: Config, place: str) -> Path:
    """A folder of the config: as named, or below the data root."""
    path = Path(place).expanduser()
    return path if path.is_dir() else data_root(cfg.data.root) / path


def training_pairs(cfg: Config) -> dict[Language, Sequence[CodePair]]:
    """Training pairs by language.

    Raises:
        UserError: a file is missing or broken.
    """
    data = cfg.data
    if data.source == "csn":
        folder = folder_of(cfg, str(data.folder))
        return {name: read_code_search_net(folder, name) for name in data.languages}
    if data.source == "cosqa":
        return {"python": cosqa_pairs(folder_of(cfg, str(data.folder)))}
    if data.source == "synthetic":
        return {"python": synthetic_pairs("train", cfg.seed)}
    return {"python": bundled_docstrings(data.root, data.limit, cfg.seed)["train"]}


def search_sets(cfg: Config, part: Part) -> list[CodeSearchSet]:
    """Collections of a part with their queries: one a language, or with names hidden and visible.

    Raises:
        UserError: a file is missing or broken.
    """
    data, sets = cfg.data, list[CodeSearchSet]()
    if data.source == "csn":
        folder = folder_of(cfg, str(data.folder))
        sets = [code_search_net_set(folder, name, part) for name in data.languages]
    elif data.source == "cosqa":
        split = "dev" if part == "valid" else part
        sets = [read_cosqa(folder_of(cfg, str(data.folder)), split)]
    elif data.source == "synthetic":
        sets = [set_of_pairs("synthetic", synthetic_pairs(part, cfg.seed))]
    else:
        pairs = bundled_docstrings(data.root, data.limit, cfg.seed)[part]
        for name in cfg.eval.names:
            shown = [without_name(p) for p in pairs] if name == "hidden" else pairs
            sets.append(set_of_pairs(name, shown))
    return sets


def synthetic_pairs(part: Part, seed: int) -> list[CodePair]:
    """Functions of made-up words, asked for by three of them."""
    rng = sample_rng(seed, 0, list(_SYNTHETIC).index(part), _SYNTHETIC_STREAM)
    pairs = []
    for number in range(_SYNTHETIC[part]):
        words = [SYLLABLES[a] + SYLLABLES[b] for a, b in rng.integers(len(SYLLABLES), size=(6, 2))]
        body = " , ".join(words[3:])
        code = (
            f"def {'_'.join(words[:2])} ( {words[2]} ) : return {words[2]} + [ {body} , {number} ]"
        )
        query = " ".join(str(word) for word in rng.choice(words, 3, replace=False))
        pairs.append(CodePair(query, code, "python", f"synthetic:{part}{number}"))
    return pairs


def training_data(cfg: Config, encoder: SentenceEncoder, *, finetune: bool) -> ContrastiveData:
    """Batches of one language each; the development queries if the config validates."""
    train = CodePairs(training_pairs(cfg), encoder.tokenizer, cfg, augment=not finetune)
    val: dict[str, Dataset[Any]] = {}
    if cfg.trainer.val_every_n_steps is not None:
        val = {data.name: SearchQueries(data) for data in search_sets(cfg, "valid")}
    return ContrastiveData(
        train,
        batch_size=cfg.data.batch_size,
        seed=cfg.seed,
        num_workers=cfg.data.num_workers,
        val=val,
        shuffle=False,
        eval_batch_size=cfg.eval.batch_size,
    )


def requirements(cfg: Config) -> list[Requirement]:
    """Weights and data that the config needs."""
    needs, data = list(weights_requirement(cfg.model.pretrained)), cfg.data
    if data.source == "bundled":
        needs.append(bundled_requirement("code-python-doc"))
    if data.source == "csn":
        for name in data.languages:
            path = folder_of(cfg, str(data.folder)) / name
            hint = "write it with TASK=prepare, see the card, Data"
            needs.append(Requirement(f"data: {name}", str(path), path.is_dir(), hint))
    places = {
        "cosqa": data.folder if data.source == "cosqa" else None,
        "cosqa (evaluation)": cfg.eval.cosqa,
    }
    for what, place in places.items():
        if place is not None:
            path = folder_of(cfg, place)
            needs.append(
                Requirement(
                    f"data: {what}", str(path), path.is_dir(), "data/search of Jun-jie-Huang/CoCLR"
                )
            )
    return needs


def evaluation_sets(cfg: Config) -> list[CodeSearchSet]:
    """The collections of the evaluation, of different names.

    CoSQA is the last if the config names it.
    """
    sets = search_sets(cfg, cast(Part, cfg.eval.part))
    if cfg.eval.cosqa is not None:
        further = read_cosqa(folder_of(cfg, cfg.eval.cosqa), cfg.eval.cosqa_part)
        if cfg.data.source == "cosqa":  # vectors and metrics are kept by name
            further = replace(further, name=f"{further.name}_{cfg.eval.cosqa_part}")
        sets.append(further)
    return sets
