"""Configs, rows, batches and tiny models for the tests of WikiDes."""

import pytest
import torch

from projects.wikides import build
from projects.wikides.config import Config
from projects.wikides.data import Row
from projects.wikides.describe import build_generator
from projects.wikides.describer import Describer
from projects.wikides.encoder import build_encoder
from projects.wikides.module import Ranker
from tests.configs import configs_of

PARAGRAPH = "The old town lies in the north of the country. It has a castle and two churches."
ROWS = [
    Row(PARAGRAPH, "town in the north", ("church", "old town", "town in the north of the country")),
    Row("A small cat is a pet.", "small pet", ("pet", "a cat")),
    Row("He was a painter of the last century.", "painter", ("painter of the century",)),
    Row(
        "The river is long.", "long river", ("river", "long", "the long river", "lake", "long lake")
    ),
]

config = configs_of(Config, "wikides")


def ranker(*overrides: str) -> Ranker:
    """A ranker in training mode, equal for equal overrides."""
    torch.manual_seed(0)
    cfg = config(*overrides)
    return Ranker(cfg, build_encoder(cfg.model)).train()


def describer(*overrides: str) -> Describer:
    """A generator in training mode, equal for equal overrides."""
    torch.manual_seed(0)
    cfg = config(*overrides, name="smoke_describe")
    return Describer(cfg, *build_generator(cfg.generator)).train()


@pytest.fixture(scope="session")
def generator_folder(tmp_path_factory):
    """An exported tiny generator, which writes words to the end, as special tokens are
    suppressed."""
    folder = tmp_path_factory.mktemp("generator")
    module = describer().eval()
    module.model.generation_config.suppress_tokens = list(range(5))
    build(config(name="smoke_describe")).export(module, folder)
    return folder
