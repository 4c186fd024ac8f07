"""What NewProject has to beat: word overlap, and the encoder that training starts from."""

from common.families.sentences.baselines import jaccard, raw, tfidf, untrained, whitened

__all__ = ["jaccard", "raw", "tfidf", "untrained", "whitened"]
