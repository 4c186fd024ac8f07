"""Dual encoders from our towers and from open_clip; nothing is downloaded."""

import copy

import open_clip
import pytest
import torch
from safetensors.torch import save_file

from common.config import UserError
from common.encoders import pretrained
from common.encoders.image.towers import ConvNet
from common.encoders.image_text import open_clip_dual
from common.encoders.image_text.clip_text import ClipTextTransformer
from common.encoders.image_text.dual import DualEncoder, build_dual_encoder
from common.encoders.image_text.open_clip_dual import OpenClipDualEncoder

TEXT = {"vocab_size": 49408, "context_length": 8, "width": 32, "heads": 2, "layers": 1}
VIT = {"image_size": 16, "patch_size": 8, "width": 32, "layers": 2, "head_width": 16}
RESNET = {"image_size": 32, "layers": [1, 1, 1, 1], "width": 8, "head_width": 32}
TIMM = {"image_size": 32, "timm_model_name": "test_resnet", "timm_pool": "avg"}


def config(vision=VIT, **options):
    return {"embed_dim": 12, "vision_cfg": dict(vision), "text_cfg": dict(TEXT), **options}


@pytest.fixture(autouse=True)
def offline(monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")


def test_dual_encoder_projects_both_towers():
    torch.manual_seed(0)
    text = ClipTextTransformer(**TEXT | {"vocab_size": 40})
    encoder = DualEncoder(ConvNet((8, 16)), text, 6, tokenizer=len).eval()
    images, tokens = torch.randn(2, 3, 16, 16), torch.tensor([[38, 3, 39], [38, 4, 39]])
    features = encoder.image_features(images)
    assert features.shape == (2, 16)
    torch.testing.assert_close(encoder.encode_image(images), features @ encoder.image_proj.weight.T)
    torch.testing.assert_close(encoder.encode_text(tokens), encoder.text_proj(text(tokens)))
    joint = encoder(images, tokens)
    torch.testing.assert_close(joint[0], encoder.encode_image(images))
    torch.testing.assert_close(joint[1], encoder.encode_text(tokens))
    assert encoder.tokenizer is len
    assert not any("tokenizer" in key for key in encoder.state_dict())


def test_projections_of_laclip_have_std_of_the_tower_width():
    torch.manual_seed(0)
    encoder = build_dual_encoder(
        vision="qknorm_vit_s16", image_size=32, text=TEXT | {"vocab_size": 40}, embed_dim=512
    )
    assert encoder.image_proj.weight.std().item() == pytest.approx(384**-0.5, rel=0.02)
    assert encoder.text_proj.weight.std().item() == pytest.approx(32**-0.5, rel=0.03)
    assert encoder.image_proj.bias is None


def test_paper_size_on_the_meta_device():
    with torch.device("meta"):
        encoder = build_dual_encoder(vision="qknorm_vit_b16", embed_dim=512)
        other = build_dual_encoder(open_clip="ViT-B-32")
    millions = sum(p.numel() for p in encoder.parameters()) / 1e6
    assert millions == pytest.approx(149.3, abs=0.5)
    assert sum(p.numel() for p in other.parameters()) / 1e6 == pytest.approx(151.3, abs=0.5)


@pytest.mark.parametrize("vision", [VIT, RESNET, TIMM], ids=["vit", "resnet", "timm"])
def test_open_clip_encoder_equals_the_model_inside(vision):
    torch.manual_seed(0)
    encoder = OpenClipDualEncoder(config(vision)).eval()
    images = torch.randn(2, 3, encoder.image_size, encoder.image_size)
    tokens = encoder.tokenizer(["a red bus", "two cats"])
    assert tokens.shape == (2, 8)
    assert torch.equal(encoder.encode_image(images), encoder.model.encode_image(images))
    assert torch.equal(encoder.encode_text(tokens), encoder.model.encode_text(tokens))
    assert encoder.embed_dim == encoder.encode_text(tokens).shape[1] == 12
    features, visual = encoder.image_features(images), encoder.model.visual
    if vision is VIT:
        torch.testing.assert_close(features @ visual.proj, visual(images))
    elif vision is TIMM:
        torch.testing.assert_close(visual.head(features), visual(images))
    else:
        assert features.shape == (2, 8 * 32)


def test_open_clip_tokenizer_and_name_agree_with_the_library():
    encoder = OpenClipDualEncoder(config())
    expected = open_clip.get_tokenizer("ViT-B-32")(["A photo of a caf\u00e9"], context_length=8)
    assert torch.equal(encoder.tokenizer(["A photo of a caf\u00e9"]), expected)


def test_logit_scale_is_frozen_and_readable():
    encoder = OpenClipDualEncoder(config(init_logit_bias=-10.0))
    assert encoder.log_scale == pytest.approx(2.6593, abs=1e-4)
    frozen = [n for n, p in encoder.named_parameters() if not p.requires_grad]
    assert frozen == ["model.logit_scale", "model.logit_bias"]


def test_every_trainable_parameter_gets_a_gradient():
    encoder = OpenClipDualEncoder(config())
    image, text = encoder(torch.randn(2, 3, 16, 16), encoder.tokenizer(["a", "b c"]))
    (image * text).sum().backward()
    lost = [n for n, p in encoder.named_parameters() if p.requires_grad and p.grad is None]
    assert lost == []


@pytest.mark.parametrize("custom", [False, True])
def test_weights_file_fits_both_namings(tmp_path, custom):
    source = OpenClipDualEncoder(config())
    path = tmp_path / "w.safetensors"
    save_file({f"module.{k}": v for k, v in source.model.state_dict().items()}, path)
    target = OpenClipDualEncoder(config(custom_text=custom), str(path))
    tokens = source.tokenizer(["a red bus"])
    assert torch.equal(source.encode_text(tokens), target.encode_text(tokens))


def test_weights_of_another_model_are_refused(tmp_path):
    path = tmp_path / "w.safetensors"
    save_file(OpenClipDualEncoder(config()).model.state_dict(), path)
    with pytest.raises(UserError, match=r"unexpected: .*resblocks\.1"):
        OpenClipDualEncoder(config(VIT | {"layers": 1}), str(path))
    with pytest.raises(UserError, match=r"other shape: .*positional_embedding"):
        OpenClipDualEncoder(config(VIT | {"image_size": 24}), str(path))


def test_config_is_not_changed_and_mistakes_are_named():
    given = config()
    before = copy.deepcopy(given)
    OpenClipDualEncoder(given)
    assert given == before
    with pytest.raises(UserError, match="patchsize"):
        OpenClipDualEncoder(config(VIT | {"patchsize": 8}))
    with pytest.raises(UserError, match="needs text_cfg"):
        OpenClipDualEncoder({"embed_dim": 3, "vision_cfg": {}})
    with pytest.raises(UserError, match="did you mean"):
        OpenClipDualEncoder("ViT-B-23")
    own = config()
    own["text_cfg"]["hf_tokenizer_name"] = "some"
    with pytest.raises(UserError, match="pass `tokenizer`"):
        OpenClipDualEncoder(own)


def test_tag_must_match_the_model_and_its_activation(monkeypatch):
    monkeypatch.setattr(pretrained, "_open_clip_cached", lambda cfg: True)
    with pytest.raises(UserError, match="needs the open_clip model 'ViT-B-32'"):
        build_dual_encoder(open_clip="ViT-B-16", pretrained="open_clip:ViT-B-32/laion2b_e16")
    with pytest.raises(UserError, match="ViT-B-16-quickgelu/openai"):
        build_dual_encoder(pretrained="open_clip:ViT-B-16/openai")


def test_tag_loads_through_open_clip(monkeypatch):
    """The download is replaced; name, tag and preprocessing arrive."""
    made = []

    def create(name, tag, **options):
        made.append((name, tag, options))
        model = open_clip_dual._create(config())
        open_clip.model.set_model_preprocess_cfg(model, {"mean": (0.5,) * 3, "std": (0.2,) * 3})
        return model

    monkeypatch.setattr(pretrained, "_open_clip_cached", lambda cfg: True)
    monkeypatch.setattr(open_clip_dual.open_clip, "create_model", create)
    encoder = build_dual_encoder(pretrained="open_clip:ViT-B-32/laion2b_e16")
    assert made == [("ViT-B-32", "laion2b_e16", {"require_pretrained": True})]
    assert encoder.image_mean == (0.5, 0.5, 0.5)


def test_absent_weights_are_never_a_random_init():
    with pytest.raises(UserError, match="not in the local cache"):
        build_dual_encoder(pretrained="open_clip:ViT-B-32/laion2b_s34b_b79k")
    with pytest.raises(UserError, match="does not exist"):
        build_dual_encoder(vision="conv", text=TEXT, pretrained="absent.safetensors")


def test_checkpoint_of_the_official_code_loads(tmp_path):
    """Its names: visual.*, text parameters at the root, projections as (F, D), DDP's prefix."""
    build = {"vision": "qknorm_vit_s16", "image_size": 32, "text": TEXT | {"vocab_size": 40}}
    source = build_dual_encoder(**build).eval()
    state = {"logit_scale": torch.tensor(4.6)}
    for name, tensor in source.state_dict().items():
        if name in ("image_proj.weight", "text_proj.weight"):
            state[name.replace("_proj.weight", "_projection")] = tensor.T
        else:
            name = name.replace("image_tower.trunk.", "visual.")
            state[name.replace("text_tower.trunk.", "")] = tensor
    state = {f"module.{name}": tensor for name, tensor in state.items()}
    torch.save({"epoch": 1, "state_dict": state}, tmp_path / "best.pt")
    target = build_dual_encoder(**build, pretrained=str(tmp_path / "best.pt")).eval()
    images, tokens = torch.randn(2, 3, 32, 32), torch.tensor([[38, 3, 39], [38, 4, 39]])
    for ours, theirs in zip(source(images, tokens), target(images, tokens), strict=True):
        assert torch.equal(ours, theirs)
    with pytest.raises(UserError, match="not a checkpoint of this DualEncoder"):
        build_dual_encoder(**build | {"vision": "conv"}, pretrained=str(tmp_path / "best.pt"))


def test_builder_refuses_contradictions(monkeypatch):
    monkeypatch.setattr(pretrained, "_in_hub_cache", lambda *_: True)
    with pytest.raises(UserError, match="need vision"):
        build_dual_encoder(open_clip="ViT-B-32", text={"width": 8})
    with pytest.raises(UserError, match="widht"):
        build_dual_encoder(vision="conv", text={"widht": 8})
    with pytest.raises(UserError, match="does not fit vision"):
        build_dual_encoder(vision="conv", text=TEXT, pretrained="org/model")
    with pytest.raises(UserError, match="not both"):
        build_dual_encoder(open_clip="ViT-B-32", vision="conv")
    with pytest.raises(UserError, match="give open_clip"):
        build_dual_encoder()
    with pytest.raises(UserError, match="qknorm_vit_b16"):
        build_dual_encoder(vision="resnet18")
    for vision in ("qknorm_vit_s16", "torchvision:vit_b_16"):
        with pytest.raises(UserError, match="multiple of"):
            build_dual_encoder(vision=vision, image_size=100, text=TEXT)
