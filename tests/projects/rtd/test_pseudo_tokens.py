"""Pseudo words in the text towers of both libraries, and the projections that make them."""

import pytest
import torch
from open_clip.model import CLIP
from torch import nn
from transformers import CLIPTextConfig, CLIPTextModelWithProjection

from common.config import UserError
from common.data.text.tokenizers import ClipTokenizer
from projects.rtd.inversion import GeluPhi, ReluPhi, build_phi, phi_state
from projects.rtd.pseudo_tokens import (
    ClipText,
    TransformersClipText,
    encode_text,
    placeholder_id,
)

TOKENIZER = ClipTokenizer(12)
TEXTS = ["a photo of $ that is red", "two birds", "a $"]


@pytest.fixture(scope="module")
def clip():
    torch.manual_seed(0)
    vision = {"layers": 1, "width": 16, "head_width": 16, "patch_size": 16, "image_size": 16}
    text = {"context_length": 12, "vocab_size": 49408, "width": 16, "heads": 2, "layers": 2}
    return CLIP(8, vision, text).eval()


@pytest.fixture(scope="module")
def hugging_face():
    torch.manual_seed(0)
    config = CLIPTextConfig(
        vocab_size=49408,
        hidden_size=16,
        intermediate_size=32,
        projection_dim=8,
        eos_token_id=49407,
        num_hidden_layers=2,
        num_attention_heads=2,
        max_position_embeddings=12,
    )
    return CLIPTextModelWithProjection(config).eval()


@torch.no_grad()
def test_without_a_pseudo_word_both_towers_equal_the_stock_forward(clip, hugging_face):
    """Checklist 7 of RTD: pooled at the end of text, after the final norm, then projected."""
    ids = TOKENIZER(TEXTS)
    stock = clip.encode_text(ids)
    torch.testing.assert_close(ClipText(clip)(ids), stock)
    torch.testing.assert_close(encode_text(clip, ids), stock)
    want = hugging_face(input_ids=ids).text_embeds
    torch.testing.assert_close(TransformersClipText(hugging_face)(ids), want)
    repeated = torch.where(ids == 0, 49407, ids)  # OpenAI's tokenizer pads with the end of text
    torch.testing.assert_close(TransformersClipText(hugging_face)(repeated), want)


@torch.no_grad()
def test_the_pseudo_word_takes_the_place_of_token_259_and_of_no_other(clip, hugging_face):
    """Checklist 6 of RTD: as if the vocabulary held the vector; a text without $ stays as it is."""
    ids, pseudo = TOKENIZER(TEXTS), torch.randn(3, 16)
    place = placeholder_id(TOKENIZER)
    assert place == 259
    for tower, embedding in (
        (ClipText(clip), lambda t: t.token_embedding),
        (
            TransformersClipText(hugging_face),
            lambda t: t.model.text_model.embeddings.token_embedding,
        ),
    ):
        actual, plain = tower(ids, pseudo, place), tower(ids)
        torch.testing.assert_close(actual[1], plain[1])
        assert not torch.allclose(actual[0], plain[0], atol=1e-3)
        weights = embedding(tower).weight
        kept = weights[place].clone()
        for row in (0, 2):
            weights[place] = pseudo[row]
            torch.testing.assert_close(actual[row], tower(ids[row : row + 1])[0])
        weights[place] = kept


def test_the_copy_learns_alone_and_is_written_back(clip):
    """A copy does not move its source until it is written back; gradients reach every part."""
    tower, ids = ClipText(clip), TOKENIZER(TEXTS)
    before = clip.encode_text(ids).detach()
    pseudo = torch.randn(3, 16, requires_grad=True)
    tower(ids, pseudo, 259).square().sum().backward()
    assert all(p.grad is not None for p in tower.parameters())
    assert pseudo.grad[0].abs().sum() > 0
    assert pseudo.grad[1].abs().sum() == 0
    with torch.no_grad():
        for p in tower.parameters():
            p.add_(0.1 * torch.randn_like(p))
    torch.testing.assert_close(clip.encode_text(ids), before)
    images = clip.visual.state_dict()
    kept = {k: v.clone() for k, v in clip.state_dict().items()}
    tower.write_to(clip)
    torch.testing.assert_close(clip.encode_text(ids), tower(ids))
    assert all(torch.equal(v, clip.visual.state_dict()[k]) for k, v in images.items())
    clip.load_state_dict(kept)
    with pytest.raises(UserError, match="text tower"):
        ClipText(nn.Linear(1, 1))


def test_projections_have_the_published_sizes_and_names():
    """phi of LinCIR and SEARLE: P, 4P, 4P, h; of Pic2Word: P, 512, 512, h."""
    gelu, relu = build_phi("gelu", 6, 5), build_phi("relu", 6, 5)
    assert isinstance(gelu, GeluPhi)
    assert isinstance(relu, ReluPhi)
    shapes = {k: tuple(v.shape) for k, v in gelu.state_dict().items() if k.endswith("weight")}
    assert shapes == {
        "layers.0.weight": (24, 6),
        "layers.3.weight": (24, 24),
        "layers.6.weight": (5, 24),
    }
    shapes = {k: tuple(v.shape) for k, v in relu.state_dict().items() if k.endswith("weight")}
    assert shapes == {
        "layers.0.0.weight": (512, 6),
        "layers.1.0.weight": (512, 512),
        "fc_out.weight": (5, 512),
    }
    assert [m.p for m in gelu.modules() if isinstance(m, nn.Dropout)] == [0.5, 0.5]
    assert [m.p for m in relu.modules() if isinstance(m, nn.Dropout)] == [0.1, 0.1]
    x = torch.randn(2, 6)
    hidden = nn.functional.gelu(gelu.layers[0](x))
    hidden = nn.functional.gelu(gelu.layers[3](hidden))
    torch.testing.assert_close(gelu.eval()(x), gelu.layers[6](hidden))
    hidden = relu.layers[1][0](relu.layers[0][0](x).relu()).relu()
    torch.testing.assert_close(relu.eval()(x), relu.fc_out(hidden))
    kind, state = phi_state({f"Phi.{k}": v for k, v in gelu.state_dict().items()})
    assert kind == "gelu"
    build_phi("gelu", 6, 5).load_state_dict(state)
