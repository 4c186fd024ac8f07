"""Every public loss says where its equation comes from and how it is distributed."""

import importlib
import inspect
import pkgutil

import pytest

import common.losses
from common.losses.base import PairLoss

MODULES = [m.name for m in pkgutil.walk_packages(common.losses.__path__, "common.losses.")]


def own(kind):
    """Public things of one kind, with the module that defines them."""
    for name in MODULES:
        module = importlib.import_module(name)
        for thing in vars(module).values():
            if kind(thing) and thing.__module__ == name and not thing.__name__.startswith("_"):
                yield thing


CLASSES = [c for c in own(inspect.isclass) if c.__name__.endswith("Loss") and c is not PairLoss]
FUNCTIONS = [
    f
    for f in own(inspect.isfunction)
    if ".functional." in f.__module__ and "Distributed:" in (f.__doc__ or "")
]


def test_something_was_found():
    assert len(MODULES) > 15
    assert len(CLASSES) >= 14
    assert len(FUNCTIONS) > 20


@pytest.mark.parametrize("thing", CLASSES + FUNCTIONS, ids=lambda x: x.__name__)
def test_docstrings_are_complete_and_in_order(thing):
    text = inspect.getdoc(thing)
    parts = ["Source:", "Args:"] + ["Returns:"] * inspect.isfunction(thing)
    parts += ["Distributed:", ">>>"]
    positions = [text.find(part) for part in parts]
    assert min(positions) > 0, dict(zip(parts, positions, strict=True))
    assert positions == sorted(positions)


@pytest.mark.parametrize("loss", CLASSES, ids=lambda x: x.__name__)
def test_every_argument_of_a_call_is_described(loss):
    text = inspect.getdoc(loss.forward) or ""
    names = [name for name in inspect.signature(loss.forward).parameters if name != "self"]
    assert [name for name in names if f"\n    {name}: " not in text] == []


@pytest.mark.parametrize("loss", CLASSES, ids=lambda x: x.__name__)
def test_modules_declare_their_distributed_kind(loss):
    assert loss.distributed_kind in ("local", "gathers_negatives", "reduces_statistics")
    phrase = loss.distributed_kind.replace("_", " ")
    assert f"Distributed: {phrase}" in inspect.getdoc(loss)
    assert issubclass(loss, PairLoss) or loss.distributed_kind != "gathers_negatives"
