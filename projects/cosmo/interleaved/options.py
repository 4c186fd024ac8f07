"""Choices of a config that documents are made by."""

from typing import Literal

CaptionUse = Literal["noisy_only", "clean_only", "mixed", "first", "last", "random"]
