"""The examples in docstrings give what they say."""

import doctest
import importlib

import pytest
import torch

from common.config import ROOT

PACKAGES = ("common", "projects", "arena")
NEEDS_MORE = {"projects.nv_embed.encoder.sentence_modules"}  # sentence-transformers (group eval)


def modules_with_examples() -> list[str]:
    """Names of the modules in which a docstring has an example."""
    files = [path for name in PACKAGES for path in sorted((ROOT / name).rglob("*.py"))]
    names = [
        ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")
        for path in files
        if "    >>> " in path.read_text(encoding="utf-8")
    ]
    return [name for name in names if name not in NEEDS_MORE]


MODULES = modules_with_examples()


def test_examples_were_found():
    assert len(MODULES) > 100


@pytest.mark.parametrize("name", MODULES)
def test_examples(name):
    torch.manual_seed(0)
    assert doctest.testmod(importlib.import_module(name)).failed == 0


def test_a_wrong_example_is_noticed(tmp_path, monkeypatch):
    (tmp_path / "wrong_example.py").write_text('"""A sum.\n\n>>> 1 + 1\n3\n"""\n')
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(AssertionError):
        test_examples("wrong_example")
