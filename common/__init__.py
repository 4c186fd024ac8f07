"""Shared parts of the contrastive-learning monorepo; importing this imports nothing heavy."""

__version__ = "0.3.0.dev0"
