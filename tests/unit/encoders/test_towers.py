"""Image and text towers: values, initialisation, errors."""

import math

import pytest
import torch
from safetensors.torch import save_file
from torch import nn
from torch.nn import functional as F

from common.config import UserError
from common.encoders.heads import MLPHead, linear_projection
from common.encoders.image import towers
from common.encoders.image.by_name import image_encoder
from common.encoders.image.towers import ConvNet, timm_tower, torchvision_tower
from common.encoders.image.vit import QKNormViT
from common.encoders.image_text.clip_text import ClipTextTransformer
from common.encoders.pretrained import PretrainedRef


def tiny_vit(**options) -> QKNormViT:
    torch.manual_seed(0)
    return QKNormViT(16, 8, width=24, depth=2, heads=3, **options)


def tiny_text(**options) -> ClipTextTransformer:
    torch.manual_seed(0)
    sizes = {"vocab_size": 50, "context_length": 9, "width": 32, "heads": 4, "layers": 2}
    return ClipTextTransformer(**(sizes | options))


def test_vit_block_normalises_q_and_k_per_head():
    tower = tiny_vit().double().eval()
    attention = tower.trunk.blocks[0].attn
    with torch.no_grad():
        for norm in (attention.q_norm, attention.k_norm):
            norm.weight.copy_(torch.linspace(0.5, 1.5, 8))
            norm.bias.copy_(torch.linspace(-0.3, 0.3, 8))
    x = torch.randn(2, 5, 24, dtype=torch.float64)
    q, k, v = (
        part.reshape(2, 5, 3, 8).transpose(1, 2) for part in attention.qkv(x).chunk(3, dim=-1)
    )
    norms = [(n.weight, n.bias, 1e-6) for n in (attention.q_norm, attention.k_norm)]
    q, k = F.layer_norm(q, (8,), *norms[0]), F.layer_norm(k, (8,), *norms[1])
    weights = (q @ k.transpose(-1, -2) / math.sqrt(8)).softmax(-1)
    expected = attention.proj((weights @ v).transpose(1, 2).reshape(2, 5, 24))
    torch.testing.assert_close(attention(x), expected)


def test_vit_output_is_the_normalised_class_token():
    tower = tiny_vit().eval()
    images = torch.randn(2, 3, 16, 16)
    tokens = tower.trunk.forward_features(images)
    torch.testing.assert_close(tower(images), tokens[:, 0])
    assert tower.trunk.norm.eps == 1e-6
    torch.testing.assert_close(tower(images).mean(-1), torch.zeros(2), atol=1e-5, rtol=0)


def test_qk_norm_changes_the_function():
    images = torch.randn(2, 3, 16, 16)
    assert not torch.allclose(tiny_vit()(images), tiny_vit(qk_norm=False)(images))


def test_official_init_is_the_linear_default_in_the_blocks_only():
    default, official = tiny_vit(), tiny_vit(official_init=True)
    weight = official.trunk.blocks[0].attn.qkv.weight
    assert weight.std().item() == pytest.approx(1 / math.sqrt(3 * 24), rel=0.1)  # U(+-1/sqrt(24))
    assert official.trunk.blocks[0].attn.qkv.bias.abs().max() > 0
    assert default.trunk.blocks[0].attn.qkv.weight.std().item() == pytest.approx(0.02, rel=0.1)
    assert default.trunk.blocks[0].attn.qkv.bias.abs().max() == 0
    for name in ("pos_embed", "patch_embed.proj.weight"):
        assert torch.equal(default.trunk.state_dict()[name], official.trunk.state_dict()[name])


def test_official_init_draws_the_class_token_like_the_release_s_timm():
    tokens = [
        QKNormViT(16, 8, width=600, depth=0, heads=3, official_init=official).trunk.cls_token
        for official in (False, True)
    ]
    assert tokens[0].std().item() < 1e-5
    assert tokens[1].std().item() == pytest.approx(0.02, rel=0.15)


