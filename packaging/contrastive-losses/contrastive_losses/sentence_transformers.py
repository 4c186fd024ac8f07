"""Losses with the constructors and calls of sentence_transformers."""

from .losses.adapters.sentence_transformers import (
    CachedMultipleNegativesRankingLoss,
    MultipleNegativesRankingLoss,
)

__all__ = ["CachedMultipleNegativesRankingLoss", "MultipleNegativesRankingLoss"]
