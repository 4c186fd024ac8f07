"""What a contestant has to beat without training: word overlap, and the encoder before it."""

from common.families.sentences.baselines import (
    jaccard,
    raw,
    raw_mean,
    tfidf,
    untrained,
    whitened,
)

__all__ = ["jaccard", "raw", "raw_mean", "tfidf", "untrained", "whitened"]
