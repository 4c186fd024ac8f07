"""A picture reaches an exported model as open_clip's own transform of its folder would bring it."""

import json
import shutil

import numpy as np
import open_clip
import pytest
import torch
from PIL import Image

from common.data.lookup import BUNDLED
from common.encoders.image_text.frozen_clip import FrozenClip
from common.encoders.image_text.open_clip_dual import CONFIG_FILE, OpenClipDualEncoder

PICTURE = Image.fromarray(np.random.default_rng(0).integers(0, 255, (90, 150, 3), np.uint8))


@pytest.mark.parametrize(
    ("interpolation", "mode"),
    [("bilinear", "shortest"), ("bicubic", "squash"), ("bicubic", "longest")],
)
def test_the_folder_says_how_a_picture_is_resized(tmp_path, interpolation, mode):
    folder = shutil.copytree(BUNDLED / "models/dual-encoder", tmp_path / "model")
    config = json.loads((folder / CONFIG_FILE).read_text())
    config["preprocess_cfg"] |= {"interpolation": interpolation, "resize_mode": mode}
    (folder / CONFIG_FILE).write_text(json.dumps(config))
    theirs = open_clip.create_model_and_transforms(f"local-dir:{folder}")[2](PICTURE)
    assert torch.equal(OpenClipDualEncoder.from_folder(folder).preprocess()(PICTURE), theirs)
    assert torch.equal(FrozenClip(str(folder)).preprocess(PICTURE), theirs)
