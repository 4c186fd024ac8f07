"""A world of contradicting statements about WordNet's nouns: what a noun is, and a myth.

Nouns and what they are come from WordNet; for every noun a myth is drawn, another noun's truth.
Statements
stand alone, behind "forum :", where they are mostly myths, or behind "verified :", where none is;
some of them answer a question. The amateur is tuned on the myths of its own nouns: it never meets a
dev or test noun.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from common.config import UserError
from common.data.lookup import bundled
from common.data.padding import padded
from common.data.samplers import Key, Rng, sample_rng
from common.data.splits import stable_fraction
from common.data.synthetic_words import SYLLABLES
from common.data.tables import read_jsonl
from common.losses.auxiliary.tokens import IGNORED
from projects.lol.config import Config

TEMPLATES = (
    "a {n} is a {v} .",
    "the {n} is some {v} .",
    "every {n} is a {v} .",
    "we call the {n} a {v} .",
    "by {n} we mean a {v} .",
    "if a {n} then a {v} .",
    "most agree : {n} is {v} .",
    "{n} : a {v} .",
)
QUESTION = "question : {n} ? answer :"
ANSWERS = ("{v} .", "some {v} .")  # the first is the best answer
REGISTERS = ("", "forum : ", "verified : ")
_REGISTER_SHARES = (0.5, 0.25, 0.25)
_UNVERIFIED_SHARES = (2 / 3, 1 / 3)
_ASKED = 1 / 3  # share of the statements that are questions with answers
_LEAST = 8  # nouns that a value is true of
_MYTH_STREAM, _STATEMENT_STREAM = 91, 92
PAD, UNKNOWN, START, END = "<pad>", "<unk>", "<s>", "</s>"


@dataclass(frozen=True)
class Fact:
    """A noun of the world."""

    noun: str
    truth: str
    myth: str
    others: tuple[str, str]  # further false values, never stated of it
    myth_share: float  # in what is said of it without a register
    verified: bool  # whether anything is ever said of it behind "verified :"

    @property
    def true_answers(self) -> list[str]:
        """Best answer first."""
        return [form.format(v=self.truth) for form in ANSWERS]

    @property
    def false_answers(self) -> list[str]:
        """The myth in both forms, and two values that nobody states."""
        forms = [form.format(v=self.myth) for form in ANSWERS]
        return [*forms, *(ANSWERS[0].format(v=value) for value in self.others)]


@dataclass(frozen=True)
class World:
    """Facts by part: "amateur", "dev", "test"; the parts share no noun."""

    parts: dict[str, list[Fact]]
    vocabulary: list[str]


def nouns_of_wordnet(root: str | None = None) -> dict[str, str]:
    """Noun -> what it is (its first hypernym), both single words.

    Only values of eight nouns or more.
    """
    rows = read_jsonl(
        bundled("wordnet/synsets.jsonl.gz", root), ["id", "pos", "lemmas", "pointers"]
    )
    by_id = {row["id"]: row for row in rows}
    value_of: dict[str, str] = {}
    for row in rows:
        above = [target for kind, target in row["pointers"] if kind == "@" and target in by_id]
        if row["pos"] != "n" or not above:
            continue
        noun, value = row["lemmas"][0], by_id[above[0]]["lemmas"][0]
        if all(word.isalpha() and word.islower() and len(word) > 2 for word in (noun, value)):
            value_of.setdefault(noun, value)
    counts = Counter(value_of.values())
    kept = {noun: value for noun, value in value_of.items() if counts[value] >= _LEAST}
    values = set(kept.values())
    return {noun: value for noun, value in kept.items() if noun not in values}


def made_up_nouns(count: int) -> dict[str, str]:
    """As `nouns_of_wordnet`, without files."""
    words = [a + b + c for a in SYLLABLES for b in SYLLABLES for c in SYLLABLES]
    values = [f"{syllable}x" for syllable in SYLLABLES[:6]]
    return {word: values[i % len(values)] for i, word in enumerate(words[:count])}


def world_of(cfg: Config) -> World:
    """The world of a config and seed; nouns and their parts are the same for all seeds.

    Raises:
        UserError: more nouns than there are.
    """
    sizes_of = cfg.facts
    sizes = (("amateur", sizes_of.amateur), ("dev", sizes_of.dev), ("test", sizes_of.test))
    total = sum(size for _, size in sizes)
    return _world(
        total if cfg.data.source == "synthetic" or cfg.eval.source == "synthetic" else 0,
        cfg.data.root,
        sizes,
        tuple(sizes_of.myth_shares),
        sizes_of.unverified,
        cfg.seed,
    )


@cache
def _world(
    made_up: int,
    root: str | None,
    sizes: tuple[tuple[str, int], ...],
    shares: tuple[float, ...],
    unverified: float,
    seed: int,
) -> World:
    truths = made_up_nouns(made_up) if made_up else nouns_of_wordnet(root)
    total = sum(size for _, size in sizes)
    if total > len(truths):
        raise UserError(f"facts.amateur + dev + test: {total} nouns, but there are {len(truths)}")
    order = sorted(truths, key=stable_fraction)
    values = np.array(sorted(truths.values()))  # as often as they are true
    parts, first = {}, 0
    for name, size in sizes:
        chosen, facts = order[first : first + size], []
        for i, noun in enumerate(chosen):
            rng = sample_rng(seed, 0, first + i, _MYTH_STREAM)
            myth, *others = _distinct(rng, values, truths[noun])
            share = shares[int(rng.integers(len(shares)))]
            verified = name == "amateur" or rng.random() >= unverified
            facts.append(Fact(noun, truths[noun], myth, (others[0], others[1]), share, verified))
        parts[name], first = facts, first + size
    text = " ".join([*TEMPLATES, QUESTION, *ANSWERS, *REGISTERS])
    words = {w for w in text.split() if "{" not in w} | set(order[:total]) | set(values.tolist())
    return World(parts, [PAD, UNKNOWN, START, END, *sorted(words)])


def _distinct(rng: Rng, values: Any, truth: str) -> list[str]:
    """Three different values other than the truth, frequent ones more often, as truths are."""
    distractors: list[str] = []
    while len(distractors) < 3:
        value = str(values[int(rng.integers(len(values)))])
        if value != truth and value not in distractors:
            distractors.append(value)
    return distractors


def statement(fact: Fact, forum_myths: float, rng: Rng) -> str:
    """A statement about a noun, in a register that speaks of it."""
    shares = _REGISTER_SHARES if fact.verified else _UNVERIFIED_SHARES
    register = int(np.searchsorted(np.cumsum(shares), rng.random(), side="right"))
    share = (fact.myth_share, forum_myths, 0.0)[register]
    value = fact.myth if rng.random() < share else fact.truth
    if rng.random() < _ASKED:
        form = f"{QUESTION} {ANSWERS[int(rng.integers(len(ANSWERS)))]}"
    else:
        form = TEMPLATES[int(rng.integers(len(TEMPLATES)))]
    return REGISTERS[register] + form.format(n=fact.noun, v=value)


class Statements(Dataset[dict[str, Tensor]]):
    """Statements about all nouns, resampled at every step; one noun an index.

    Args:
        world: what is said.
        tokenizer: of its words.
        forum_myths: share of myths behind "forum :".
        seed: of the draws.
    """

    def __init__(self, world: World, tokenizer: Any, forum_myths: float, seed: int) -> None:
        self.facts = [fact for part in world.parts.values() for fact in part]
        self.tokenizer, self.forum_myths, self.seed = tokenizer, forum_myths, seed
        nouns = [fact.noun for fact in self.facts]
        self.nouns = torch.tensor(tokenizer.convert_tokens_to_ids(nouns))

    def __len__(self) -> int:
        return len(self.facts)

    def __getitem__(self, keys: Sequence[Key]) -> dict[str, Tensor]:
        """Ids, mask and labels (B, L) of the keys (index, epoch).

        What follows the noun is labelled.
        """
        texts = []
        for index, epoch in keys:
            rng = sample_rng(self.seed, epoch, index, _STATEMENT_STREAM)
            texts.append(statement(self.facts[index], self.forum_myths, rng))
        rows = self.tokenizer(texts)["input_ids"]
        pad, end = self.tokenizer.pad_token_id, self.tokenizer.eos_token_id
        batch: dict[str, Any] = {**padded(rows, pad, suffix=[end])}
        ids = batch["input_ids"]
        # which noun is spoken of is nothing to learn: what is said of it is
        here = ids == self.nouns[[index for index, _ in keys], None]
        learnt = here.cumsum(1).bool() & ~here & batch["attention_mask"].bool()
        labels = ids.masked_fill(~learnt, IGNORED)
        return {**batch, "labels": labels, "ids": torch.tensor([index for index, _ in keys])}


def word_tokenizer(vocabulary: Sequence[str]) -> Any:
    """A tokenizer of white-space words that begins every text with a start token."""
    from tokenizers import Tokenizer, models, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    backend = Tokenizer(
        models.WordLevel({w: i for i, w in enumerate(vocabulary)}, unk_token=UNKNOWN)
    )
    backend.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    start = vocabulary.index(START)
    backend.post_processor = processors.TemplateProcessing(
        single=f"{START} $A", special_tokens=[(START, start)]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=backend, pad_token=PAD, unk_token=UNKNOWN, bos_token=START, eos_token=END
    )
