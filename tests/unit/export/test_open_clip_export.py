"""Exported folders load in open_clip itself and give equal embeddings."""

import json
import shutil

import open_clip
import pytest
import torch

from common.config import UserError
from common.data.text.tokenizers import BpeTokenizer, ClipTokenizer
from common.encoders.image.towers import ConvNet
from common.encoders.image.vit import QKNormViT
from common.encoders.image_text.clip_text import ClipTextTransformer
from common.encoders.image_text.dual import DualEncoder, build_dual_encoder
from common.encoders.image_text.open_clip_dual import OpenClipDualEncoder
from common.export.open_clip import load_open_clip, save_open_clip

TEXTS = ["A red   BUS", "two &amp; more cats", "d\u00e9j\u00e0 vu", "bus " * 20]
SCALE = {"log_scale": 3.25, "mean": (0.5, 0.4, 0.3), "std": (0.2, 0.25, 0.3)}
VISION = {
    "vit": {"image_size": 16, "patch_size": 8, "width": 32, "layers": 2, "head_width": 16},
    "resnet": {"image_size": 32, "layers": [1, 1, 1, 1], "width": 8, "head_width": 32},
    "timm": {"image_size": 32, "timm_model_name": "test_resnet", "timm_pool": "avg"},
}


def bpe() -> BpeTokenizer:
    return BpeTokenizer.train(["a red bus", "two cats and a bus"], vocab_size=290, context_length=8)


def stir(module: torch.nn.Module) -> None:
    """Move every parameter and statistic off its initial value."""
    with torch.no_grad():
        for tensor in module.state_dict().values():
            if tensor.is_floating_point() and tensor.ndim:
                tensor.add_(0.1 * torch.rand_like(tensor))


def from_config(kind: str, tokenizer=None) -> OpenClipDualEncoder:
    torch.manual_seed(0)
    vocabulary = tokenizer.vocab_size if tokenizer else 49408
    text = {"vocab_size": vocabulary, "context_length": 8, "width": 16, "heads": 2, "layers": 1}
    config = {"embed_dim": 12, "vision_cfg": VISION[kind], "text_cfg": text}
    encoder = OpenClipDualEncoder(config, tokenizer=tokenizer).eval()
    stir(encoder)
    return encoder


def from_towers(image: str, text: str, *, qk_norm: bool = True, tokenizer=None) -> DualEncoder:
    torch.manual_seed(0)
    tokenizer = tokenizer or ClipTokenizer(8)
    vit = QKNormViT(16, 8, 24, 2, 3, 2.0, qk_norm=qk_norm, activation=image)
    transformer = ClipTextTransformer(tokenizer.vocab_size, 8, 32, 4, 2, 2.0, activation=text)
    encoder = DualEncoder(vit, transformer, 12, tokenizer=tokenizer).eval()
    stir(encoder)
    return encoder


