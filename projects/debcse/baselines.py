"""What DebCSE has to beat: word overlap, and the encoder that it starts from, post-processed."""

from common.families.sentences.baselines import (
    centred,
    jaccard,
    raw,
    tfidf,
    untrained,
    whitened,
)

__all__ = ["centred", "jaccard", "raw", "tfidf", "untrained", "whitened"]
