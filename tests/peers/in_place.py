"""A plugin of pytest: the losses of a library are ours while its own tests run.

``python -m pytest -p in_place --library lightly tests/loss`` in a checkout of the library.
"""

import importlib
import pkgutil
import sys
import tempfile
from pathlib import Path
from types import ModuleType

import pytest
import torch


def pytest_addoption(parser: pytest.Parser) -> None:
    """The library, and whether it stays as it is."""
    parser.addoption("--library", required=True)
    parser.addoption("--as-is", action="store_true", help="replace nothing, for comparison")


def pytest_configure(config: pytest.Config) -> None:
    """Replace before the tests import anything."""
    library = config.getoption("--library")
    package = importlib.import_module(library)
    for found in pkgutil.walk_packages(package.__path__, f"{library}."):
        if "loss" in found.name:
            importlib.import_module(found.name)
    adapter = importlib.import_module(f"contrastive_losses.{library}")
    for name in [] if config.getoption("--as-is") else adapter.__all__:
        if not replace(library, name, getattr(adapter, name)):
            raise pytest.UsageError(f"{library} has no {name}")
    if library == "sentence_transformers":
        folder = tempfile.TemporaryDirectory()
        config.add_cleanup(folder.cleanup)
        save_small_model(folder.name)
        open_always(folder.name)


def replace(library: str, name: str, ours: type) -> int:
    """Put a class in the place of the library's in all its modules; returns how many had it."""
    modules = [m for key, m in sys.modules.items() if key.split(".")[0].startswith(library)]
    holders = [m for m in modules if isinstance(m, ModuleType) and is_loss(vars(m).get(name))]
    for module in holders:
        setattr(module, name, ours)
    return len(holders)


def is_loss(value: object) -> bool:
    """Whether this is the library's class over embeddings, not one of the same name over pairs."""
    return isinstance(value, type) and ".cross_encoder." not in value.__module__


def save_small_model(folder: str) -> None:
    """A BERT of two layers with random weights, which reads single characters."""
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.models import Pooling, Transformer
    from transformers import BertConfig, BertModel, BertTokenizer

    characters = [chr(code) for code in range(33, 127)]
    inside = [f"##{character}" for character in characters]
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *characters, *inside]
    BertTokenizer({word: i for i, word in enumerate(words)}).save_pretrained(folder)
    torch.manual_seed(0)
    sizes = {"hidden_size": 128, "intermediate_size": 128, "num_attention_heads": 2}
    config = BertConfig(vocab_size=len(words), num_hidden_layers=2, **sizes)
    BertModel(config).save_pretrained(folder)
    encoder = Transformer(folder)
    SentenceTransformer(modules=[encoder, Pooling(config.hidden_size)]).save_pretrained(folder)


def open_always(folder: str) -> None:
    """Every model by name is the one in the folder: nothing is downloaded."""
    from sentence_transformers import SentenceTransformer

    original = SentenceTransformer.__init__

    def opened(self, name=None, *args, **kwargs):  # type: ignore[no-untyped-def]
        name = folder if isinstance(name, str) and not Path(name).exists() else name
        original(self, name, *args, **kwargs)

    SentenceTransformer.__init__ = opened
