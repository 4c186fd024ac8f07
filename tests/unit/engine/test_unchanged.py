"""Which baselines `VERIFY=code` leaves out: those that reach the same code and data as then."""

import shutil

import pytest

from common.config import ROOT
from common.engine.renewal.unchanged import same_baseline

PROJECT, NAME = "cacr", "raw_pixels"


@pytest.fixture
def then(tmp_path):
    """A copy of the code that the project's baselines can reach, with today's data."""
    keep = shutil.ignore_patterns("__pycache__")
    shutil.copytree(ROOT / "common", tmp_path / "common", ignore=keep)
    shutil.copytree(ROOT / "projects" / PROJECT, tmp_path / "projects" / PROJECT, ignore=keep)
    shutil.copy(ROOT / "projects/__init__.py", tmp_path / "projects/__init__.py")
    (tmp_path / "data").mkdir()
    for folder in (ROOT / "data").glob("*/"):
        (tmp_path / "data" / folder.name).symlink_to(folder)
    return tmp_path


def edit(path, old, new):
    text = path.read_text(encoding="utf-8")
    assert text.count(old) >= 1
    path.write_text(text.replace(old, new, 1), encoding="utf-8")


@pytest.mark.parametrize(
    ("file", "old", "new", "same"),
    [
        ("projects/cacr/README.md", "CACR", "cacr", True),
        ("projects/cacr/baselines.py", '"""', '"""Another docstring. ', True),
        (
            "projects/cacr/unlabelled.py",
            "return metrics",
            "return {}",
            True,
        ),  # of trained runs alone
        (
            "projects/cacr/config.py",
            "views: Annotated[int, at_least(2)] = 5",
            "views: Annotated[int, at_least(2)] = 6",
            False,
        ),
        (
            "projects/cacr/data.py",
            "return images.image_part(",
            "return 0 or images.image_part(",
            False,
        ),
        (
            "common/engine/comparison/baselines.py",
            "torch.inference_mode()",
            "torch.no_grad()",
            False,
        ),
    ],
)
def test_what_a_baseline_reaches_decides(then, file, old, new, same):
    if (then / file).exists():
        edit(then / file, old, new)
    assert same_baseline(PROJECT, NAME, then) == same


def test_data_that_have_changed_or_gone_count(then):
    bundled = then / "data/cifar10-subset"
    if not bundled.exists():
        bundled = next(p for p in (then / "data").iterdir() if "cifar" in p.name)
    source = bundled.resolve()
    bundled.unlink()
    shutil.copytree(source, bundled)
    assert same_baseline(PROJECT, NAME, then)
    (bundled / "more.txt").write_text("a file that a loader could have found")
    assert not same_baseline(PROJECT, NAME, then)
    (bundled / "more.txt").unlink()
    next(p for p in bundled.iterdir() if p.suffix != ".md").unlink()
    assert not same_baseline(PROJECT, NAME, then)


def test_a_baseline_that_was_not_there_is_another(then):
    (then / "projects" / PROJECT / "baselines.py").unlink()
    assert not same_baseline(PROJECT, NAME, then)
