"""Configs, a corpus with known meanings and its scorer for the tests of DebCSE."""

import itertools
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from projects.debcse.config import Config
from projects.debcse.sampling import Pools
from tests.configs import configs_of

SLOTS, VALUES, SYNONYMS = 4, 4, 3

config = configs_of(Config, "debcse")


def sentence(slots: tuple[int, ...], rng: np.random.Generator) -> str:
    """A wording of a meaning: a synonym for each slot, fillers between."""
    actual = []
    for slot, value in enumerate(slots):
        actual += [f"um{i}" for i in rng.integers(3, size=rng.integers(0, 3))]
        actual.append(f"s{slot}v{value}x{rng.integers(SYNONYMS)}")
    return " ".join(actual)


def meaning(text: str) -> tuple[int, ...]:
    """The values of the slots."""
    slots = {int(word[1]): int(word[3]) for word in text.split() if word.startswith("s")}
    return tuple(slots.values())


def meanings_corpus(classes: int = 40, realisations: int = 5) -> list[str]:
    """Distinct sentences; each meaning comes in several wordings."""
    rng = np.random.default_rng(0)
    every = list(itertools.product(range(VALUES), repeat=SLOTS))
    chosen = [every[i] for i in rng.permutation(len(every))[:classes]]
    return list(dict.fromkeys(sentence(m, rng) for m in chosen for _ in range(realisations)))


def same_meaning(texts: list[str]) -> dict[frozenset[str], str]:
    """Entailment labels of all pairs of equal meaning."""
    pairs = itertools.combinations(texts, 2)
    return {frozenset(p): "entailment" for p in pairs if meaning(p[0]) == meaning(p[1])}


class MeaningScorer(nn.Module):
    """Stands in for a trained encoder: one-hot slots with a little noise of the wording."""

    def __init__(self, noise: float = 0.02) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(1))
        self.noise, self.calls = noise, 0

    def encode(self, texts: list[str], batch_size: int = 64) -> Tensor:
        """(N, SLOTS * VALUES)."""
        self.calls += 1
        rows = torch.zeros(len(texts), SLOTS * VALUES)
        for row, text in zip(rows, texts, strict=True):
            for slot, value in enumerate(meaning(text)):
                row[slot * VALUES + value] = 1
            generator = torch.Generator().manual_seed(sum(map(ord, text)))
            row += self.noise * torch.randn(len(row), generator=generator)
        return rows


def pools(
    positives: list[list[tuple[int, float, float]]],
    negatives: list[list[tuple[int, float, float]]],
    theta_pos: float = -1.0,
    theta_neg: float = -2.0,
) -> Pools:
    """Pools of (id, s, m) lists."""

    def table(rows: list[list[tuple[int, float, float]]], column: int, fill: float) -> np.ndarray:
        width = max(1, *(len(row) for row in rows))
        cells = [[*(r[column] for r in row), *[fill] * (width - len(row))] for row in rows]
        return np.array(cells, dtype=np.int32 if column == 0 else np.float32)

    return Pools(
        table(positives, 0, -1),
        table(negatives, 0, -1),
        (table(positives, 1, 0), table(negatives, 1, 0)),
        (table(positives, 2, 0), table(negatives, 2, 0)),
        theta_pos,
        theta_neg,
    )


def tiny_scorer(folder: Path) -> str:
    """A saved random encoder that a config can name as scorer."""
    from common.export.sentence_transformers import save_sentence_transformers
    from common.families.sentences.module import build_encoder

    cfg = config("model.pooling=avg", "model.mlp_only_train=false")
    torch.manual_seed(3)
    save_sentence_transformers(build_encoder(cfg.model), folder)
    return str(folder)
