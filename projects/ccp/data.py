"""Documents by language: synthetic, bundled books with a simulated language, or files."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import Dataset

from common.config import UserError
from common.data.lookup import data_root
from common.data.module import ContrastiveData
from common.data.retrieval.passages import PassageBatches, PassageRecord
from common.data.samplers import sample_rng
from common.data.text.books import Part, halves, load_books
from common.data.text.normalize import text_preparation
from common.data.text.synthetic import synthetic_sentences
from common.encoders.text.sentence import SentenceEncoder
from common.engine.experiment import Requirement, bundled_requirement, weights_requirement
from common.engine.trainer import world_size
from common.families.retrieval.config import RetrievalEval
from common.families.retrieval.finetuning import finetuning_data, passage_batches, questions
from common.families.retrieval.sets import set_folder
from projects.ccp.config import SIMULATED, Config
from projects.ccp.neighbours import (
    ContextBatch,
    ContextPairs,
    DocumentFile,
    Documents,
    LanguageText,
    Masking,
    draw_context,
    in_blocks,
    language_mixture,
)
from projects.ccp.towers import Towers, language_view

ENGLISH = "en"
MIN_WORDS, MAX_WORDS = 5, 40  # of a bundled sentence
VAL_PAIRS = 256  # of a language, or one global batch if that is more
_SYNTHETIC_DOCUMENTS, _SYNTHETIC_SENTENCES = 24, 8
_VAL_STREAM = 2**31 + 73


def training_documents(cfg: Config) -> dict[str, Documents]:
    """Documents by language, in the order of the bank's language ids.

    Raises:
        UserError: a missing file.
    """
    if cfg.data.source == "files":
        return {name: training for name, (training, _) in _files(cfg).items()}
    if cfg.data.source == "synthetic":
        every = _synthetic(cfg.seed)
        half = len(every) // 2
        return {ENGLISH: every[:half], SIMULATED: every[half:]}
    first, second = halves(load_books(cfg.data.root, "train"))  # no chapter is in both languages
    size = cfg.data.block
    return {
        ENGLISH: [
            block for document in first for block in in_blocks(_kept(document.sentences), size)
        ],
        SIMULATED: [
            block for document in second for block in in_blocks(_kept(document.sentences), size)
        ],
    }


class Stretch(Sequence[Sequence[str]]):
    """Documents ``[first, last)`` of others, read when they are asked for."""

    def __init__(self, documents: Documents, first: int, last: int) -> None:
        self.documents, self.first, self.last = documents, first, last

    def __len__(self) -> int:
        return self.last - self.first

    def __getitem__(self, index: Any) -> Any:
        if not 0 <= index < len(self):
            raise IndexError(f"document {index} of {len(self)}")
        return self.documents[self.first + index]


def _files(cfg: Config) -> dict[str, tuple[Documents, Documents]]:
    """Documents of each file that are trained on, and the last ones, which are held out."""
    parts: dict[str, tuple[Documents, Documents]] = {}
    held = cfg.data.heldout_documents
    for name, place in cfg.data.languages.items():
        every = DocumentFile(below(cfg, place))
        border = len(every) - held
        if border < 1:
            raise UserError(
                f"{every.path} has {len(every)} documents, and data.heldout_documents={held} leaves"
                " none of them for the training"
            )
        parts[name] = Stretch(every, 0, border), Stretch(every, border, len(every))
    return parts


def validation_documents(cfg: Config) -> dict[str, Documents]:
    """Documents by language, in the order of `training_documents`, that no training sees."""
    if cfg.data.source == "files":
        return {name: held for name, (_, held) in _files(cfg).items() if len(held)}
    blocks = [
        block
        for document in heldout_documents(cfg)
        for block in in_blocks(document, cfg.data.block)
    ]
    return {ENGLISH: blocks, SIMULATED: blocks}


def heldout_documents(cfg: Config) -> list[list[str]]:
    """Whole documents that no training sees; empty for files, which are evaluated by their sets."""
    if cfg.data.source == "files":
        return []
    if cfg.data.source == "synthetic":
        return _synthetic(cfg.seed + 1)[: _SYNTHETIC_DOCUMENTS // 2]
    part: Part = cfg.eval.part
    return [_kept(chapter.sentences) for chapter in load_books(cfg.data.root, part)]


def _kept(sentences: Sequence[str]) -> list[str]:
    return [s for s in sentences if MIN_WORDS <= len(s.split()) <= MAX_WORDS]


def _synthetic(seed: int) -> list[list[str]]:
    """Documents whose sentences share their first words."""
    texts = synthetic_sentences(_SYNTHETIC_DOCUMENTS * (_SYNTHETIC_SENTENCES + 1), seed=seed)
    size = _SYNTHETIC_SENTENCES + 1
    groups = [texts[i : i + size] for i in range(0, len(texts), size)]
    return [[f"{topic} {s}" for s in sentences] for topic, *sentences in groups]


def below(cfg: Config, place: str) -> Path:
    """A file as named, or below the data root."""
    path = Path(place).expanduser()
    return path if path.is_file() else data_root(cfg.data.root) / path


def calibration_sentences(cfg: Config, language: str, without: Sequence[str]) -> list[str]:
    """Monolingual sentences of the training side, none of which is scored.

    Args:
        cfg: the experiment's config; ``eval.monolingual`` comes before ``data.languages``.
        language: whose.
        without: sentences of the test, which are left out.

    Raises:
        UserError: no text of the language.
    """
    if language in cfg.eval.monolingual:
        documents: Documents = DocumentFile(below(cfg, cfg.eval.monolingual[language]))
    else:
        documents_of = training_documents(cfg)
        if language not in documents_of:
            raise UserError(
                f"calibration of '{language}' needs training sentences: give a .jsonl file in "
                f"eval.monolingual.{language}"
            )
        documents = documents_of[language]
    prepare = text_preparation(cfg.eval.normalize_text, cfg.eval.lower_case)
    tested, sentences = {prepare(text) for text in without}, list[str]()
    order = sample_rng(cfg.seed, 0, 0, _VAL_STREAM).permutation(len(documents))
    for index in order:
        sentences += [s for s in documents[int(index)] if prepare(s) not in tested]
        if len(sentences) >= cfg.eval.calibration_texts:
            break
    if len(sentences) < 2:
        raise UserError(
            f"calibration of '{language}' needs two or more sentences that are not scored, "
            f"got {len(sentences)}"
        )
    return sentences[: cfg.eval.calibration_texts]


def pretraining_data(cfg: Config, towers: Towers) -> ContrastiveData:
    """Batches of neighbouring sentences; held-out pairs of every language for the validation.

    Raises:
        UserError: a bank whose rows of a language are fewer than a step writes, a language with
            fewer documents than a batch has pairs, or too few held-out documents.
    """
    encoder, data, method = towers.passage, cfg.data, cfg.method
    by_language = training_documents(cfg)
    views = {n: language_view(encoder, n, _limit(cfg, encoder)).tokenize for n in by_language}
    languages = [LanguageText(name, texts, views[name]) for name, texts in by_language.items()]
    together = data.batch_size * world_size(cfg.trainer)
    rows = method.bank_size // len(by_language)
    if method.language_bank and rows < 2 * together:
        raise UserError(
            f"method.bank_size={method.bank_size} gives each of {len(by_language)} languages {rows}"
            f" rows, and one step writes {2 * together} of one language: it takes"
            f" {2 * together * len(by_language)} or more"
        )
    for name, texts in by_language.items():
        if len(texts) < together:
            raise UserError(
                f"'{name}' has {len(texts)} documents to train on, and a batch of all ranks"
                f" {together} pairs of one language: sentences of one document would be negatives"
                " of each other; use more text, a smaller data.batch_size, or leave the"
                " language out"
            )
    mixture = language_mixture(
        [len(texts.documents) for texts in languages], data.sampling_exponent, cfg.seed, together
    )
    masking = None
    if method.mlm_weight:
        tokenizer, model = encoder.tokenizer, encoder.tower.model
        masking = Masking(
            method.mlm_every,
            method.mlm_probability,
            tokenizer.mask_token_id,
            int(model.config.vocab_size),
            tokenizer.all_special_ids,
        )
    train = ContextPairs(languages, mixture, window=data.window, seed=cfg.seed, masking=masking)
    val: dict[str, HeldoutPairs] = {}
    if cfg.trainer.val_every_n_steps:
        for i, (name, documents) in enumerate(validation_documents(cfg).items()):
            chosen = _whole_batches(documents, together, name)
            val[name] = HeldoutPairs(chosen, views[name], data.window, cfg.seed, i)
    return ContrastiveData(
        train,
        batch_size=data.batch_size,
        seed=cfg.seed,
        num_workers=data.num_workers,
        val=val,
        shuffle=False,
    )


def _whole_batches(documents: Documents, size: int, name: str) -> list[Sequence[str]]:
    """Documents, spread evenly, that fill batches as large as those of the training."""
    count = min(len(documents), max(size, VAL_PAIRS)) // size * size
    if not count:
        raise UserError(
            f"the validation needs {size} held-out documents of '{name}', a batch of all ranks, and"
            f" there are {len(documents)}: set data.heldout_documents (files) or"
            " trainer.val_every_n_steps=null"
        )
    return [documents[i * len(documents) // count] for i in range(count)]


def _limit(cfg: Config, encoder: SentenceEncoder) -> int:
    return min(cfg.data.max_length, encoder.max_length or cfg.data.max_length)


class HeldoutPairs(Dataset[tuple[str, str]]):
    """One pair of each held-out document of a language.

    Args:
        documents: of two or more sentences.
        tokenize: texts -> ids and mask.
        window: w.
        seed: of the draw.
        language: its number.
    """

    def __init__(
        self,
        documents: Documents,
        tokenize: Callable[..., Any],
        window: int,
        seed: int,
        language: int = 0,
    ) -> None:
        self.tokenize, self.pairs, self.language = tokenize, list[tuple[str, str]](), language
        for i, document in enumerate(documents):
            rng = sample_rng(seed, 0, i, _VAL_STREAM)
            center = int(rng.integers(len(document)))
            context = draw_context(rng, center, len(document), window)
            self.pairs.append((document[center], document[context]))

    def __len__(self) -> int:
        return len(self.pairs)

    def __getitem__(self, index: int) -> tuple[str, str]:
        return self.pairs[index]

    def collate(self, rows: Sequence[tuple[str, str]]) -> Mapping[str, Any]:
        """A batch as that of the training."""
        texts = [center for center, _ in rows] + [context for _, context in rows]
        inputs: ContextBatch = {
            "inputs": self.tokenize(texts),
            "language": torch.full((len(rows),), self.language),
            "ids": torch.arange(len(rows)),
        }
        return inputs


def dpr_record(record: PassageRecord) -> PassageRecord:
    """A question as the release reads it: without a "?" at its end, with its first positive alone.

    Source: released code of CCP (DPR's reader of NQ).
    """
    return replace(
        record, question=record.question.removesuffix("?"), positives=record.positives[:1]
    )


def tuning_data(cfg: Config, towers: Towers) -> ContrastiveData:
    """Batches of questions with passages, and questions of the development set if one is named."""
    options = cfg.finetune
    pairs = finetuning_data(
        cfg, options, towers.passage, [dpr_record(r) for r in questions(cfg, options.file)]
    )
    if options.dev_file is not None:
        records = [dpr_record(r) for r in questions(cfg, options.dev_file)]
        pairs.val_sets = {
            "dev": DevQuestions(passage_batches(records, options, towers.passage, cfg.seed))
        }
        pairs.eval_batch_size = options.dev_batch_size
    return pairs


class DevQuestions(Dataset[int]):
    """Indices of questions, gathered to batches as in training."""

    def __init__(self, batches: PassageBatches) -> None:
        self.batches = batches

    def __len__(self) -> int:
        return len(self.batches)

    def __getitem__(self, index: int) -> int:
        return index

    def collate(self, rows: Sequence[int]) -> Mapping[str, Any]:
        """Questions and passages of the first draw."""
        return self.batches[[(index, 0) for index in rows]]


def requirements(cfg: Config) -> list[Requirement]:
    """Weights and training data that the config needs."""
    needs = list(weights_requirement(cfg.model.pretrained))
    need = partial(_file, cfg)
    if cfg.method.pretrain and cfg.data.source == "bundled":
        needs.append(bundled_requirement("books-en"))
    if cfg.method.pretrain:
        hint = "documents of sentences: make run PROJECT=ccp TASK=split"
        needs += [need(f"data: {name}", place, hint) for name, place in cfg.data.languages.items()]
    files = {"questions": cfg.finetune.file, "questions (dev)": cfg.finetune.dev_file}
    if cfg.finetune.steps:
        hint = "questions with passages in DPR's layout; the card, Data, names where they come from"
        needs += [need(f"data: {n}", f, hint) for n, f in files.items() if f]
    return needs + evaluation_files(cfg)


def evaluation_files(cfg: Config) -> list[Requirement]:
    """Bitext, text to calibrate with, and XOR-Retrieve; the sets of the family are added there."""
    places: dict[str, Path] = {}
    for pair, place in cfg.eval.bitext.items():
        prefix = bitext_prefix(cfg, place)
        for side in prefix.name.split("-"):
            places[f"{pair} {side}"] = prefix.parent / f"tatoeba.{prefix.name}.{side}"
    places |= {f"calibration {n}": below(cfg, place) for n, place in cfg.eval.monolingual.items()}
    for place in cfg.eval.xor:
        folder = set_folder(place, cfg.data.root)
        places[f"{folder.name} corpus"] = folder / "corpus.jsonl"
        places[f"{place} questions"] = folder / xor_file(place)
    return [
        Requirement(f"data: {name} (evaluation)", str(path), path.is_file(), "see the card, Data")
        for name, path in places.items()
    ]


def bitext_prefix(cfg: Config, place: str) -> Path:
    """Folder and pair of a bitext, absolute or below the data root."""
    path = Path(place).expanduser()
    return path if path.is_absolute() else data_root(cfg.data.root) / path


def xor_file(place: str) -> str:
    """File of the questions of a set of ``eval.xor``."""
    language = place.partition("@")[2]
    return f"questions.{language}.jsonl" if language else "questions.jsonl"


def _file(cfg: Config, name: str, place: str, hint: str) -> Requirement:
    path = below(cfg, place)
    return Requirement(name, str(path), path.is_file(), hint)


def encode_language(
    towers: Towers, texts: Sequence[str], language: str, options: RetrievalEval
) -> Tensor:
    """Vectors (N, D) of sentences of a language, with the passage tower.

    Args:
        towers: in evaluation mode.
        texts: N sentences.
        language: whose.
        options: section of the config: batch size and preparation of texts, as in a search.
    """
    prepare = text_preparation(options.normalize_text, options.lower_case)
    view = language_view(towers.passage, language)
    return view.encode([prepare(text) for text in texts], options.batch_size)
