"""Losses with the constructors and calls of lightly."""

from .losses.adapters.lightly import DCLLoss, DCLWLoss, NTXentLoss

__all__ = ["DCLLoss", "DCLWLoss", "NTXentLoss"]
