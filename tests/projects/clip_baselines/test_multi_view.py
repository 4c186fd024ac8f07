"""Multi-view pairs: what is refused (the rest is tested where it is used)."""

import pytest
import torch

from common.config import UserError
from common.data.image.multi_view import ViewStack
from common.data.image.sources import CachedImages, TrainTransform
from common.data.image_text.captions import CaptionLists
from common.data.text.tokenizers import ClipTokenizer
from projects.clip_baselines.multi_view import MultiViewPairs


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
