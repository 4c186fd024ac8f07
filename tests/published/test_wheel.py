"""The wheel of packaging/contrastive-losses: complete, alone, and next to the repository.

`make test-peers` installs it into an empty environment.
"""

import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from common.config import ROOT

PACKAGE = ROOT / "packaging" / "contrastive-losses"
PARTS = ("losses", "kernels", "distributed")

ALONE = """
import sys
from contrastive_losses import lightly, open_clip, pytorch_metric_learning, sentence_transformers
import contrastive_losses.losses.info_nce
print([name for name in sys.modules if name.split(".")[0] in ("common", "projects")])
"""
TOGETHER = """
import torch
from common.losses.image_text import ClipLoss as Here
from contrastive_losses.losses.image_text import ClipLoss as Published
results = []
for loss in (Here(backend="blocked"), Published(backend="blocked")):
    torch.manual_seed(0)
    x, y = torch.randn(2, 50, 8).requires_grad_()
    out = loss(x, y, 10.0).loss
    results.append(torch.stack([out, torch.autograd.grad(out, x)[0].norm()]))
print(torch.equal(*results))
"""


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with what the wheel installs; built without a network."""
    folder = tmp_path_factory.mktemp("published")
    build = ["--no-deps", "--no-index", "--no-build-isolation", "--quiet"]
    words = [sys.executable, "-m", "pip", "wheel", *build, "-w", str(folder), str(PACKAGE)]
    subprocess.run(words, check=True)
    (wheel,) = folder.glob("contrastive_losses-*.whl")
    zipfile.ZipFile(wheel).extractall(folder / "site")
    return folder / "site"


def run(program: str, *path: Path) -> str:
    """What a program prints in another folder with these folders to import from."""
    done = subprocess.run(
        [sys.executable, "-c", program],
        cwd=path[0],
        env=os.environ | {"PYTHONPATH": os.pathsep.join(map(str, path))},
        capture_output=True,
        text=True,
    )
    assert not done.returncode, done.stderr
    return done.stdout.strip()


@pytest.mark.slow
def test_the_wheel_has_every_file_unchanged(installed):
    for part in PARTS:
        files = [p for p in (ROOT / "common" / part).rglob("*") if p.suffix in (".py", ".json")]
        assert files
        for path in files:
            copy = installed / "contrastive_losses" / path.relative_to(ROOT / "common")
            assert copy.read_bytes() == path.read_bytes(), path
    assert (installed / "contrastive_losses/py.typed").exists()
    metadata = next(installed.glob("*.dist-info/METADATA")).read_text(encoding="utf-8")
    required = [line.split()[1] for line in metadata.splitlines() if line.startswith("Requires-D")]
    assert [name.split(">")[0] for name in required] == ["numpy", "torch"]


@pytest.mark.slow
def test_it_imports_without_the_repository(installed):
    assert run(ALONE, installed) == "[]"


@pytest.mark.slow
def test_both_names_live_in_one_process(installed):
    assert run(TOGETHER, installed, ROOT) == "True"
