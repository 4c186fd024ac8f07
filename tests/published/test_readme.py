"""The examples of the distribution's README run, each alone.

The repository's own files stand in for the installed distribution where there is none.
"""

import importlib.util
import re
import sys
from types import ModuleType

import pytest
import torch

from common.config import ROOT

PACKAGE = ROOT / "packaging" / "contrastive-losses"
BLOCK = re.compile(r"^```python\n(.*?)^```", re.M | re.S)
EXAMPLES = BLOCK.findall((PACKAGE / "README.md").read_text(encoding="utf-8"))
NAMES = [re.search(r"contrastive_losses\.(\w+)", code)[1] for code in EXAMPLES]


@pytest.fixture(autouse=True)
def installed(monkeypatch: pytest.MonkeyPatch) -> None:
    if importlib.util.find_spec("contrastive_losses") is None:
        package = ModuleType("contrastive_losses")
        package.__path__ = [str(PACKAGE / "contrastive_losses"), str(ROOT / "common")]
        monkeypatch.setitem(sys.modules, "contrastive_losses", package)


@pytest.mark.parametrize("code", EXAMPLES, ids=NAMES)
def test_examples(code, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    if "sentence_transformers" in code:
        library = pytest.importorskip("sentence_transformers", reason="make test-peers")
        encoder = library.SentenceTransformer(str(ROOT / "data/models/text-encoder"), device="cpu")
        monkeypatch.setattr(library, "SentenceTransformer", lambda name: encoder)
        monkeypatch.setenv("WANDB_MODE", "disabled")
        before = encoder.encode("a cat sleeps")
    names = {"__name__": "readme"}
    exec(compile(code, "README.md", "exec"), names)
    gradients = [x.grad for x in names.values() if isinstance(x, torch.Tensor) and x.is_leaf]
    if "sentence_transformers" in code:
        assert abs(encoder.encode("a cat sleeps") - before).max() > 1e-6
    else:
        assert any(x is not None and bool(x.any()) for x in gradients)


def test_every_adapter_has_an_example():
    adapters = {path.stem for path in (PACKAGE / "contrastive_losses").glob("[!_]*.py")}
    assert adapters < {*NAMES}
