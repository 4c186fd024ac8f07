"""Multi-view pairs: what is refused, and streams (the rest is tested where it is used)."""

import io
import json
import tarfile

import numpy as np
import pytest
import torch
from PIL import Image

from common.config import UserError
from common.data.image.multi_view import ViewStack
from common.data.image.sources import CachedImages, ImageFiles, TrainTransform
from common.data.image_text.captions import CaptionLists
from common.data.image_text.streaming import ShardStream
from common.data.text.tokenizers import ClipTokenizer
from projects.clip_baselines.multi_view import MultiViewPairs, MultiViewSamples, ViewTexts


def pairs(views, count=4, num_views=1):
    pixels = torch.zeros(4, 3, 8, 8, dtype=torch.uint8)
    stack = CachedImages(pixels, ViewStack((TrainTransform(8),))) if views else None  # type: ignore[arg-type]
    texts = CaptionLists([["a b"]] * count)
    return MultiViewPairs(
        CachedImages(pixels, TrainTransform(8)),
        stack,
        texts,
        ClipTokenizer(8),
        seed=0,
        num_views=num_views,
    )


def test_parts_that_do_not_fit_are_refused():
    with pytest.raises(UserError, match="equally many"):
        pairs(True, count=3)
    for views, number in ((False, 1), (True, 0)):
        with pytest.raises(ValueError, match="do not fit"):
            pairs(views, num_views=number)


def test_a_batch_depends_on_index_and_epoch_alone():
    actual = pairs(True)
    one, two = actual[[(2, 1)]], actual[[(0, 5), (2, 1)]]
    assert torch.equal(one["views"][:, 0], two["views"][:, 1])
    assert torch.equal(one["images"][0], two["images"][1])


@pytest.mark.parametrize("num_views", [0, 2])
def test_a_stream_has_the_batches_of_the_same_files(tmp_path, num_views):
    """Of a pair whose title is empty the description is drawn."""
    texts = [["", "b c"], ["d e", "f"], ["g", "h i j"]]
    pixels = np.random.default_rng(0).integers(0, 255, (3, 12, 10, 3), dtype=np.uint8)
    with tarfile.open(tmp_path / "0.tar", "w") as tar:
        for i, (title, description) in enumerate(texts):
            Image.fromarray(pixels[i]).save(tmp_path / f"{i}.png")
            sample = {
                "png": (tmp_path / f"{i}.png").read_bytes(),
                "txt": title.encode(),
                "json": json.dumps({"description": description}).encode(),
            }
            for suffix, content in sample.items():
                info = tarfile.TarInfo(f"{i}.{suffix}")
                info.size = len(content)
                tar.addfile(info, io.BytesIO(content))
    clean, views = TrainTransform(8), ViewStack((TrainTransform(8),) * 2) if num_views else None
    tokenizer = ClipTokenizer(8)
    files = [
        None if t is None else ImageFiles(lambda i: tmp_path / f"{i}.png", 3, t)
        for t in (clean, views)
    ]
    (expected, later) = (
        MultiViewPairs(*files, CaptionLists(texts), tokenizer, seed=3, num_views=num_views)[
            [(i, epoch) for i in range(3)]
        ]
        for epoch in (0, 1)
    )
    samples = MultiViewSamples(
        clean,
        views,
        ViewTexts(tokenizer, num_views),
        seed=3,
        text_keys=("txt", "json.description"),
    )
    stream = ShardStream(
        str(tmp_path / "0.tar"), samples, batch_size=3, seed=3, num_samples=3, shuffle_buffer=0
    )
    batch = next(iter(stream))
    for name in ("images", "views", "tokens", "ids"):
        assert torch.equal(batch[name], expected[name]), name
    assert batch["texts"] == expected["texts"]
    assert not torch.equal(batch["images"], later["images"])
