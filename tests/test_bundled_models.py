"""Every model under data/models, loaded from its folder as a user would, has the figures of its
card.
"""

import json
import shutil

import open_clip
import pytest
import torch
from PIL import Image

from common.data.lookup import BUNDLED
from scripts.pretrain.figures import causal_loss, figures, masked_loss, stated

pytestmark = pytest.mark.slow

MODELS = sorted(
    p.name
    for p in (BUNDLED / "models").iterdir()
    if (p / "config.json").is_file() or (p / "open_clip_config.json").is_file()
)
TOLERANCE = {"loss": 0.1, "accuracy": 0.02, "stsb_spearman": 0.01}


def test_something_was_found():
    assert len(MODELS) >= 3


@pytest.mark.parametrize("name", MODELS)
def test_a_model_has_the_figures_of_its_card(name):
    folder = BUNDLED / "models" / name
    card, actual = stated(folder), figures(folder)
    assert actual.keys() == card.keys()
    for figure, value in actual.items():
        assert value == pytest.approx(card[figure], abs=TOLERANCE.get(figure, 0.01)), figure


def test_the_dual_encoder_opens_in_open_clip():
    folder = f"local-dir:{BUNDLED / 'models' / 'dual-encoder'}"
    model, _, preprocess = open_clip.create_model_and_transforms(folder)
    picture = preprocess(Image.new("RGB", (64, 64), "red"))[None]
    tokens = open_clip.get_tokenizer(folder)(["a red square", "a cat"])
    with torch.inference_mode():
        rows = [model.eval().encode_image(picture), model.encode_text(tokens)]
    assert [tuple(row.shape) for row in rows] == [(1, 128), (2, 128)]
    assert all(row.isfinite().all() for row in rows)


@pytest.mark.parametrize("name", ["causal-lm", "text-encoder"])
def test_weights_of_another_vocabulary_are_noticed(name, tmp_path):
    """The mutant: ten more letters in the vocabulary, every later piece ten places further."""
    folder = tmp_path / name
    shutil.copytree(BUNDLED / "models" / name, folder)
    path = folder / "tokenizer.json"
    content = json.loads(path.read_text(encoding="utf-8"))
    vocab = content["model"]["vocab"]
    last = len(vocab) - 1
    content["model"]["vocab"] = {
        piece: number if number < 500 else 500 + (number - 490) % (last - 499)
        for piece, number in vocab.items()
    }
    path.write_text(json.dumps(content), encoding="utf-8")
    loss = masked_loss if name == "text-encoder" else causal_loss
    assert loss(folder, 40)["loss"] > stated(folder)["loss"] + 1