@pytest.mark.parametrize(
    ("size", "heads", "depth", "width", "millions"),
    [("S/16", 12, 12, 384, 21.7), ("B/16", 12, 12, 768, 85.8), ("L/16", 16, 24, 1024, 303.3)],
)
def test_sizes_of_the_paper(size, heads, depth, width, millions):
    with torch.device("meta"):
        tower = QKNormViT.build(size)
    assert (tower.heads, tower.depth, tower.num_features) == (heads, depth, width)
    assert sum(p.numel() for p in tower.parameters()) / 1e6 == pytest.approx(millions, abs=0.1)


def test_vit_refuses_sizes_that_do_not_divide():
    with pytest.raises(ValueError, match="multiple of patch_size"):
        QKNormViT(30, 16)
    with pytest.raises(ValueError, match="one of"):
        QKNormViT.build("H/14")


def test_text_feature_is_taken_at_the_end_token_and_sees_only_the_past():
    tower = tiny_text().eval()
    tokens = torch.tensor([[48, 3, 4, 49, 0, 0], [48, 3, 4, 7, 8, 49]])
    features = tower(tokens)
    behind = tokens.clone()
    behind[0, 4:] = 11  # behind the end token: no influence
    torch.testing.assert_close(tower(behind), features)
    before = tokens.clone()
    before[0, 1] = 5
    assert not torch.allclose(tower(before)[0], features[0], atol=1e-4)
    torch.testing.assert_close(tower(before)[1], features[1])


def test_text_tower_equals_open_clip_and_ignores_extra_padding():
    tower = tiny_text().eval()
    tokens = torch.tensor([[48, 3, 4, 49, 0, 0, 0, 0, 0], [48, 9, 49, 0, 0, 0, 0, 0, 0]])
    torch.testing.assert_close(tower(tokens), tower.trunk(tokens))
    torch.testing.assert_close(tower(tokens), tower(tokens[:, :4]))


def test_text_init_follows_openai():
    torch.manual_seed(0)
    width, layers = 64, 3
    tower = ClipTextTransformer(600, 77, width, 4, layers)
    block = tower.trunk.transformer.resblocks[0]
    stds = {
        tower.trunk.token_embedding.weight: 0.02,
        tower.trunk.positional_embedding: 0.01,
        block.attn.in_proj_weight: width**-0.5,
        block.attn.out_proj.weight: width**-0.5 * (2 * layers) ** -0.5,
        block.mlp.c_fc.weight: (2 * width) ** -0.5,
        block.mlp.c_proj.weight: width**-0.5 * (2 * layers) ** -0.5,
    }
    for tensor, std in stds.items():
        assert tensor.std().item() == pytest.approx(std, rel=0.06)


def test_text_activation_is_quick_gelu_by_default():
    quick, exact = tiny_text(), tiny_text(activation="gelu")
    x = torch.linspace(-3, 3, 7)
    block = quick.trunk.transformer.resblocks[0]
    torch.testing.assert_close(block.mlp.gelu(x), x * torch.sigmoid(1.702 * x))
    tokens = torch.tensor([[48, 3, 4, 49]])
    assert not torch.allclose(quick(tokens), exact(tokens), atol=1e-5)


def test_text_refuses_wrong_shapes():
    with pytest.raises(ValueError, match="L <= 9"):
        tiny_text()(torch.zeros(1, 10, dtype=torch.long))
    with pytest.raises(ValueError, match="multiple of heads"):
        tiny_text(heads=5)


def test_bfloat16_towers_stay_close():
    text, image = tiny_text().eval(), tiny_vit().eval()
    tokens, images = torch.tensor([[48, 3, 4, 49]]), torch.randn(1, 3, 16, 16)
    with torch.no_grad():
        exact = torch.cat([text(tokens), image(images)], dim=1)
        text, image, images = text.bfloat16(), image.bfloat16(), images.bfloat16()
        low = torch.cat([text(tokens), image(images)], dim=1)
    assert low.dtype == torch.bfloat16
    torch.testing.assert_close(low.float(), exact, atol=0.1, rtol=0.1)


