"""The parts of an open_clip model put together again give its embeddings."""

import pytest
import torch

from common.config import UserError
from common.encoders.image_text.open_clip_dual import OpenClipDualEncoder
from projects.clip_baselines import open_clip_parts as parts
from projects.rtd.pseudo_tokens import ClipText

TEXT = {"context_length": 12, "vocab_size": 49408, "width": 32, "heads": 2, "layers": 2}
VISION = {
    "timm": {
        "timm_model_name": "test_byobnet",
        "timm_pool": "avg",
        "timm_proj": "linear",
        "image_size": 32,
    },
    "vit": {"layers": 1, "width": 32, "head_width": 16, "patch_size": 8, "image_size": 32},
    "resnet": {"layers": [1, 1, 1, 1], "width": 16, "head_width": 16, "image_size": 32},
}


def encoder(kind, **text):
    torch.manual_seed(0)
    return OpenClipDualEncoder(
        {"embed_dim": 16, "vision_cfg": VISION[kind], "text_cfg": TEXT | text}
    ).eval()


@pytest.mark.parametrize("kind", ["timm", "vit"])
def test_features_and_projections_give_the_embeddings(kind):
    model = encoder(kind)
    parts.check_parts(model)
    images, tokens = torch.randn(2, 3, 32, 32), model.tokenizer(["a cat", "two red arrows here"])
    image, text = model.image_features(images), parts.text_features(model, tokens)
    assert parts.feature_dims(model) == (image.shape[1], text.shape[1])
    torch.testing.assert_close(parts.project_image(model, image), model.encode_image(images))
    torch.testing.assert_close(
        parts.project_text(model, text), model.encode_text(tokens), rtol=1e-4, atol=1e-5
    )
    model.set_grad_checkpointing()
    torch.testing.assert_close(parts.text_features(model, tokens), text)


def test_recomputing_blocks_of_other_options_is_refused():
    """open_clip gives such a block the arguments of the plain one."""
    model = OpenClipDualEncoder(
        {"embed_dim": 16, "vision_cfg": {**VISION["vit"], "qk_norm": True}, "text_cfg": TEXT}
    )
    with pytest.raises(UserError, match="cannot recompute blocks .* such as qk_norm"):
        model.set_grad_checkpointing()


def test_noise_is_of_training_mode_and_drop_path_keeps_the_mean():
    model, tokens = encoder("vit"), encoder("vit").tokenizer(["a cat"] * 400)
    plain = parts.text_features(model, tokens)
    assert torch.equal(plain, parts.text_features(model, tokens, dropout=0.5, drop_path=0.5))
    model.train()
    for noise in ({"dropout": 0.1}, {"drop_path": 0.3}):
        assert not torch.allclose(plain, parts.text_features(model, tokens, **noise), atol=1e-3)
    kept = parts._skipped(torch.ones(4000, 2, 2), 0.25)
    torch.testing.assert_close(kept.unique(), torch.tensor([0.0, 4 / 3]))
    assert abs(float(kept.mean()) - 1) < 0.05


def test_an_attention_pool_is_refused():
    with pytest.raises(UserError, match="attention pool"):
        parts.check_parts(encoder("resnet"))


@pytest.mark.parametrize(
    "text", [{"pool_type": "last"}, {"no_causal_mask": True}, {"pool_type": "eos", "eos_id": 2}]
)
def test_texts_that_are_pooled_otherwise_are_refused(text):
    """CLIPA's models pool the last token and see both sides: the state at the end of text is
    another.
    """
    with pytest.raises(UserError, match="pools its texts by"):
        parts.check_parts(encoder("vit", **text))
    with pytest.raises(UserError, match="pools its texts by"):
        ClipText(encoder("vit", **text).model)
