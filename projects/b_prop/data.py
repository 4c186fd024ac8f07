"""Documents of the pre-training and batches of pairs; groups of the fine-tuning stage."""

import copy
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypedDict

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from common.config import UserError
from common.data.lookup import data_root
from common.data.module import ContrastiveData
from common.data.samplers import Key, sample_rng
from common.data.splits import stable_fraction
from common.data.text.masking import IGNORED
from common.encoders.text.cross_encoder import SPECIAL_PIECES, CrossEncoder, pair_ids
from common.encoders.text.tower import load_tokenizer, load_transformer
from common.engine.experiment import Requirement, bundled_requirement, weights_requirement
from common.engine.module import freeze
from common.evaluation.retrieval.beir import RetrievalSet, load_titles
from common.evaluation.retrieval.runs import words_on_disk
from common.evaluation.retrieval.subsets import split_queries
from common.families.retrieval.sets import SYNTHETIC, read_set, set_folder
from projects.b_prop.config import Config
from projects.b_prop.distribution import WordSet
from projects.b_prop.documents import (
    COLLECTION,
    Analyser,
    Collection,
    Documents,
    PreparedDocuments,
    Row,
    num_candidates,
)
from projects.b_prop.groups import RankingGroups
from projects.b_prop.masking import mask_words
from projects.b_prop.reranking import first_stage, ranking_records
from projects.b_prop.word_attention import expose_attention, word_pieces
from projects.b_prop.words import WordSampler

BUNDLED = ("retrieval-cisi", "retrieval-npl")
SYNTHETIC_DOCUMENTS = 48
_PAIR, _MASK, _SKIP = (2**31 + k for k in (81, 82, 84))  # streams of randomness


Drawn = tuple[Row, tuple[WordSet, WordSet]]  # document and its sets, the better one first


class PairBatch(TypedDict):
    """P pairs; row 2i holds the more representative set of pair i, row 2i + 1 the other."""

    pairs: dict[str, Tensor]  # ids, mask and segments, (2 P, L) int64
    labels: Tensor  # (2 P, L) int64, masked words of the documents, -100 elsewhere
    ids: Tensor  # (P,) int64, documents