def test_gradients_reach_every_parameter():
    image, text, conv = tiny_vit(), tiny_text(), ConvNet((4, 6))
    out = image(torch.randn(2, 3, 16, 16)).square().sum()
    out = out + (text(torch.tensor([[48, 3, 49], [48, 5, 49]])) * torch.randn(32)).sum()
    out = out + conv(torch.randn(2, 3, 8, 8)).square().sum()
    out.backward()
    for tower in (image, text, conv):
        assert [n for n, p in tower.named_parameters() if p.grad is None] == []


def test_conv_net_halves_per_stage_and_pools_globally():
    net = ConvNet((4, 6, 8)).eval()
    images = torch.randn(2, 3, 32, 32)
    assert net.stages(images).shape == (2, 8, 4, 4)
    torch.testing.assert_close(net(images), net.stages(images).mean((2, 3)))
    with pytest.raises(ValueError, match="at least one width"):
        ConvNet(())


def test_torchvision_tower_with_cifar_stem():
    tower = torchvision_tower("resnet18", cifar_stem=True).eval()
    assert tower.num_features == 512
    seen = []
    tower.backbone.layer1.register_forward_hook(lambda *args: seen.append(args[2].shape[-1]))
    assert tower(torch.randn(1, 3, 16, 16)).shape == (1, 512)
    assert seen == [16]  # no early down-sampling
    with pytest.raises(UserError, match="needs a ResNet"):
        torchvision_tower("vit_b_16", cifar_stem=True)
    with pytest.raises(UserError, match="did you mean"):
        torchvision_tower("resnet81")


def test_a_timm_resnet_has_the_cifar_stem_too(monkeypatch):
    """It was ignored, so that images of 32 px ended as one place."""
    tower = image_encoder("timm/resnet18", cifar_stem=True).eval()
    assert tower.backbone.conv1.stride == (1, 1)
    seen = []
    tower.backbone.layer1.register_forward_hook(lambda *args: seen.append(args[2].shape[-1]))
    assert tower(torch.randn(1, 3, 16, 16)).shape == (1, 512)
    assert seen == [16]
    for name in ("timm/vit_tiny_patch16_224", "timm/resnet18d"):
        with pytest.raises(UserError, match="needs a ResNet"):
            image_encoder(name, cifar_stem=True)
    image_encoder("convnet", widths=(4,), cifar_stem=True)  # has no other stem
    ref = PretrainedRef("timm", "timm:resnet18.a1_in1k", "resnet18.a1_in1k")
    monkeypatch.setattr(towers, "resolve_pretrained", lambda _: ref)
    with pytest.raises(UserError, match="does not fit resnet18 with cifar_stem"):
        timm_tower("resnet18", ref.spec, cifar_stem=True)


@pytest.mark.parametrize("name", ["mobilenetv3_small_050", "lcnet_035", "test_vit", "resnet10t"])
def test_the_features_of_timm_have_the_width_that_is_said(name):
    """Also with a layer between the pool and the classifier."""
    tower = timm_tower(name).eval()
    side = 160 if name == "test_vit" else 32
    assert tower(torch.randn(1, 3, side, side)).shape == (1, tower.num_features)


@pytest.mark.parametrize(("name", "size"), [("googlenet", 32), ("inception_v3", 80)])
def test_towers_have_no_further_classifiers(name, size):
    """GoogLeNet and Inception gave a tuple in training; files of theirs hold those classifiers."""
    import torchvision

    with torch.device("meta"):
        tower = torchvision_tower(name).train()
        whole = torchvision.models.get_model(name, weights=None)
        assert tower(torch.zeros(2, 3, size, size)).shape == (2, tower.num_features)
    assert {key.split(".")[0] for key in whole.state_dict()} & {"aux1", "AuxLogits"}
    assert not any(key.startswith(("aux", "Aux")) for key in tower.backbone.state_dict())


