"""Losses with the constructors and calls of pytorch_metric_learning."""

from .losses.adapters.pytorch_metric_learning import NTXentLoss, SupConLoss

__all__ = ["NTXentLoss", "SupConLoss"]
