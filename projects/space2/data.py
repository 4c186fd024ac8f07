"""Corpora of a config, and batches of labelled and unlabelled dialogues side by side."""

import warnings
from collections.abc import Iterator, Sequence
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any, NotRequired, TypedDict

import numpy as np
import torch
from torch import Tensor

from common.config import UserError
from common.data.lookup import data_root, require
from common.data.module import ContrastiveData
from common.data.offline import content_digest
from common.data.samplers import sample_rng
from common.data.text.token_files import TokenTexts, write_token_files
from common.engine.trainer import world_size
from projects.space2.config import Config
from projects.space2.dialogs import turns as sets
from projects.space2.dialogs.encoding import (
    DialogInputs,
    DialogTokenizer,
    Row,
    Utterance,
    padded_with,
    value_texts,
)
from projects.space2.dialogs.streams import PairedStreams, corpora_stream
from projects.space2.dialogs.trees import Frame, tree_ids, whole_tree_id
from projects.space2.dialogs.turns import Corpus, Turn, user_turns

_MASK_STREAM, _ROW_BITS = 2**31 + 72, 40
TOKENISED = 10_000  # turns at a time
ON_DISK_FROM_TURNS = 500_000  # of a corpus whose tokens all processes share; some ten CPU-minutes
LEFT_OUT = ("_few", "_valid")  # endings of folders in the release's data


class TreeBatch(TypedDict):
    """B dialogues with the sets of their trees; those of unlabelled ones are empty."""

    inputs: DialogInputs
    masked: Tensor  # (B, L) int64, ids with hidden tokens
    labels: Tensor  # (B, L) int64, -100 where nothing is hidden
    set_ids: NotRequired[list[Tensor]]  # K times (T,) int64, elements of the B sets of a view
    set_counts: NotRequired[list[Tensor]]  # K times (B,) int64, their sizes


class Examples:
    """The user turns of a corpus, tokenised, with the sets of their trees.

    Args:
        corpus: dialogues.
        texts: tokenises them.
        score: of the trees.
        views: of the trees.
        folder: for the token files of large corpora; None holds all tokens in memory.
    """

    def __init__(
        self,
        corpus: Corpus,
        texts: DialogTokenizer,
        score: str = "none",
        views: Sequence[str] = (),
        folder: Path | None = None,
    ) -> None:
        flat = [turn for dialog in corpus.dialogs for turn in dialog.turns]
        self.users, self.texts = np.array([turn.user for turn in flat], dtype=bool), texts
        self.utterances = (
            PackedUtterances(texts, flat)
            if folder is None or len(flat) < ON_DISK_FROM_TURNS
            else stored_utterances(texts, flat, folder)
        )
        self.starts = np.cumsum([0, *(len(d.turns) for d in corpus.dialogs)])
        places = user_turns(corpus.dialogs)
        self.places = np.array(places, dtype=np.int32).reshape(-1, 2)
        none = sets_of({}, "none", views)  # one for all turns without a tree
        frames = (corpus.dialogs[d].turns[t].frame for d, t in places)
        self.sets = [none if score == "none" else sets_of(f, score, views) for f in frames]

    def __len__(self) -> int:
        return len(self.places)

    def row(self, index: int) -> Row:
        """Tokens of an example."""
        dialog, turn = self.places[index]
        start = int(self.starts[dialog])
        said = self.utterances[start : start + int(turn) + 1]
        return self.texts.row(said, bool(self.users[start + turn]))


class PackedUtterances:
    """Utterances of a corpus in three arrays: 5 bytes a token, where lists and objects take 50.

    Args:
        texts: tokenises them, some thousand at a time.
        turns: of all dialogues.
    """

    def __init__(self, texts: DialogTokenizer, turns: Sequence[Turn]) -> None:
        lengths, ids, values = [0], [np.empty(0, np.int32)], [np.empty(0, bool)]
        for start in range(0, len(turns), TOKENISED):
            part = texts.utterances(turns[start : start + TOKENISED])
            lengths += [len(utterance.ids) for utterance in part]
            ids += [np.concatenate([u.ids for u in part]).astype(np.int32)]
            values += [np.concatenate([u.values for u in part])]
        self.bounds = np.cumsum(lengths)
        self.ids, self.values = np.concatenate(ids), np.concatenate(values)

    def __getitem__(self, rows: slice) -> list[Utterance]:
        bounds = self.bounds[rows.start : rows.stop + 1]
        return [
            Utterance(self.ids[begin:end].astype(np.int64), self.values[begin:end])
            for begin, end in pairwise(bounds)
        ]