def test_a_file_with_further_classifiers_fills_a_tower(tmp_path):
    stored = {
        "weight": torch.ones(2, 2),
        "bias": torch.ones(2),
        "aux1.fc.bias": torch.ones(1),
        "AuxLogits.fc.bias": torch.ones(1),
    }
    torch.save(stored, tmp_path / "w.pt")
    layer = nn.Linear(2, 2)
    towers._load_backbone(layer, tmp_path / "w.pt")
    assert torch.equal(layer.weight, torch.ones(2, 2))


def test_vits_of_torchvision_take_an_image_size(monkeypatch):
    """It was ignored, so that the first batch failed."""
    with torch.device("meta"):
        tower = image_encoder("vit_b_32", image_size=64).eval()
        assert tower(torch.zeros(1, 3, 64, 64)).shape == (1, 768)
        assert torchvision_tower("vit_b_32").backbone.image_size == 224
    with pytest.raises(UserError, match="multiple of 32, not 100"):
        torchvision_tower("vit_b_32", image_size=100)
    import torchvision

    make = torchvision.models.get_model
    monkeypatch.setattr(torchvision.models, "get_model", lambda name, weights: make(name))
    ref = PretrainedRef("torchvision", "torchvision:vit_b_32", "vit_b_32")
    monkeypatch.setattr(towers, "resolve_pretrained", lambda _: ref)
    with torch.device("meta"):
        torchvision_tower("vit_b_32", ref.spec, image_size=224)
        with pytest.raises(UserError, match="images of 224 pixels, not of 64"):
            torchvision_tower("vit_b_32", ref.spec, image_size=64)


def test_timm_tower_takes_an_image_size_and_a_local_file(tmp_path):
    tower = timm_tower("test_vit", image_size=32).eval()
    images = torch.randn(2, 3, 32, 32)
    assert tower(images).shape == (2, tower.num_features)
    path = tmp_path / "w.safetensors"
    state = {k: v.clone() for k, v in tower.backbone.state_dict().items()}
    save_file({**state, "head.weight": torch.ones(10, tower.num_features)}, path)
    torch.testing.assert_close(
        timm_tower("test_vit", str(path), image_size=32).eval()(images), tower(images)
    )
    with pytest.raises(UserError, match="not a checkpoint"):
        timm_tower("test_resnet", str(path))


@pytest.mark.parametrize(
    ("name", "size", "takes"),
    [
        ("deit_tiny_patch16_224", 32, True),
        ("mobilevit_xxs", 64, False),
        ("test_vit_relpos", 160, False),
    ],
)
def test_a_class_that_can_takes_any_size_whatever_its_name(name, size, takes):
    tower = timm_tower(name, any_size=True).eval()
    assert bool(getattr(tower.backbone, "dynamic_img_size", False)) == takes
    with torch.no_grad():
        assert tower(torch.randn(1, 3, size, size)).shape == (1, tower.num_features)


def test_networks_that_cannot_be_are_said():
    with pytest.raises(UserError, match="no linear classifier"):
        torchvision_tower("squeezenet1_1")
    for name in ("convnet", "pooled_convnet", "convnet3d"):
        with pytest.raises(UserError, match=r"set model\.widths"):
            image_encoder(name)


def test_linear_projection_has_std_of_the_fan_in():
    torch.manual_seed(0)
    projection = linear_projection(256, 128)
    assert projection.bias is None
    assert projection.weight.std().item() == pytest.approx(256**-0.5, rel=0.03)


def test_mlp_head_layout():
    head = MLPHead(8, (16, 16), 4, last_norm=True, last_affine=False)
    layers = head.layers
    kinds = [type(layer) for layer in layers]
    hidden = [nn.Linear, nn.BatchNorm1d, nn.ReLU]
    assert kinds == [*hidden, *hidden, nn.Linear, nn.BatchNorm1d]
    assert layers[0].bias is None
    assert layers[6].bias is None
    assert layers[7].weight is None
    assert [type(layer) for layer in MLPHead(8, (), 4).layers] == [nn.Linear]
    with pytest.raises(ValueError, match="last_norm"):
        MLPHead(8, (), 4, norm="none", last_norm=True)
