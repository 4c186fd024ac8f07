"""Training from webdataset shards: corrupt samples are passed over, counted and reported."""

import io
import json
import tarfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from common.config import UserError
from common.engine.run import train

BROKEN = (17, 60, 142)


def write_shards(folder: Path, broken: tuple[int, ...], num_shards: int = 1) -> None:
    """200 pairs with two rewrites each; the images of `broken` are no images."""
    rng = np.random.default_rng(0)
    folder.mkdir(parents=True)
    for shard in range(num_shards):
        with tarfile.open(folder / f"{shard:05d}.tar", "w") as tar:
            for i in range(shard, 200, num_shards):
                buffer = io.BytesIO()
                pixels = rng.integers(0, 256, (40, 40, 3), dtype=np.uint8)
                Image.fromarray(pixels).save(buffer, "jpeg")
                image = b"not an image" if i in broken else buffer.getvalue()
                texts = {"chatgpt": f"a rewrite of {i}", "bard": f"another wording of {i}"}
                for suffix, content in (
                    ("jpg", image),
                    ("txt", f"caption of picture {i}".encode()),
                    ("json", json.dumps(texts).encode()),
                ):
                    info = tarfile.TarInfo(f"{i:06d}.{suffix}")
                    info.size = len(content)
                    tar.addfile(info, io.BytesIO(content))


def settings(root: Path, *more: str) -> list[str]:
    return [
        "data.source=webdataset",
        "data.shards=set/{00000..00000}.tar",
        f"data.root={root}",
        "data.texts=[original,chatgpt,bard]",
        "data.batch_size=20",
        "data.num_samples=200",
        "trainer.max_steps=10",
        f"runs_dir={root}/runs",
        "run_id=r",
        "tracking.wandb=disabled",
        *more,
    ]


@pytest.mark.slow
@pytest.mark.parametrize(("broken", "skipped"), [(BROKEN, 3), ((), 0)])
def test_three_broken_samples_among_200_are_skipped_and_reported(tmp_path, broken, skipped):
    write_shards(tmp_path / "set", broken)
    run = train("laclip", "smoke", settings(tmp_path))
    meta = json.loads((run / "meta.json").read_text())
    assert meta["skipped_samples"] == skipped
    assert meta["num_steps"] == 10
    assert json.loads((run / "metrics.json").read_text())


@pytest.mark.slow
def test_too_many_broken_samples_stop_the_run(tmp_path):
    write_shards(tmp_path / "set", tuple(range(0, 200, 3)))
    with pytest.raises(UserError, match="corrupt|unreadable|broken"):
        train("laclip", "smoke", settings(tmp_path, "trainer.max_steps=20"))


@pytest.mark.slow
def test_fewer_shards_than_readers_is_an_error(tmp_path):
    write_shards(tmp_path / "set", ())
    with pytest.raises(UserError, match="shard"):
        train("laclip", "smoke", settings(tmp_path, "data.num_workers=2"))