class PairBatches(Dataset[PairBatch]):
    """Map-style set of pairs of word sets, resampled in every epoch; returns whole batches.

    A sample is a pair: no sampler, loader process or rank can part its members. Sets and masks are
    functions of (seed, epoch, index).

    Args:
        documents: rows by index.
        kept: (K,) indices of the documents that are used.
        sampler: of word sets.
        ranker: its tokenizer and lengths.
        cfg: the experiment's config.

    Raises:
        UserError: no document is left.
    """

    def __init__(
        self,
        documents: Documents,
        kept: np.ndarray,
        sampler: WordSampler,
        ranker: CrossEncoder,
        cfg: Config,
    ) -> None:
        if not len(kept):
            raise UserError(
                f"no document has {cfg.data.min_words} words: lower data.min_words, or give others"
            )
        self.documents, self.kept, self.sampler, self.cfg = documents, kept, sampler, cfg
        self.tokenizer, self.max_length = ranker.tokenizer, ranker.max_length
        self.pad = ranker.pad

    def __len__(self) -> int:
        return len(self.kept) * self.cfg.data.pairs

    def row(self, index: int) -> Row:
        """The document of a pair."""
        return self.documents[int(self.kept[index // self.cfg.data.pairs])]

    def draw(self, index: int, epoch: int) -> Drawn:
        """Document and sets of a pair, the more representative set first."""
        row = self.row(index)
        return row, self.sampler.pair(row, sample_rng(self.cfg.seed, epoch, index, _PAIR))

    def __getitem__(self, keys: Sequence[Key]) -> PairBatch:
        """Batch of the given ``(index, epoch)`` keys."""
        return self.batch(keys, [self.draw(*key) for key in keys])

    def batch(self, keys: Sequence[Key], drawn: Sequence[Drawn]) -> PairBatch:
        """Batch of documents and sets; the keys give the masks and the ids."""
        rows, labels = [], []
        for (index, epoch), (row, sets) in zip(keys, drawn, strict=True):
            document = word_pieces(self.tokenizer, [row["text"]], self.cfg.data.max_document)[0]
            for member, (words, _) in enumerate(sets):
                rng = sample_rng(self.cfg.seed, epoch, index, _MASK + member)
                ids, segments, targets = self._member(words, document, rng)
                rows.append((ids, segments))
                labels.append((targets, segments))
        masked = self.pad(labels)
        return {
            "pairs": self.pad(rows),
            "labels": masked["input_ids"].masked_fill(masked["attention_mask"].eq(0), IGNORED),
            "ids": torch.tensor([int(self.kept[i // self.cfg.data.pairs]) for i, _ in keys]),
        }

    def _member(
        self, words: list[str], document: Any, rng: np.random.Generator
    ) -> tuple[list[int], list[int], list[int]]:
        """Ids, segments and labels of one (word set, document)."""
        pieces = self.tokenizer(" ".join(words), add_special_tokens=False)["input_ids"]
        # truncation takes from the document; a set that fills the input leaves it one piece
        pieces = pieces[: self.max_length - SPECIAL_PIECES - 1]
        ids, segments = pair_ids(pieces, document.ids, self.tokenizer, self.max_length)
        if not self.cfg.method.mlm:
            return ids, segments, [IGNORED] * len(ids)
        start = segments.index(1)
        allowed = np.array(segments) == 1
        allowed[-1] = False  # [SEP]
        continues = np.zeros(len(ids), dtype=bool)
        continues[start:-1] = document.continues[: len(ids) - start - 1]
        masked, labels = mask_words(
            np.array(ids),
            allowed,
            continues,
            rng,
            mask_id=self.tokenizer.mask_token_id,
            vocab_size=len(self.tokenizer),
            probability=self.cfg.method.mask_prob,
            most=self.cfg.method.max_predictions,
        )
        return masked.tolist(), segments, labels.tolist()


def kept_documents(documents: Documents, cfg: Config) -> np.ndarray:
    """Indices of documents with enough words; short ones are skipped at random, once for a seed."""
    data = cfg.data
    if isinstance(documents, PreparedDocuments):
        candidates, pieces = documents.candidates, documents.pieces
    else:
        rows = [documents[i] for i in range(len(documents))]
        candidates = np.array([num_candidates(row) for row in rows])
        pieces = np.array([row["pieces"] for row in rows])
    draws = sample_rng(cfg.seed, 0, 0, _SKIP).random(len(candidates))
    skipped = (pieces < data.short_pieces) & (draws < data.short_skip_prob)
    return np.flatnonzero((candidates >= data.min_words) & ~skipped)


def attention_source(cfg: Config, ranker: CrossEncoder | None) -> tuple[Any, Any]:
    """Tokenizer and frozen encoder whose attention makes the distribution.

    Unless the config names another one, it is a copy of the encoder that is going to be trained, as
    it is before the first step.

    Args:
        cfg: the experiment's config.
        ranker: before training; not needed with ``words.encoder``.

    Raises:
        UserError: an encoder that cannot return its attention.
    """
    if cfg.words.encoder is not None:
        tokenizer, encoder = load_tokenizer(cfg.words.encoder), load_transformer(cfg.words.encoder)
    else:
        assert ranker is not None
        tokenizer, encoder = ranker.tokenizer, copy.deepcopy(ranker.encoder)
    if torch.cuda.is_available() and cfg.trainer.accelerator != "cpu":
        encoder.to("cuda")
    return tokenizer, freeze(expose_attention(encoder))


def attention_settings(cfg: Config) -> dict[str, Any]:
    """Where the attention of a config comes from: the weights that are trained, unless named."""
    words = cfg.words
    return {
        "encoder": words.encoder or cfg.model.pretrained,
        "layer": words.layer,
        "heads": words.heads,
        "parity_extraction": words.parity_extraction,
    }


def analyser(cfg: Config, tokenizer: Any, encoder: Any, batch_size: int) -> Analyser:
    """Cuts documents to what both the encoder and the config allow."""
    limit = cfg.data.max_document
    if encoder is not None:
        limit = min(limit, encoder.config.max_position_embeddings - 2)
    return Analyser(tokenizer, encoder, cfg.words, limit, batch_size, cfg.prepare.keep_words)


def analyse(cfg: Config, ranker: CrossEncoder, texts: Mapping[str, str]) -> list[Row]:
    """Words of texts by name, with attention unless the distribution does without."""
    plain = cfg.words.distribution == "unigram"
    tokenizer, encoder = (ranker.tokenizer, None) if plain else attention_source(cfg, ranker)
    rows = [{"id": name, "text": text} for name, text in texts.items()]
    return analyser(cfg, tokenizer, encoder, cfg.prepare.batch_size)(rows)


def training_documents(cfg: Config, ranker: CrossEncoder) -> tuple[Documents, Collection]:
    """Documents of the config with their words, and their collection.

    Raises:
        UserError: missing files, or files that were made with other settings.
    """
    if cfg.data.source == "files":
        folder = documents_folder(cfg)
        source = None if cfg.words.distribution == "unigram" else attention_settings(cfg)
        collection = Collection.load(folder / COLLECTION, cfg.words, cfg.data.max_document, source)
        return PreparedDocuments(folder), collection
    if cfg.data.source == "synthetic":
        texts = read_set(SYNTHETIC, root=None, seed=cfg.seed).corpus
    else:
        texts = bundled_texts(cfg)
    rows = analyse(cfg, ranker, texts)
    return rows, Collection.of(rows, cfg.words)


def bundled_texts(cfg: Config) -> dict[str, str]:
    """Texts of the bundled sets without their titles, by set and id; of each set a part by hash.

    Queries and judgements are not read: they have no say in what is trained on.
    """
    texts: dict[str, str] = {}
    for name in BUNDLED:
        bodies = load_titles(set_folder(name, cfg.data.root))[1]
        named = {f"{name}/{i}": text for i, text in bodies.items() if text.strip()}
        kept = {*sorted(named, key=stable_fraction)[: cfg.data.max_documents]}
        texts |= {i: text for i, text in named.items() if i in kept}
    return texts


def documents_folder(cfg: Config) -> Path:
    """Folder of prepared documents: as named, or below the data root."""
    named = Path(str(cfg.data.documents)).expanduser()
    return named if named.is_dir() else data_root(cfg.data.root) / named


def given_file(cfg: Config, name: str) -> Path:
    """A file as named, or below the data root."""
    path = Path(name).expanduser()
    return path if path.is_file() else data_root(cfg.data.root) / path


def pretraining_data(cfg: Config, ranker: CrossEncoder) -> ContrastiveData:
    """Batches of pairs; the batch of the config counts inputs, two a pair."""
    documents, collection = training_documents(cfg, ranker)
    sampler = WordSampler(cfg.words, collection)
    pairs = PairBatches(documents, kept_documents(documents, cfg), sampler, ranker, cfg)
    return ContrastiveData(
        pairs,
        batch_size=cfg.data.batch_size // 2,
        seed=cfg.seed,
        num_workers=cfg.data.num_workers,
    )


def finetuning_data(cfg: Config, ranker: CrossEncoder) -> ContrastiveData:
    """Groups of judged queries, and held-out ones for the choice of a checkpoint.

    Raises:
        UserError: a missing set or run file, or no judged query.
    """
    options = cfg.finetune
    data = read_set(str(options.set), root=cfg.data.root, seed=cfg.seed)
    file = None if options.candidates is None else given_file(cfg, options.candidates)
    candidates = first_stage(data, options.depth, file, words_on_disk(cfg.runs_dir))

    def groups(part: RetrievalSet) -> RankingGroups:
        records = ranking_records(part, candidates)
        return RankingGroups(records, options.group_size, ranker.tokenize, cfg.seed)

    val = {}
    if options.val_queries:
        try:
            held_out, data = split_queries(data, options.val_queries)
        except ValueError as error:
            raise UserError(f"finetune.val_queries: {error}") from error
        val = {"ranking": FixedGroups(groups(held_out))}
    return ContrastiveData(
        groups(data),
        batch_size=options.batch_size,
        seed=cfg.seed,
        num_workers=cfg.data.num_workers,
        val=val,
    )


class FixedGroups(Dataset[Key]):
    """Groups of held-out queries, the same at every validation."""

    def __init__(self, groups: RankingGroups) -> None:
        self.groups = groups

    def __len__(self) -> int:
        return len(self.groups)

    def __getitem__(self, index: int) -> Key:
        return index, 0

    def collate(self, keys: Sequence[Key]) -> Any:
        """One batch of groups."""
        return self.groups[keys]


def requirements(cfg: Config) -> list[Requirement]:
    """Weights and data that the config needs."""
    needs = list(weights_requirement(cfg.model.pretrained))
    if cfg.words.encoder is not None and cfg.method.pretrain:
        needs += weights_requirement(cfg.words.encoder)
    if cfg.method.pretrain and cfg.data.source == "bundled":
        needs += [bundled_requirement(name) for name in BUNDLED]
    if cfg.method.pretrain and cfg.data.source == "files":
        path = documents_folder(cfg)
        hint = "prepared documents: make run PROJECT=b_prop CONFIG=<this one> TASK=prepare"
        needs.append(Requirement("data: documents", str(path), path.is_dir(), hint))
    sets = [*cfg.eval.sets, *([str(cfg.finetune.set)] if cfg.finetune.steps else [])]
    for name in dict.fromkeys(sets):
        if name != SYNTHETIC:
            path = set_folder(name, cfg.data.root)
            needs.append(
                Requirement(
                    f"data: {name}", str(path), path.is_dir(), "a folder in the BEIR layout"
                )
            )
    files = [
        *cfg.eval.candidates.values(),
        *([cfg.finetune.candidates] if cfg.finetune.candidates else []),
    ]
    for name in files:
        path = given_file(cfg, name)
        needs.append(
            Requirement(f"run: {name}", str(path), path.is_file(), "a run file in TREC's layout")
        )
    return needs
