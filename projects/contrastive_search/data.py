"""Lines that SimCTG is trained on, and held-out texts that are continued."""

import importlib.util
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import Dataset

from common.config import UserError
from common.data.lines import read_lines
from common.data.lookup import data_root, require
from common.data.module import ContrastiveData
from common.data.padding import TextInputs, padded
from common.data.samplers import Key, sample_rng
from common.data.tables import read_jsonl
from common.data.text.books import load_books
from common.data.text.synthetic import synthetic_sentences
from common.decoding.language_model import LanguageModel
from common.encoders.pretrained import resolve_pretrained
from common.engine.experiment import Requirement, bundled_requirement, weights_requirement
from projects.contrastive_search.config import Config

CHARACTERS = 12  # at least so many stand for a token when a passage is cut out of a chapter
NO_MAUVE = "install the 'eval' group, or set eval.mauve=false"
_STEP_STREAM = 72
WEBTEXT = (
    "a JSON-lines file with the field 'text' (webtext.test.jsonl)",
    "openai/gpt-2-output-dataset",
    "10 MB",
)
WIT = (
    "a JSON file {language: [text, ...]}",
    "yxuansu/Contrastive_Search_Is_What_You_Need",
    "100 MB",
)
LINES = (
    "a text file, one example per line (wiki.train.raw of WikiText-103)",
    "the Stephen Merity data page",
    "540 MB",
)


@dataclass(frozen=True)
class Passage:
    """A text whose beginning is continued."""

    group: str  # what it was taken from, such as a chapter
    prefix: list[int]  # token ids
    reference: list[int]  # how its author went on; empty where that is unknown


class Lines(Dataset[dict[str, Tensor]]):
    """One line an example, tokenised and cut; lines of one token or none are left out.

    Rows of a batch are resampled at every step, without replacement within it, as the released
    trainer does: the step's first key is the seed.

    Args:
        lines: texts.
        tokenizer: of the language model.
        length: tokens, the rest is cut.
        seed: of the draws.
        shuffled: False gives the rows of the keys (development lines).

    Raises:
        UserError: no line has two tokens.
    """

    def __init__(
        self, lines: Sequence[str], tokenizer: Any, length: int, seed: int, *, shuffled: bool = True
    ) -> None:
        ids = tokenizer(list(lines), truncation=True, max_length=length, verbose=False)["input_ids"]
        self.rows = [row for row in ids if len(row) > 1]
        if not self.rows:
            raise UserError("the training text has no line of two tokens or more")
        # an explicit mask tells padding, so that a true end-of-text token stays one
        pad = tokenizer.pad_token_id
        self.pad = int(pad if pad is not None else tokenizer.eos_token_id or 0)
        self.seed, self.shuffled = seed, shuffled

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, keys: Sequence[Key] | int) -> Any:
        """A training batch (B, L + 1) for keys (index, epoch); the ids of a row for an index."""
        if isinstance(keys, int):
            return self.rows[keys]
        index = [i for i, _ in keys]
        if self.shuffled:
            rng = sample_rng(self.seed, keys[0][1], keys[0][0], _STEP_STREAM)
            index = rng.choice(len(self), len(keys), replace=False).tolist()
        return {**padded([self.rows[i] for i in index], self.pad), "ids": torch.tensor(index)}

    def collate(self, rows: Sequence[list[int]]) -> TextInputs:
        """Development batch."""
        return padded(rows, self.pad)


def training_lines(cfg: Config, part: str = "train") -> list[str]:
    """Texts of the training set, or of the development set ("dev").

    Raises:
        UserError: a missing file.
    """
    data = cfg.data
    if data.source == "synthetic":
        return synthetic_sentences(64, seed=cfg.seed + (part == "dev"))
    if data.source == "books":
        chapters = load_books(data.root, "dev" if part == "dev" else "train")
        return [p for chapter in chapters for p in chapter.paragraphs][: data.limit]
    name = data.dev_file if part == "dev" else data.file
    if name is None:
        return []
    path = data_root(data.root) / name
    layout, source, size = LINES
    require(path, what="SimCTG's training text", layout=layout, source=source, size=size)
    return read_lines(path)[: data.limit]


def build_data(cfg: Config, tokenizer: Any) -> ContrastiveData:
    """Training and development lines."""
    data = cfg.data
    val = {}
    if cfg.trainer.val_every_n_steps is not None and (dev := training_lines(cfg, "dev")):
        val["lines"] = Lines(dev, tokenizer, data.length, cfg.seed, shuffled=False)
    return ContrastiveData(
        Lines(training_lines(cfg), tokenizer, data.length, cfg.seed),
        batch_size=data.batch_size,
        seed=cfg.seed,
        num_workers=data.num_workers,
        val=val,
    )