def embeddings(encoder, tokens: torch.Tensor) -> torch.Tensor:
    size = getattr(encoder, "image_size", None) or encoder.image_tower.image_size
    images = torch.randn(3, 3, size, size, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        return torch.cat([encoder.encode_image(images), encoder.encode_text(tokens)])


def open_clip_embeddings(folder, size: int, tokens: torch.Tensor) -> torch.Tensor:
    model, _, _ = open_clip.create_model_and_transforms(f"local-dir:{folder}")
    images = torch.randn(3, 3, size, size, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        model.eval()
        return torch.cat([model.encode_image(images), model.encode_text(tokens)])


BUILD = {
    "config-vit": lambda: from_config("vit"),
    "config-resnet": lambda: from_config("resnet"),
    "config-timm": lambda: from_config("timm"),
    "config-bpe": lambda: from_config("vit", bpe()),
    "towers-gelu": lambda: from_towers("gelu", "gelu"),
    "towers-quick": lambda: from_towers("quick_gelu", "quick_gelu"),
    "towers-plain-attention": lambda: from_towers("gelu", "gelu", qk_norm=False),
    "towers-laclip": lambda: from_towers("gelu", "quick_gelu"),
    "towers-bpe": lambda: from_towers("gelu", "gelu", tokenizer=bpe()),
}


@pytest.mark.parametrize("kind", BUILD)
def test_open_clip_loads_equal_embeddings_and_ids(tmp_path, kind):
    encoder = BUILD[kind]()
    folder = save_open_clip(encoder, tmp_path / "export", **SCALE)
    tokens = encoder.tokenizer(TEXTS)
    tokenizer = open_clip.get_tokenizer(f"local-dir:{folder}")
    assert torch.equal(tokenizer(TEXTS), tokens)
    ours = embeddings(encoder, tokens)
    size = getattr(encoder, "image_size", None) or encoder.image_tower.image_size
    torch.testing.assert_close(open_clip_embeddings(folder, size, tokens), ours, atol=1e-5, rtol=0)
    again = load_open_clip(folder)
    torch.testing.assert_close(embeddings(again, again.tokenizer(TEXTS)), ours, atol=1e-5, rtol=0)
    assert again.log_scale == 3.25
    assert again.image_mean == SCALE["mean"]


def test_perturbed_weights_give_other_embeddings(tmp_path):
    encoder = from_towers("gelu", "gelu")
    folder = save_open_clip(encoder, tmp_path, **SCALE)
    tokens = encoder.tokenizer(TEXTS)
    with torch.no_grad():
        encoder.image_tower.trunk.blocks[1].attn.q_norm.weight[3] += 0.5
    ours, theirs = embeddings(encoder, tokens), open_clip_embeddings(folder, 16, tokens)
    assert (ours[:3] - theirs[:3]).abs().max() > 1e-4
    torch.testing.assert_close(ours[3:], theirs[3:], atol=1e-5, rtol=0)


def test_preprocessing_is_stored(tmp_path):
    save_open_clip(from_config("vit"), tmp_path, **SCALE, resize_mode="squash")
    model, _, transform = open_clip.create_model_and_transforms(f"local-dir:{tmp_path}")
    normalise = transform.transforms[-1]
    assert tuple(normalise.mean) == SCALE["mean"]
    assert tuple(normalise.std) == SCALE["std"]
    assert model.visual.preprocess_cfg["resize_mode"] == "squash"
    assert float(model.logit_scale.detach()) == 3.25


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_files_are_small_and_close(tmp_path, dtype):
    encoder = from_towers("gelu", "gelu")
    tokens = encoder.tokenizer(TEXTS)
    full = save_open_clip(encoder, tmp_path / "full", **SCALE)
    half = save_open_clip(encoder, tmp_path / "half", **SCALE, dtype=dtype)
    sizes = [(f / "open_clip_model.safetensors").stat().st_size for f in (full, half)]
    assert sizes[1] < 0.52 * sizes[0]
    again = load_open_clip(half)
    assert {p.dtype for p in again.parameters()} == {torch.float32}
    expected = embeddings(encoder, tokens)
    torch.testing.assert_close(embeddings(again, tokens), expected, atol=0.1, rtol=0.05)
    assert not torch.equal(embeddings(again, tokens), expected)


def test_bfloat16_encoder_exports_in_float32(tmp_path):
    encoder = from_towers("gelu", "gelu").bfloat16()
    tokens = encoder.tokenizer(TEXTS)
    save_open_clip(encoder, tmp_path, **SCALE)
    expected = embeddings(encoder.float(), tokens)
    loaded = embeddings(load_open_clip(tmp_path), tokens)
    torch.testing.assert_close(loaded, expected, atol=1e-5, rtol=0)


def test_laclip_folder_can_move(tmp_path):
    encoder = from_towers("gelu", "quick_gelu")
    tokens = encoder.tokenizer(TEXTS)
    save_open_clip(encoder, tmp_path / "old", **SCALE)
    shutil.move(tmp_path / "old", tmp_path / "new")
    again = load_open_clip(tmp_path / "new")
    expected = embeddings(encoder, tokens)
    torch.testing.assert_close(embeddings(again, tokens), expected, atol=1e-5, rtol=0)
    save_open_clip(again, tmp_path / "third", **SCALE)
    shutil.rmtree(tmp_path / "new")
    theirs = open_clip_embeddings(tmp_path / "third", 16, tokens)
    torch.testing.assert_close(theirs, expected, atol=1e-5, rtol=0)


def test_a_folder_that_the_engine_renames_names_its_final_place(tmp_path):
    encoder = from_towers("gelu", "gelu")
    temporary = save_open_clip(encoder, tmp_path / "export.tmp", **SCALE)
    folder = temporary.rename(tmp_path / "export")
    assert ".tmp" not in (folder / "open_clip_config.json").read_text()
    tokens = encoder.tokenizer(TEXTS)
    ours, theirs = embeddings(encoder, tokens), open_clip_embeddings(folder, 16, tokens)
    torch.testing.assert_close(theirs, ours, atol=1e-5, rtol=0)


def test_layer_norm_epsilon_of_the_published_model_survives(tmp_path):
    for text in ("gelu", "quick_gelu"):
        folder = save_open_clip(from_towers("gelu", text), tmp_path / text, **SCALE)
        visual = open_clip.create_model(f"local-dir:{folder}").visual
        norms = [m.eps for m in visual.modules() if isinstance(m, torch.nn.LayerNorm)]
        assert norms == [1e-6] * 9  # two blocks of four, and the last one


def test_loaded_encoder_exports_again(tmp_path):
    encoder = from_config("vit", bpe())
    save_open_clip(encoder, tmp_path / "first", **SCALE)
    loaded = build_dual_encoder(pretrained=str(tmp_path / "first")).eval()
    save_open_clip(loaded, tmp_path / "second", **SCALE)
    again = load_open_clip(tmp_path / "second")
    tokens = encoder.tokenizer(TEXTS)
    assert torch.equal(again.tokenizer(TEXTS), tokens)
    assert torch.equal(embeddings(again, tokens), embeddings(encoder, tokens))


def test_a_config_that_contradicts_the_folder_is_refused(tmp_path):
    save_open_clip(from_config("vit"), tmp_path, **SCALE)
    with pytest.raises(UserError, match="differs from the one"):
        build_dual_encoder(open_clip="ViT-B-32", pretrained=str(tmp_path))


def test_weights_of_another_model_are_refused(tmp_path):
    save_open_clip(from_config("vit"), tmp_path / "a", **SCALE)
    save_open_clip(from_config("resnet"), tmp_path / "b", **SCALE)
    name = "open_clip_model.safetensors"
    shutil.copy(tmp_path / "b" / name, tmp_path / "a" / name)
    with pytest.raises(UserError, match="not a checkpoint of this CLIP"):
        load_open_clip(tmp_path / "a")
    with pytest.raises(UserError, match="not an open_clip folder"):
        load_open_clip(tmp_path / "absent")
    for content, said in (
        ("[]", "not an open_clip folder"),
        ('{"model_cfg": {"embed_dim": 8}}', "needs vision_cfg"),
    ):
        (tmp_path / "a" / "open_clip_config.json").write_text(content)
        with pytest.raises(UserError, match=said):
            load_open_clip(tmp_path / "a")


def test_what_open_clip_cannot_express_is_refused_before_writing(tmp_path):
    text = ClipTextTransformer(49408, 8, 32, 4, 1)
    conv = DualEncoder(ConvNet((4, 8)), text, 6)
    with pytest.raises(UserError, match="cannot express ConvNet"):
        save_open_clip(conv, tmp_path / "x", **SCALE)
    vit = QKNormViT(16, 8, 24, 1, 3)
    biased = DualEncoder(vit, text, 6, image_proj=torch.nn.Linear(24, 6))
    with pytest.raises(UserError, match="bias-free"):
        save_open_clip(biased, tmp_path / "x", **SCALE)
    small = DualEncoder(vit, ClipTextTransformer(40, 8, 32, 4, 1), 6, tokenizer=len)
    with pytest.raises(UserError, match="tokenizer cannot be saved"):
        save_open_clip(small, tmp_path / "x", **SCALE)
    with pytest.raises(UserError, match="QuickGELU image tower"):
        save_open_clip(from_towers("quick_gelu", "gelu"), tmp_path / "x", **SCALE)
    assert not (tmp_path / "x").exists()


def test_exporting_over_an_export_keeps_other_files_and_leaves_no_rest(tmp_path):
    (tmp_path / "note.txt").write_text("mine")
    save_open_clip(from_config("vit"), tmp_path, **SCALE)
    save_open_clip(from_config("vit"), tmp_path, **SCALE | {"log_scale": 1.5})
    names = sorted(p.name for p in tmp_path.iterdir())
    assert names == ["note.txt", "open_clip_config.json", "open_clip_model.safetensors"]
    assert load_open_clip(tmp_path).log_scale == 1.5
    assert "model_cfg" in json.loads((tmp_path / "open_clip_config.json").read_text())
