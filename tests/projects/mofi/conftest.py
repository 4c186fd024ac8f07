"""Configs, modules, batches and a small data set on disk for the tests of MOFI."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from common.data.text.tokenizers import ClipTokenizer
from projects.mofi.config import Config
from projects.mofi.data import EntityBatch, EntitySet, synthetic_set, training_data
from projects.mofi.module import MOFI
from tests.configs import configs_of

GOLDEN = json.loads((Path(__file__).parents[2] / "golden/mofi.json").read_text(encoding="utf-8"))
TOKENIZER = ClipTokenizer(16)
KNOWLEDGE = [  # id, name, description, prior, aliases
    ("Q1", "lark", "a small song bird", "3", "skylark"),
    ("Q2", "lark", "a merry adventure", "1", "frolic"),
    ("Q3", "eagle", "a large bird of prey", "1", "golden eagle"),
    ("Q4", "tree", "a tall plant that birds live in", "1", ""),
    ("Q5", "boat", "a vessel for travel on water", "1", "dinghy|rowing boat"),
]

config = configs_of(Config, "mofi")


def small_set(cfg: Config) -> EntitySet:
    """The smoke config's images."""
    return synthetic_set(cfg)


def module_of(*words: str, seed: int = 0) -> MOFI:
    """The smoke config's module in training mode, equal for equal arguments."""
    torch.manual_seed(seed)
    cfg = config(*words)
    data = small_set(cfg)
    return MOFI(cfg, None, len(data.table), data.counts).train()


def batch_of(*words: str, count: int = 8, epoch: int = 0) -> EntityBatch:
    """The first samples of the training set."""
    cfg = config(*words)
    data: Any = training_data(cfg, small_set(cfg), TOKENIZER).train_set
    actual: EntityBatch = data[[(i, epoch) for i in range(count)]]
    return actual


def write_knowledge(folder: Path) -> Path:
    """Five entities, two of which share a name."""
    path = folder / "knowledge.tsv"
    lines = ["\t".join(("id", "name", "description", "prior", "aliases"))]
    path.write_text("\n".join([*lines, *map("\t".join, KNOWLEDGE)]) + "\n", encoding="utf-8")
    return path


@pytest.fixture
def captions(tmp_path: Path) -> Path:
    """Twelve images with alt-texts; the last one is not an image."""
    rng = np.random.default_rng(0)
    texts = ["a Skylark over the field", "an eagle in a tree", "the boat", "nothing to see"] * 3
    rows = []
    for i, text in enumerate(texts):
        name = f"{i}.png"
        rows.append({"image": name, "alt_text": text})
        pixels = rng.integers(0, 256, (40, 48, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(tmp_path / name)
    (tmp_path / "10.png").write_bytes(b"no image")
    path = tmp_path / "captions.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    write_knowledge(tmp_path)
    return path


@pytest.fixture(scope="session")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An exported model of random weights."""
    from projects.mofi import build

    folder = tmp_path_factory.mktemp("mofi") / "export"
    with torch.inference_mode():
        build(config()).export(module_of().eval(), folder)
    return folder
