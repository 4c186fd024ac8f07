"""Configs, golden values and small classifiers for the tests of data augmentation for tuning."""

import json
from pathlib import Path

import pytest

from common.engine import checkpoint as ckpt
from common.engine.run import train
from projects.peft_augmentation.config import Config
from projects.peft_augmentation.module import PeftAugmentation
from projects.peft_augmentation.stages import first_classifier
from tests.configs import configs_of
from tests.figures import unrendered

GOLDEN = json.loads(
    (Path(__file__).parents[2] / "golden/peft_augmentation.json").read_text("utf-8")
)
TEXTS = [
    ("the cat sees a new dog",),
    ("rain and wind again",),
    ("a small bank loan today",),
    ("fish",),
]
PLAIN = ["contrast.weight=0", "augment.kind=none"]
STILL = [
    "model.dropout=0.0",
    "model.head_dropout=0.0",
    "tuning.prefix_dropout=0.0",
    "tuning.lora_dropout=0.0",
]
FAST = ["trainer.val_every_n_steps=null", "eval.alterations=[]", "eval.separation=false"]

config = configs_of(Config, "peft_augmentation")


def module_of(*overrides: str) -> PeftAugmentation:
    """The module of the smoke config with overrides, in training mode."""
    cfg = config(*overrides)
    return PeftAugmentation(cfg, first_classifier(cfg))


def run_of(folder: Path, *overrides: str) -> Path:
    """A trained smoke run."""
    with unrendered():
        return train("peft_augmentation", "smoke", [f"runs_dir={folder}", *overrides])


def weights_of(run: Path) -> dict[str, object]:
    """What a run trained last."""
    path, _ = ckpt.newest_intact(run / "checkpoints/train")
    actual: dict[str, object] = ckpt.load(path)["state_dict"]
    return actual


@pytest.fixture(scope="session")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of a P-tuning and a full fine-tuning run with EDA, with contrast as well as
    without."""
    folder = tmp_path_factory.mktemp("peft_augmentation")
    for name, words in (
        ("prefix", ["contrast.weight=0", "trainer.max_steps=2"]),
        ("contrast", ["trainer.max_steps=2"]),
        ("full", ["tuning.kind=full", "contrast.weight=0", "trainer.max_steps=2"]),
    ):
        run_of(folder, f"run_id={name}", "trainer.val_every_n_steps=null", *words)
    return folder
