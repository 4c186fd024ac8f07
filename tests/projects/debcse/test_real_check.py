"""The sheet's small real check: training with a scorer that is right up to noise."""

from functools import cache
from typing import NamedTuple

import numpy as np
import pytest
import torch

from common.data.text.lexical import SurfaceSimilarity
from common.encoders.text.sentence import SentenceEncoder
from common.encoders.text.tower import text_tower
from common.evaluation.text.sts import pair_cosine, spearman
from projects.debcse.data import SampledViews
from projects.debcse.module import DebCSE
from projects.debcse.sampling import PairSampler, Pools
from tests.projects.debcse.conftest import SYNONYMS, config, pools

SLOTS, VALUES, FILLERS = 6, 15, 30
ARMS = {
    "simcse": ["ipw.positives=self", "ipw.negatives=none"],
    "semantic_only": ["ipw.surface=false"],
    "ipw": [],
}
ARCHITECTURE = {
    "model_type": "bert",
    "hidden_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 128,
}


def sentence(slots: np.ndarray, rng: np.random.Generator) -> str:
    """A wording of a meaning: synonyms in one of two orders, 0 to 10 fillers between."""
    words = [f"s{k}v{value}x{rng.integers(SYNONYMS)}" for k, value in enumerate(slots)]
    if rng.integers(2):
        words = words[3:] + words[:3]
    for _ in range(int(rng.integers(11))):
        words.insert(int(rng.integers(len(words) + 1)), f"um{rng.integers(FILLERS)}")
    return " ".join(words)


def meaning(text: str) -> list[int]:
    """The values of the slots, in their order."""
    words = sorted(word for word in text.split() if word.startswith("s"))
    return [int(word[3:].partition("x")[0]) for word in words]


def overlap(a: str, b: str) -> float:
    """Share of the slots with equal values."""
    return sum(x == y for x, y in zip(meaning(a), meaning(b), strict=True)) / SLOTS


def changed(slots: np.ndarray, count: int, rng: np.random.Generator) -> np.ndarray:
    """Other values in `count` slots."""
    slots = slots.copy()
    for slot in rng.permutation(SLOTS)[:count]:
        slots[slot] = (slots[slot] + 1 + rng.integers(VALUES - 1)) % VALUES
    return slots


def trap(text: str, rng: np.random.Generator) -> str:
    """The same words but one, which has another value."""
    words = text.split()
    places = [i for i, word in enumerate(words) if word.startswith("s")]
    place = places[int(rng.integers(len(places)))]
    value = (int(words[place][3:].partition("x")[0]) + 1 + rng.integers(VALUES - 1)) % VALUES
    words[place] = f"{words[place][:3]}{value}x{rng.integers(SYNONYMS)}"
    return " ".join(words)


def candidates(count: int, rng: np.random.Generator) -> tuple[list[str], np.ndarray, Pools]:
    """Per anchor: itself and three other wordings; four traps and four random sentences."""
    slots = rng.integers(VALUES, size=(count, SLOTS))
    texts = [sentence(own, rng) for own in slots]
    positives, negatives = [], []
    for i in range(count):
        made = [sentence(slots[i], rng) for _ in range(3)]
        made += [trap(texts[i], rng) for _ in range(4)]
        new = range(len(texts), len(texts) + 7)
        positives.append([i, *new[:3]])
        negatives.append(
            [*new[3:], *((int(j) + (int(j) >= i)) for j in rng.integers(count - 1, size=4))]
        )
        texts += made
    surface = SurfaceSimilarity(texts, "jaccard")

    def scored(rows: list[list[int]]) -> list[list[tuple[int, float, float]]]:
        return [
            [
                (j, float(s), overlap(texts[i], texts[j]) + 0.1 * rng.standard_normal())
                for j, s in zip(row, surface([i] * len(row), row), strict=True)
            ]
            for i, row in enumerate(rows)
        ]

    actual = pools(scored(positives), scored(negatives), theta_pos=0.8, theta_neg=0.6)
    return texts, surface.word_counts, actual


def encoder(seed: int) -> SentenceEncoder:
    """A small random encoder whose tokens are the words."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    words = [f"s{k}v{v}x{x}" for k in range(SLOTS) for v in range(VALUES) for x in range(SYNONYMS)]
    words = ["[PAD]", "[UNK]", *words, *(f"um{i}" for i in range(FILLERS))]
    backend = Tokenizer(models.WordLevel({w: i for i, w in enumerate(words)}, unk_token="[UNK]"))
    backend.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=backend, pad_token="[PAD]", unk_token="[UNK]", model_max_length=64
    )
    torch.manual_seed(seed)
    tower = text_tower(
        "random", "avg", config={**ARCHITECTURE, "vocab_size": len(words)}, attention="eager"
    )
    return SentenceEncoder(tower, tokenizer)


class Task(NamedTuple):
    """What all arms train and are measured on."""

    texts: list[str]
    counts: np.ndarray
    found: Pools
    first: list[str]  # graded pairs: gold is the number of equal slots
    second: list[str]
    gold: list[int]


@cache
def task(seed: int, count: int) -> Task:
    """Candidates of `count` anchors, and 600 graded pairs."""
    rng = np.random.default_rng(seed)
    texts, counts, actual = candidates(count, rng)
    first, second, gold = [], [], []
    for _ in range(600):
        slots, other = rng.integers(VALUES, size=SLOTS), int(rng.integers(SLOTS + 1))
        first.append(sentence(slots, rng))
        second.append(sentence(changed(slots, other, rng), rng))
        gold.append(SLOTS - other)
    return Task(texts, counts, actual, first, second, gold)


def trained_score(arm: str, seed: int, steps: int = 31, rows: int = 32, count: int = 960) -> float:
    """Spearman on graded pairs after training with the pairs that the arm draws."""
    texts, counts, actual, first, second, gold = task(seed, count)
    cfg = config("model.pooling=avg", "model.mlp_only_train=false", *ARMS[arm])
    module = DebCSE(cfg, encoder(seed)).train()
    views = SampledViews(
        texts, counts, PairSampler(actual, cfg.ipw, seed), module.encoder.tokenizer, max_length=32
    )
    optimizer = torch.optim.AdamW(module.parameters(), lr=1e-3, weight_decay=0.0)
    for step in range(steps):
        epoch, start = divmod(step * rows, count)
        loss = module.losses(views[[(start + i, epoch) for i in range(rows)]])["loss"]
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    cosine = pair_cosine(module.encoder.encode(first), module.encoder.encode(second))
    return spearman(cosine.numpy(), gold)


@pytest.mark.slow
def test_inverse_propensity_beats_semantic_sampling_and_that_beats_dropout_twins():
    """Sheet, small real check: the expected order, where the scorer knows the meaning.

    The order is that of training through sampler, batches and loss; with a weak scorer it need not
    hold (see the card).
    """
    scores = {arm: trained_score(arm, seed=0) for arm in ARMS}
    assert scores["ipw"] > scores["semantic_only"] + 0.02, scores
    assert scores["semantic_only"] > scores["simcse"] + 0.2, scores