class StoredUtterances:
    """The same from token files, in which an id of an annotated value is stored as its complement.

    Args:
        tokens: of `stored_utterances`.
    """

    def __init__(self, tokens: TokenTexts) -> None:
        self.tokens = tokens

    def __getitem__(self, rows: slice) -> list[Utterance]:
        stored = (np.array(self.tokens[i], np.int64) for i in range(rows.start, rows.stop))
        return [Utterance(np.where(ids < 0, ~ids, ids), ids < 0) for ids in stored]


def stored_utterances(
    texts: DialogTokenizer, turns: Sequence[Turn], folder: Path
) -> StoredUtterances:
    """Token files of the utterances of a corpus, once for each content, tokenizer and length."""

    def contents() -> Iterator[str]:
        yield str(sorted(texts.tokenizer.get_vocab().items()))
        yield str(texts.max_length)
        for turn in turns:
            yield f"{turn.user} {turn.text}"
            yield from value_texts(turn)

    def tokenise(part: range) -> list[list[int]]:
        rows: list[list[int]] = []
        for start in range(part.start, part.stop, TOKENISED):
            said = texts.utterances(turns[start : min(start + TOKENISED, part.stop)])
            rows += [np.where(u.values, ~u.ids, u.ids).tolist() for u in said]
        return rows

    owner = content_digest(contents())
    paths = write_token_files(folder / owner[:24], owner, len(turns), tokenise)
    return StoredUtterances(TokenTexts(paths))


def sets_of(frame: Frame, score: str, views: Sequence[str]) -> list[np.ndarray]:
    """The K sets whose Jaccard index weighs a pair: the tree, the tree as one id, or none."""
    if score in ("tree", "combined"):
        return tree_ids(frame, views)
    tree_id = whole_tree_id(frame) if score == "hard" else np.empty(0, dtype=np.int64)
    return [tree_id] * len(views)