def passages(cfg: Config, lm: LanguageModel) -> list[Passage]:
    """The texts of the evaluation set, cut into prefix and reference by the model's tokenizer.

    Raises:
        UserError: a missing file, an unknown language, or no text that is long enough.
    """
    section = cfg.eval
    if section.source == "books":
        return book_passages(cfg, lm)
    if section.source == "synthetic":
        words = synthetic_sentences(12 * section.num_prefixes, seed=cfg.seed)
        texts = [" ".join(words[i :: section.num_prefixes]) for i in range(section.num_prefixes)]
    else:
        layout, source, size = WEBTEXT if section.source == "webtext" else WIT
        path = data_root(cfg.data.root) / str(section.file)
        require(path, what=f"eval.file ({section.source})", layout=layout, source=source, size=size)
        if path.suffix == ".txt":
            texts = read_lines(path)
        elif section.source == "webtext":
            texts = [row["text"] for row in read_jsonl(path, ("text",))]
        else:
            texts = language_texts(path, section.language)
    cuts = [cut for i, text in enumerate(texts) if (cut := _cut(cfg, lm, str(i), text))]
    if not cuts:
        needed = section.prefix_tokens + section.new_tokens
        raise UserError(
            f"no text of eval.file has {needed} tokens: lower eval.prefix_tokens or eval.new_tokens"
        )
    return cuts[: section.num_prefixes]


def book_passages(cfg: Config, lm: LanguageModel) -> list[Passage]:
    """As many passages of each held-back chapter, which begin with paragraphs evenly spaced in it.

    Raises:
        UserError: too few chapters that are long enough.
    """
    section, each = cfg.eval, cfg.eval.per_chapter
    long = (section.prefix_tokens + section.new_tokens) * CHARACTERS
    chosen = []
    for chapter in load_books(cfg.data.root, section.part):
        text = "\n".join(chapter.paragraphs)
        places, at = [], 0
        for paragraph in chapter.paragraphs:
            places += [at] if at + long <= len(text) else []
            at += len(paragraph) + 1
        if len(places) >= each:
            starts = [places[i * len(places) // each] for i in range(each)]
            chosen.append((f"{chapter.book}/{chapter.name}", [text[s : s + long] for s in starts]))
    count = -(-section.num_prefixes // each)
    if count > len(chosen):
        raise UserError(
            f"eval.num_prefixes={section.num_prefixes}: the {section.part} chapters give"
            f" {len(chosen) * each}"
        )
    spaced = [chosen[i * len(chosen) // count] for i in range(count)]
    cuts = [_cut(cfg, lm, group, text) for group, texts in spaced for text in texts]
    return [passage for passage in cuts if passage is not None][: section.num_prefixes]


def language_texts(path: Path, language: str) -> list[str]:
    """Texts of a language from a JSON file {language: [text, ...]}.

    Raises:
        UserError: another content, or no such language.
    """
    try:
        by_language = json.loads(path.read_text(encoding="utf-8-sig"))
        return [str(text) for text in by_language[language]]
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(
            f"{path} must be JSON {{language: [text, ...]}} with '{language}'"
        ) from error


def requirements(cfg: Config) -> tuple[Requirement, ...]:
    """Data that the config reads."""
    needed = []
    trained = cfg.method.train
    if cfg.eval.source == "books" or (trained and cfg.data.source == "books"):
        needed.append(bundled_requirement("books-en"))
    files = [(cfg.data.file, LINES), (cfg.data.dev_file, LINES)] if trained else []
    files.append((cfg.eval.file, WEBTEXT if cfg.eval.source == "webtext" else WIT))
    root = Path(cfg.data.root or "data")
    for name, (layout, source, size) in files:
        if name is not None:
            place = root / name
            needed.append(
                Requirement(
                    f"data: {name}", str(place), place.is_file(), f"{layout}; {source}; {size}"
                )
            )
    return tuple(needed)


def judge_weights(cfg: Config) -> list[str]:
    """Language models that judge continuations, besides the one that writes them."""
    named = [name for name in cfg.eval.scorers if name != "trigram"]
    if cfg.eval.mauve and cfg.eval.mauve_features is not None:
        named.append(cfg.eval.mauve_features)
    return list(dict.fromkeys(named))


def judge_requirements(cfg: Config) -> tuple[Requirement, ...]:
    """Weights and the library that the evaluation needs after training and decoding."""
    needed = [r for name in judge_weights(cfg) for r in weights_requirement(name)]
    if cfg.eval.mauve:
        there = importlib.util.find_spec("mauve") is not None
        needed.append(Requirement("library: mauve-text", "group eval", there, NO_MAUVE))
    return tuple(needed)


def check_judges(cfg: Config) -> None:
    """Refuse, before the work, an evaluation that could not be finished.

    Raises:
        UserError: absent weights of a judge that cannot be downloaded, or no library for MAUVE.
    """
    for name in judge_weights(cfg):
        resolve_pretrained(name)
    if cfg.eval.mauve and importlib.util.find_spec("mauve") is None:
        raise UserError(f"eval.mauve needs the package mauve-text: {NO_MAUVE}")


def _cut(cfg: Config, lm: LanguageModel, group: str, text: str) -> Passage | None:
    """First tokens as prefix, the next as reference; None for a text that is too short."""
    first, whole = cfg.eval.prefix_tokens, cfg.eval.prefix_tokens + cfg.eval.new_tokens
    ids = lm.token_ids(text, special=True)
    return Passage(group, ids[:first], ids[first:whole]) if len(ids) >= whole else None
