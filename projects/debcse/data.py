"""The unlabelled corpus, dropout twins, and batches of drawn triplets."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, TypedDict

import numpy as np
import torch
from torch import Tensor

from common.config import UserError
from common.data.samplers import Key, sample_rng
from common.data.text.augment import WordDropout
from common.data.text.sets import load_nli_pairs
from common.data.text.views import TextViews
from common.engine.experiment import Requirement, weights_requirement
from common.families.sentences.data import text_rows
from projects.debcse.config import Config
from projects.debcse.sampling import Draws, PairSampler

NLI_STREAM = 43
PAPER_SENTENCES = 1_000_000  # of the file that the paper's family trains on


class SampledBatch(TypedDict):
    """Anchor, positive, then hard negative and dropout twin if there are any; view-major."""

    input_ids: Tensor  # (V * B, L) int64
    attention_mask: Tensor  # (V * B, L) int64
    ids: Tensor  # (B,) int64 anchors
    surface: Tensor  # (B, 2) float32, positive and negative; NaN without
    semantic: Tensor  # (B, 2) float32
    fallback: Tensor  # (B, 2) bool
    effective: Tensor  # (B, 2) float32
    length_difference: Tensor  # (B,) float32, words of the positive and of the anchor


def corpus(cfg: Config) -> list[str]:
    """The distinct sentences of the config, in a fixed order; labels are not read.

    Raises:
        UserError: missing files, or fewer NLI sentences than wanted.
    """
    texts = [text for row in text_rows(cfg.data, cfg.seed) for text in row]
    if cfg.data.nli_sentences:
        texts += nli_sentences(cfg.data.root, cfg.data.nli_sentences, cfg.seed)
    return list(dict.fromkeys(texts))


def nli_sentences(root: str | None, count: int, seed: int) -> list[str]:
    """Premises with all their hypotheses, premises drawn by the seed.

    Raises:
        UserError: there are fewer distinct sentences.
    """
    by_premise: dict[str, list[str]] = {}
    for premise, hypothesis, _ in load_nli_pairs(root, "train"):
        by_premise.setdefault(premise, [premise]).append(hypothesis)
    groups = list(by_premise.values())
    order = sample_rng(seed, 0, 0, NLI_STREAM).permutation(len(groups))
    texts = list(dict.fromkeys(text for i in order for text in groups[i]))
    if len(texts) < count:
        raise UserError(f"data.nli_sentences={count}, but there are {len(texts)}")
    return texts[:count]


def corpus_size(cfg: Config) -> int:
    """Number of sentences without reading a file that may be missing."""
    if cfg.data.source == "file":
        return (cfg.data.limit or PAPER_SENTENCES) + cfg.data.nli_sentences
    return len(corpus(cfg))


def pair_requirements(cfg: Config) -> Iterator[Requirement]:
    """Weights of a named scorer and the paraphrases, where pairs are drawn."""
    if cfg.ipw.draws and cfg.scorer.model is not None:
        yield from weights_requirement(cfg.scorer.model)
    if cfg.ipw.draws and cfg.pool.paraphrases is not None:
        path, hint = Path(cfg.pool.paraphrases), "written by `make run TASK=paraphrase`"
        yield Requirement("data: paraphrases", str(path), path.is_dir(), hint)


def twin_views(cfg: Config, tokenizer: Any, texts: Sequence[str] | None = None) -> TextViews:
    """Two views of every sentence: dropout twins, or with words dropped (positives=augmented)."""
    texts = corpus(cfg) if texts is None else texts
    drop = WordDropout(cfg.ipw.word_drop_prob)
    augmented = cfg.ipw.positives == "augmented"
    return TextViews(
        [(text,) for text in texts],
        tokenizer,
        max_length=cfg.data.max_length,
        seed=cfg.seed,
        views=2,
        augment_text=(lambda text, rng, view: drop(text, rng)) if augmented else None,
    )


class SampledViews(TextViews):
    """Batches of anchors with the pairs that are drawn for them in this epoch.

    Args:
        texts: the corpus, then the generated variants.
        word_counts: words of each text.
        sampler: what is drawn.
        tokenizer: a tokenizer of transformers with a padding token.
        max_length: longest row in tokens, special ones included.
        twin: append the anchor once more as last view.
    """

    def __init__(
        self,
        texts: Sequence[str],
        word_counts: np.ndarray,
        sampler: PairSampler,
        tokenizer: Any,
        *,
        max_length: int,
        twin: bool = False,
    ) -> None:
        super().__init__(
            [(text,) for text in texts], tokenizer, max_length=max_length, seed=sampler.seed
        )
        self.sampler, self.word_counts, self.twin = sampler, word_counts, twin

    def __len__(self) -> int:
        return self.sampler.pools.num_anchors

    @property
    def lengths(self) -> np.ndarray:
        """Tokens of every anchor, (N,) int64."""
        plain = np.diff(self._offsets)[: len(self)]
        return np.minimum(plain, self.room) + len(self.prefix) + len(self.suffix)

    def __getitem__(self, keys: Sequence[Key]) -> SampledBatch:
        """Batch of the given ``(anchor, epoch)`` keys."""
        anchors, epochs = np.asarray(keys, dtype=np.int64).reshape(-1, 2).T
        draws = self.sampler.draw(anchors, epochs)
        views = [anchors, draws.ids[:, 0]]
        if self.sampler.options.negatives != "none":
            views.append(draws.ids[:, 1])
        if self.twin:
            views.append(anchors)
        rows = super().__getitem__([(int(i), 0) for view in views for i in view])
        return {
            "input_ids": rows["input_ids"],
            "attention_mask": rows["attention_mask"],
            "ids": torch.from_numpy(anchors),
            "surface": torch.from_numpy(draws.surface).float(),
            "semantic": torch.from_numpy(draws.semantic).float(),
            "fallback": torch.from_numpy(draws.fallback),
            "effective": torch.from_numpy(draws.effective).float(),
            "length_difference": torch.from_numpy(
                length_difference(draws, self.word_counts)
            ).float(),
        }


def length_difference(draws: Draws, word_counts: np.ndarray) -> np.ndarray:
    """(B,) words by which the positive is longer or shorter than its anchor."""
    difference: np.ndarray = np.abs(word_counts[draws.ids[:, 0]] - word_counts[draws.anchors])
    return difference.astype(np.float64)
