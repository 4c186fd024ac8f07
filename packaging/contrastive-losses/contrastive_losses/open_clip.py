"""Losses with the constructors and calls of open_clip."""

from .losses.adapters.open_clip import ClipLoss, SigLipLoss

__all__ = ["ClipLoss", "SigLipLoss"]
