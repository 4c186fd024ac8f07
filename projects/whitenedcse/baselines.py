"""What WhitenedCSE has to beat: word overlap, and the first encoder, post-processed."""

from common.families.sentences.baselines import (
    centred,
    jaccard,
    raw,
    raw_mean,
    tfidf,
    untrained,
    whitened,
    whitened_mean,
)

__all__ = [
    "centred",
    "jaccard",
    "raw",
    "raw_mean",
    "tfidf",
    "untrained",
    "whitened",
    "whitened_mean",
]