def tree_batch(
    corpora: Sequence[Examples],
    seed: int,
    num_views: int,
    ratio: int,
    masks: bool,
    places: Sequence[tuple[int, int]],
    epoch: int,
) -> TreeBatch:
    """Batch of (corpus, row) places; a place stands for `ratio` rows, far apart in the corpus.

    Raises:
        ValueError: rows of two corpora, whose trees are never compared.
    """
    # far apart: turns that follow each other share most of their tokens
    apart = [len(e) // ratio for e in corpora]
    chosen = [(c, row + i * apart[c]) for c, row in places for i in range(ratio)]
    if len({c for c, _ in chosen}) != 1 and any(
        len(s) for c, i in chosen for s in corpora[c].sets[i]
    ):
        raise ValueError("a labelled batch mixes corpora")
    rows = [corpora[c].row(i) for c, i in chosen]
    texts = corpora[chosen[0][0]].texts
    inputs = texts.pad(rows)
    batch: TreeBatch = {"inputs": inputs, "masked": inputs["input_ids"], "labels": torch.empty(0)}
    if masks:
        pairs = [
            texts.masked(row, sample_rng(seed, epoch, (c << _ROW_BITS) + i, _MASK_STREAM))
            for row, (c, i) in zip(rows, chosen, strict=True)
        ]
        batch["masked"] = padded_with([ids for ids, _ in pairs], texts.pad_id)[0]
        batch["labels"] = padded_with([labels for _, labels in pairs], -100)[0]
    sets = [corpora[c].sets[i] for c, i in chosen]
    batch["set_ids"] = [
        torch.from_numpy(np.concatenate([s[k] for s in sets])) for k in range(num_views)
    ]
    batch["set_counts"] = [torch.tensor([len(s[k]) for s in sets]) for k in range(num_views)]
    return batch


def labelled_corpora(cfg: Config) -> list[Corpus]:
    """Annotated corpora of the training part.

    Raises:
        UserError: absent folders or unknown names.
    """
    data = cfg.data
    if data.source == "corpora":
        return read_corpora(cfg, data.labelled, data.corpora)
    if data.source == "synthetic":
        return [sets.synthetic("train", cfg.seed), sets.synthetic("more", cfg.seed)]
    unknown = set(data.corpora) - {"sgd", "clinc"}
    if unknown:
        raise UserError(
            f"data.corpora: {', '.join(sorted(unknown))} is not bundled; choose of sgd, clinc"
        )
    names = data.corpora or ["sgd", "clinc"]
    return [
        sets.sgd("train", data.root) if n == "sgd" else sets.clinc("train", True, data.root)
        for n in names
    ]


def unlabelled_corpora(cfg: Config) -> list[Corpus]:
    """Corpora without annotation; raises as `labelled_corpora`."""
    if cfg.data.source == "corpora":
        return read_corpora(cfg, cfg.data.unlabelled, [])
    if cfg.data.source == "synthetic":
        return [sets.synthetic("unlabelled", cfg.seed)]
    return [sets.slurp(cfg.data.root)]


def read_corpora(cfg: Config, folder: str, names: Sequence[str]) -> list[Corpus]:
    """Corpora of a folder in the released form, in the order of their names.

    Of a whole folder those are left out, and counted, that the release leaves out by their names.
    """
    place = require(
        data_root(cfg.data.root) / folder,
        what=folder,
        layout="one folder a corpus with train.json",
        source="AlibabaResearch/DAMO-ConvAI, space-2",
        size="3 GB",
    )
    found = sorted(p for p in Path(place).iterdir() if p.is_dir())
    paths = [Path(place) / n for n in names] or [p for p in found if not p.name.endswith(LEFT_OUT)]
    if not paths:
        raise UserError(f"{place} has no corpus: a folder with train.json, see TASK=convert")
    if not names and len(paths) < len(found):
        warnings.warn(
            f"{place}: {len(found) - len(paths)} folders ending in {' or '.join(LEFT_OUT)} are left"
            " out, as released; name them in data.corpora to read them",
            stacklevel=2,
        )
    return [sets.read_corpus(path, "train") for path in paths]


def training_data(cfg: Config, texts: DialogTokenizer) -> ContrastiveData:
    """Both streams of a step, or one of them.

    Raises:
        UserError: see `labelled_corpora` and `corpora_stream`.
    """
    data, method = cfg.data, cfg.method
    size, streams, make = data.batch_size * world_size(cfg.trainer), {}, {}
    mlm, views = method.mlm_weight > 0, list(method.views)
    folder = Path(cfg.runs_dir) / "space2" / "tokens"
    if method.learning != "self":
        labelled = [Examples(c, texts, method.score, views, folder) for c in labelled_corpora(cfg)]
        streams["labelled"] = corpora_stream(
            [len(e) for e in labelled], cfg.seed, size, in_turn=data.in_turn, most=data.most
        )
        make["labelled"] = partial(tree_batch, labelled, cfg.seed, len(views), 1, mlm)
    if method.learning != "super":
        unlabelled = [Examples(c, texts, "none", views, folder) for c in unlabelled_corpora(cfg)]
        ratio = unlabelled_ratio(cfg)
        most = None if data.most is None else max(1, data.most // ratio)
        streams["unlabelled"] = corpora_stream(
            [len(e) // ratio for e in unlabelled],
            cfg.seed + 1,
            size,
            in_turn=data.in_turn,
            most=most,
        )
        make["unlabelled"] = partial(tree_batch, unlabelled, cfg.seed + 1, len(views), ratio, mlm)
    return ContrastiveData(
        PairedStreams(streams, make),
        batch_size=data.batch_size,
        seed=cfg.seed,
        num_workers=data.num_workers,
        shuffle=False,
    )


def unlabelled_ratio(cfg: Config) -> int:
    """Unlabelled examples of a place: a step has as many places of both streams."""
    data = cfg.data
    return data.batch_nolabel // data.batch_size if cfg.method.learning == "semi" else 1


def count_examples(cfg: Config) -> int:
    """Places of an epoch: those of the longer stream."""
    parts = []
    if cfg.method.learning != "self":
        parts.append((labelled_corpora(cfg), 1))
    if cfg.method.learning != "super":
        parts.append((unlabelled_corpora(cfg), unlabelled_ratio(cfg)))
    most = cfg.data.most
    counts = [[(len(user_turns(c.dialogs)), ratio) for c in part] for part, ratio in parts]
    return max(sum((n if most is None else min(n, most)) // r for n, r in part) for part in counts)


def move(batch: Any, device: torch.device) -> Any:
    """Tensors of a nested batch on a device."""
    if isinstance(batch, Tensor):
        return batch.to(device)
    if isinstance(batch, dict):
        return {k: move(v, device) for k, v in batch.items()}
    return [move(v, device) for v in batch] if isinstance(batch, list) else batch
