"""Configs and small file sets for the tests of LaCLIP."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from projects.laclip.config import Config
from tests.configs import configs_of

SOURCES = ("chatgpt", "bard", "mscoco", "human")

config = configs_of(Config, "laclip")


def text_of(source: str, row: int) -> str:
    """The text that the files of `official` hold for a source and an image row."""
    return f"caption number {row}" if source == "original" else f"{source} says {row}"


@pytest.fixture
def official(tmp_path: Path) -> Path:
    """A data root in the official layout: 12 images, captions, four rewrite files."""
    folder = tmp_path / "toy"
    folder.mkdir()
    rng = np.random.default_rng(0)
    lines = []
    for row in range(12):
        pixels = rng.integers(0, 256, (40, 48, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"{row}.png")
        lines += [f"{row}.png,{text_of('original', row)}", f"notes{row}.gif,skipped"]
    (folder / "toy.csv").write_text("\n".join(lines) + "\n", encoding="utf-8")
    for source in SOURCES:
        texts = "".join(text_of(source, row) + "\n" for row in range(12))
        (folder / f"toy_{source}.txt").write_text(texts, encoding="utf-8")
    return tmp_path


def csv_config(root: Path, *overrides: str) -> Config:
    """The smoke config on the files of `official`."""
    return config(
        "data.source=csv",
        "data.captions=toy/toy.csv",
        f"data.root={root}",
        "data.batch_size=4",
        "data.texts=[original,chatgpt,bard,mscoco,human]",
        *overrides,
    )
