"""Decoding from any local causal language model: policies, contrastive methods, seeded streams."""

from common.decoding.contrastive import ContrastiveDecoding, contrastive_search
from common.decoding.language_model import Continuation, LanguageModel
from common.decoding.policies import STRATEGIES, Policy, SeededSampling, processors

__all__ = [
    "STRATEGIES",
    "Continuation",
    "ContrastiveDecoding",
    "LanguageModel",
    "Policy",
    "SeededSampling",
    "contrastive_search",
    "processors",
]
