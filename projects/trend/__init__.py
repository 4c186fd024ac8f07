"""TREND: LiDAR pre-training by forecasting with a neural field (Chen et al., NeurIPS 2025).

Field: LiDAR.
"""

from typing import TYPE_CHECKING

from projects.trend.config import Config

if TYPE_CHECKING:
    from pathlib import Path

    from common.engine.experiment import Experiment
    from projects.trend.finetune import Finetune
    from projects.trend.module import Trend
    from projects.trend.networks import TrendNetwork

__all__ = ["Config", "build", "load"]


def build(cfg: Config) -> "Experiment[Trend | Finetune]":
    """The experiment of a config; heavy imports happen here."""
    from common.engine.experiment import experiment_of
    from projects.trend.evaluate import evaluate
    from projects.trend.export import embed, export, load_export
    from projects.trend.stages import plan, stages

    return experiment_of(cfg, stages, evaluate, export, load_export, embed, plan)


def load(folder: "Path") -> "TrendNetwork":
    """Encoder and field of an exported folder; see the card for the backbone alone."""
    from common.export.safetensors import load_safetensors
    from projects.trend.networks import build_network

    return load_safetensors(folder / "network", build_network)
