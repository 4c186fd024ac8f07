"""Configs, golden inputs and small models for the tests of DSE."""

import json
from pathlib import Path

import pytest
import torch

from common.encoders.text.cross_encoder import CrossEncoder, cross_encoder
from common.engine.run import train
from projects.dse.config import Config
from projects.dse.module import DSE, first_student
from tests.configs import configs_of
from tests.figures import unrendered

GOLDEN = json.loads((Path(__file__).parents[2] / "golden/dse.json").read_text(encoding="utf-8"))
TEXTS = ["a man plays the guitar", "the cat sleeps", "two dogs run over a field", "it rains"]
TINY = {
    "model_type": "bert",
    "vocab_size": 200,
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 32,
    "max_position_embeddings": 48,
}
TINY_WORDS = "{" + ", ".join(f"{k}: {v}" for k, v in TINY.items()) + "}"
FAST = ["trainer.val_every_n_steps=null", "eval.speed.queries=0"]

config = configs_of(Config, "dse")


def student(*overrides: str) -> DSE:
    """The student of the smoke config with overrides, in evaluation mode."""
    return first_student(config(*overrides)).eval()


def classifier(num_labels: int = 3, seed: int = 0, **options: object) -> CrossEncoder:
    """A small cross-encoder."""
    torch.manual_seed(seed)
    config = {**TINY, "initializer_range": 0.3}
    return cross_encoder(
        "random", config=config, num_labels=num_labels, max_length=40, cut="longest", **options
    )


def run_of(folder: Path, *overrides: str) -> Path:
    """A trained smoke run."""
    with unrendered():
        return train("dse", "smoke", [f"runs_dir={folder}", *FAST, *overrides])


def metrics_of(run: Path) -> dict[str, float]:
    """What it was evaluated to."""
    actual: dict[str, float] = json.loads((run / "metrics.json").read_text(encoding="utf-8"))
    return actual


@pytest.fixture(scope="session")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One run of teacher and student."""
    return run_of(tmp_path_factory.mktemp("dse"), "run_id=both")
