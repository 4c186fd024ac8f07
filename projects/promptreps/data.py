"""Glosses with their words; questions with groups of passages."""

import math
import random
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import Dataset

from common.config import UserError
from common.data.lookup import bundled, data_root
from common.data.module import ContrastiveData
from common.data.retrieval.readers import read_records
from common.data.retrieval.records import EmbeddingRecord
from common.data.samplers import Key, sample_rng
from common.data.splits import sentence_split
from common.data.tables import read_jsonl
from common.data.text.lexical import words
from common.encoders.text.template import plain_ids
from common.engine.experiment import Requirement, bundled_requirement, weights_requirement
from common.evaluation.retrieval.beir import load_corpus
from common.evaluation.retrieval.subsets import synthetic_set
from projects.promptreps.config import Config
from projects.promptreps.encoder import PromptRepsEncoder, variant
from projects.promptreps.lexical.lexical_head import LEFT_OUT
from projects.promptreps.prompt import QUOTE, ROLES, Role

_WORD_STREAM = 2**31 + 97
SYNTHETIC = 64


@dataclass(frozen=True)
class WordedText:
    """A text and words that say what it is about."""

    text: str
    words: tuple[str, ...]


def worded_texts(cfg: Config, *, held_out: bool = False) -> list[WordedText]:
    """What the answer stage learns from.

    Args:
        cfg: the experiment's config.
        held_out: the twentieth of the glosses, by hash, that is never learnt, instead of the
            others.

    Raises:
        UserError: a missing or broken file, or one without a row.
    """
    options = cfg.instruct
    if options.source == "synthetic":
        texts = synthetic_set(SYNTHETIC, seed=cfg.seed).corpus.values()
        worded = [WordedText(text, (text.split()[0].lower(),)) for text in texts]
    elif options.source == "keywords":
        worded = keyword_texts(cfg, held_out)
    elif options.source == "glosses":
        worded = []
        for row in read_jsonl(bundled("wordnet", cfg.data.root) / "synsets.jsonl.gz"):
            words = tuple(w.lower() for w in row["lemmas"] if w.isalpha())  # single words
            if words and (sentence_split(row["definition"]) == "train") != held_out:
                worded.append(WordedText(row["definition"], words))
    else:
        path = file_of(cfg, str(options.file))
        rows = read_jsonl(path, ("text", "words"))
        for number, row in enumerate(rows, 1):
            spelt = row["words"] if isinstance(row["words"], list) else [None]
            if not isinstance(row["text"], str) or not all(
                isinstance(w, str) and w.strip() for w in spelt
            ):
                raise UserError(
                    f"{path}, row {number}: 'text' must be a text and 'words' a list of words"
                )
        worded = [WordedText(row["text"], tuple(row["words"])) for row in rows if row["words"]]
    if not worded:
        raise UserError("instruct: there is no text with a word to learn from")
    return worded


def keyword_texts(cfg: Config, held_out: bool) -> list[WordedText]:
    """Texts with their words of the largest tf-idf, as an assistant would name what they are about.

    Raises:
        UserError: a set that is not bundled.
    """
    options, texts = cfg.instruct, list[str]()
    for name in options.texts:
        folder = bundled(name, cfg.data.root)
        if name == "wikides":
            texts += [row["source"] for row in read_jsonl(folder / "train.jsonl.gz")]
        elif name == "sentences-en":
            rows = read_jsonl(folder / "sentences.jsonl.gz")
            texts += [row["text"] for row in rows if row["source"] == "wiki"]
        else:
            texts += load_corpus(folder).values()
    texts = [t for t in dict.fromkeys(texts) if (sentence_split(t) == "train") != held_out]
    split = [
        [w for w in words(text) if w.isalpha() and len(w) > 2 and w not in LEFT_OUT]
        for text in texts
    ]
    frequency = Counter(word for row in split for word in set(row))
    worded = []
    for text, row in zip(texts, split, strict=True):
        score = {w: n * math.log(len(texts) / frequency[w]) for w, n in Counter(row).items()}
        best = sorted(score, key=lambda w: (-score[w], w))[: options.words]
        if len(row) >= options.words:
            worded.append(WordedText(text, tuple(best)))
    return worded


