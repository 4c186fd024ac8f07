"""A plugin of pytest: the losses of a library are ours while its own tests run.

``python -m pytest -p in_place --library lightly tests/loss`` in a checkout of the library.
"""

import importlib
import pkgutil
import sys
from pathlib import Path
from types import ModuleType

import pytest


def pytest_addoption(parser: pytest.Parser) -> None:
    """The library, and what its tests would download."""
    parser.addoption("--library", required=True)
    parser.addoption("--as-is", action="store_true", help="replace nothing, for comparison")
    parser.addoption(
        "--local-model", help="folder that SentenceTransformer(...) opens for any name"
    )


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
    folder = config.getoption("--local-model")
    if folder is not None:
        open_locally(Path(folder))


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


def open_locally(folder: Path) -> None:
    """Every model by name is the one in the folder: nothing is downloaded."""
    from sentence_transformers import SentenceTransformer

    original = SentenceTransformer.__init__

    def opened(self, name=None, *args, **kwargs):  # type: ignore[no-untyped-def]
        name = str(folder) if isinstance(name, str) and not Path(name).exists() else name
        original(self, name, *args, **kwargs)

    SentenceTransformer.__init__ = opened