@dataclass
class AnswerBatches(Dataset[dict[str, Tensor]]):
    """Prompts with the answer behind them; role and word depend on (seed, epoch, index).

    Attributes:
        texts: what is learnt from.
        encoder: for prompts and tokenizer; its config says whether the text stands in the prompt.
        seed: the experiment's seed.
        length: tokens of a text.
    """

    texts: Sequence[WordedText]
    encoder: PromptRepsEncoder
    seed: int
    length: int = 48

    def __len__(self) -> int:
        return len(self.texts)

    def example(self, index: int, epoch: int) -> tuple[list[int], list[int]]:
        """Ids of prompt and answer; the answer ends with the closing quote, or the end of text."""
        item, rng = self.texts[index], sample_rng(self.seed, epoch, index, _WORD_STREAM)
        role: Role = ROLES[int(rng.integers(2))]
        word = item.words[int(rng.integers(len(item.words)))]
        (prompt,) = self.encoder.rows([item.text], role, self.length)
        tokenizer = self.encoder.lm.tokenizer
        if self.encoder.prompt.framed:
            answer, quote = plain_ids(tokenizer, [word, QUOTE])
            return prompt, answer + quote
        end = tokenizer.eos_token_id
        return prompt, plain_ids(tokenizer, [f" {word}"])[0] + ([] if end is None else [end])

    def __getitem__(self, keys: Sequence[Key]) -> dict[str, Tensor]:
        """Prompts with an answer.

        Returns:
            ``input_ids``, ``attention_mask``; ``labels`` (B, L), the next token where it is learnt,
            else -1; ``first`` (B, K), first tokens of all words of the text, filled up with -1.
        """
        pairs = [self.example(*key) for key in keys]
        batch = self.encoder.lm.pad([prompt + answer[:-1] for prompt, answer in pairs])
        labels = torch.full_like(batch["input_ids"], -1)
        for row, (prompt, answer) in zip(labels, pairs, strict=True):
            row[len(prompt) - 1 : len(prompt) - 1 + len(answer)] = torch.tensor(answer)
        firsts = [first_tokens(self.encoder, self.texts[index].words) for index, _ in keys]
        first = torch.full((len(keys), max(map(len, firsts))), -1)
        for row, item in zip(first, firsts, strict=True):
            row[: len(item)] = torch.tensor(item)
        return {
            **batch,
            "labels": labels,
            "first": first,
            "ids": torch.tensor([i for i, _ in keys]),
        }


def first_tokens(encoder: PromptRepsEncoder, words: Sequence[str]) -> list[int]:
    """First token of each word's answer: after a bare text a space comes before the word."""
    space = "" if encoder.prompt.framed else " "
    return [ids[0] for ids in plain_ids(encoder.lm.tokenizer, [space + word for word in words])]


def group_of(record: EmbeddingRecord, size: int, seed: int, index: int, epoch: int) -> list[str]:
    """A positive and size - 1 negatives of a question; both rotate with the epoch.

    Source: Tevatron's training set (released code), arXiv 2203.05765: the order of the negatives is
    fixed for a question, and each epoch goes on where the one before stopped.

    Args:
        record: of the question; without a negative its group is the positive alone.
        size: g.
        seed: the experiment's.
        index: of the question.
        epoch: number of passes before this one.

    Raises:
        UserError: a question without negatives, and g > 1.
    """
    base = hash(index + seed)  # of an int: the same in every process
    positive = record.positives[(base + epoch) % len(record.positives)]
    count, pool = size - 1, list(record.negatives)
    if not count:
        return [positive]
    if not pool:
        raise UserError(
            f"question {record.query[:60]!r} has no negative passage: mine some, or set "
            "data.group_size=1"
        )
    if len(pool) < count:
        return [positive, *random.Random(f"{base} {epoch}").choices(pool, k=count)]
    random.Random(base).shuffle(pool)
    start = epoch * count % len(pool)
    return [positive, *(pool * 2)[start : start + count]]


@dataclass
class GroupBatches(Dataset[dict[str, Any]]):
    """Questions with groups of passages, as prompts with the tokens of their texts.

    Attributes:
        records: the questions.
        encoder: for prompts and tokens.
        cfg: the experiment's config.
    """

    records: Sequence[EmbeddingRecord]
    encoder: PromptRepsEncoder
    cfg: Config

    def __len__(self) -> int:
        return len(self.records)

    def __getitem__(self, keys: Sequence[Key]) -> dict[str, Any]:
        """``query`` (B texts), ``passage`` (B * g, a query's together, the positive first)."""
        data = self.cfg.data
        chosen = [(self.records[index], index, epoch) for index, epoch in keys]
        passages = [
            text
            for record, index, epoch in chosen
            for text in group_of(record, data.group_size, self.cfg.seed, index, epoch)
        ]
        return {
            "query": self._inputs(
                [record.query for record, *_ in chosen], "query", data.query_length
            ),
            "passage": self._inputs(passages, "passage", data.passage_length),
            "ids": torch.tensor([index for index, _ in keys]),
        }

    def _inputs(self, texts: Sequence[str], role: Role, max_length: int) -> dict[str, Tensor]:
        rows = self.encoder.rows(texts, role, max_length)
        return {**self.encoder.lm.pad(rows), "in_text": self.encoder.in_text.padded(texts)}


def questions(cfg: Config) -> list[EmbeddingRecord]:
    """Training questions.

    Raises:
        UserError: a missing or broken file.
    """
    if cfg.data.file is not None:
        return read_records(file_of(cfg, cfg.data.file), "tevatron")
    data = synthetic_set(SYNTHETIC, seed=cfg.seed)
    texts, records = list(data.corpus.values()), []
    for query, grades in data.qrels.items():
        right = tuple(data.corpus[d] for d in grades)
        records.append(
            EmbeddingRecord(data.queries[query], right, tuple(t for t in texts if t not in right))
        )
    return records


def answer_data(cfg: Config, encoder: PromptRepsEncoder) -> ContrastiveData:
    """Batches of the answer stage."""
    prompt = replace(encoder.prompt, framed=cfg.instruct.framed)
    train = AnswerBatches(
        worded_texts(cfg), variant(encoder, prompt), cfg.seed, cfg.instruct.length
    )
    return ContrastiveData(
        train, batch_size=cfg.instruct.batch_size, seed=cfg.seed, num_workers=cfg.data.num_workers
    )


def supervised_data(cfg: Config, encoder: PromptRepsEncoder) -> ContrastiveData:
    """Batches of questions."""
    train = GroupBatches(questions(cfg), encoder, cfg)
    return ContrastiveData(
        train, batch_size=cfg.data.batch_size, seed=cfg.seed, num_workers=cfg.data.num_workers
    )


def requirements(cfg: Config) -> list[Requirement]:
    """Weights and training data that the config needs."""
    needs = list(weights_requirement(cfg.model.pretrained))
    if cfg.instruct.steps:
        used = {"glosses": ["wordnet"], "keywords": cfg.instruct.texts}.get(cfg.instruct.source, [])
        needs += [bundled_requirement(name) for name in used]
    files = [("instruct.file", cfg.instruct.file), ("data.file", cfg.data.file)]
    for name, file in files:
        if file is not None:
            path = data_root(cfg.data.root) / file
            needs.append(
                Requirement(f"data: {name}", str(path), path.is_file(), "see the card, Data")
            )
    return needs


def file_of(cfg: Config, file: str) -> Path:
    """A file as named, or below the data root."""
    path = Path(file).expanduser()
    return path if path.is_file() else data_root(cfg.data.root) / path
