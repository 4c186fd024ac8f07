"""Markers, pooling, lengths, released checkpoints, exports."""

import json

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn
from transformers import T5EncoderModel

from common.config import UserError
from projects.rankgen.encoder import MARKERS, build_encoder
from projects.rankgen.export import load_encoder, save_encoder, save_released
from projects.rankgen.stages import make_encoder, planned_encoder
from tests.projects.rankgen.conftest import T5, config, encoder

TEXTS = ["the house of the state", "a man who said that he will go to work in his own time now"]


class Released(nn.Module):
    """The interface of the released model, written down anew from its description."""

    def __init__(self, settings):
        super().__init__()
        self.t5_encoder = T5EncoderModel(settings)
        self.projection = nn.Linear(settings.d_model, settings.d_model, bias=False)

    def forward(self, **inputs):
        return self.projection(self.t5_encoder(**inputs).last_hidden_state[:, 0, :])


def released_encode(model, tokenizer, texts, kind):
    """Marker word, padding, then slicing of all columns, as in the released encoder."""
    marker, length = {"prefix": ("pre ", 512), "suffix": ("suffi ", 128)}[kind]
    inputs = tokenizer([marker + t for t in texts], return_tensors="pt", padding=True)
    cut = {k: v[:, :length] for k, v in inputs.items() if k != "token_type_ids"}
    with torch.no_grad():
        return model.eval()(**cut)


def test_only_the_marker_word_differs():
    """Checklist 1: one set of weights; the suffix of a text is the prefix of the re-marked text."""
    model = encoder()
    names = [n for n, _ in model.named_parameters()]
    assert len(names) == len(set(names))
    assert not any("prefix" in n or "suffix" in n for n in names)
    swapped = encoder()
    ids = model.token_ids(TEXTS, "suffix")
    assert ids == [
        r[:32] for r in model.tokenizer([MARKERS["suffix"] + t for t in TEXTS])["input_ids"]
    ]
    direct = swapped.eval()(**model.pad(ids))
    torch.testing.assert_close(model.encode(TEXTS, "suffix"), direct.detach(), rtol=1e-5, atol=1e-6)
    assert not torch.allclose(model.encode(TEXTS, "suffix"), model.encode(TEXTS, "prefix"))


def test_first_position_bias_free_projection_no_norm():
    """Checklist 2: W h_0, whose length is not 1; scores are plain dot products."""
    model = encoder().eval()
    inputs = model.pad(model.token_ids(TEXTS, "prefix"))
    states = model.tower.model(**inputs).last_hidden_state
    expected = states[:, 0] @ model.projection.weight.T
    actual = model.encode(TEXTS, "prefix")
    torch.testing.assert_close(actual, expected.detach(), rtol=1e-5, atol=1e-6)
    assert model.projection.bias is None
    assert not torch.allclose(actual.norm(dim=1), torch.ones(2))


def test_long_texts_are_cut_and_the_marker_is_not():
    """Checklist 13: at most 512 and 128 tokens, marker first; the end-of-text token if it fits."""
    model = encoder(prefix_length=512, suffix_length=128)
    long = " ".join(["time"] * 900)
    plain = model.tokenizer("time")["input_ids"]
    for kind, length in (("prefix", 512), ("suffix", 128)):
        marker = model.tokenizer(MARKERS[kind])["input_ids"][:-1]
        (row,) = model.token_ids([long], kind)
        assert len(row) == length
        assert row[: len(marker)] == marker
        assert row[-1] != plain[-1]
        (short,) = model.token_ids(["time"], kind)
        assert short[-1] == plain[-1]
        assert short[: len(marker)] == marker
    a, b = (f"{long} {end}" for end in ("cut", "off"))
    torch.testing.assert_close(model.encode([a], "prefix"), model.encode([b], "prefix"))


def test_order_padding_and_batches_do_not_matter():
    model = encoder()
    texts = [*TEXTS, "one", "two men", *TEXTS[::-1]]
    whole, single = model.encode(texts, "suffix", 3), [model.encode(t, "suffix")[0] for t in texts]
    torch.testing.assert_close(whole, torch.stack(single), rtol=1e-4, atol=1e-6)
    model.train()
    model.encode(TEXTS, "prefix")
    assert model.training
    with pytest.raises(ValueError, match="kind 'prefix' or 'suffix'"):
        model.encode(TEXTS, "middle")


@pytest.fixture(scope="module")
def released(tmp_path_factory):
    """A folder in the layout of the released checkpoints, with made-up weights."""
    folder = tmp_path_factory.mktemp("released")
    settings = encoder().tower.model.config
    torch.manual_seed(5)
    model = Released(settings)
    save_file({k: v.clone() for k, v in model.state_dict().items()}, folder / "model.safetensors")
    content = settings.to_dict() | {
        "architectures": ["T5EncoderWithProjection"],
        "auto_map": {"AutoModel": "modeling.T5EncoderWithProjection"},
    }
    (folder / "config.json").write_text(json.dumps(content))
    encoder().tokenizer.save_pretrained(folder)
    return folder, model


@pytest.mark.parametrize("kind", ["prefix", "suffix"])
def test_released_weights_load_and_give_the_released_vectors(released, kind):
    """`pretrained:` on a released checkpoint; no remote code is run.

    Vectors of the release's way.
    """
    folder, model = released
    actual = build_encoder(str(folder))
    texts = [*TEXTS, " ".join(["time"] * 700)]
    expected = released_encode(model, actual.tokenizer, texts, kind)
    torch.testing.assert_close(actual.encode(texts, kind), expected, rtol=1e-4, atol=1e-5)
    assert not torch.allclose(build_encoder("random", config=T5).encode(texts, kind), expected)


def test_released_files_of_torch_and_separate_tokenizer(released, tmp_path):
    folder, model = released
    torch.save(model.state_dict(), tmp_path / "pytorch_model.bin")
    (tmp_path / "config.json").write_text((folder / "config.json").read_text())
    actual = build_encoder(str(tmp_path), tokenizer=str(folder))
    assert torch.equal(actual.projection.weight, model.projection.weight)
    missing = {k: v for k, v in model.state_dict().items() if k != "projection.weight"}
    torch.save(missing, tmp_path / "pytorch_model.bin")
    with pytest.raises(UserError, match="missing: weight"):
        build_encoder(str(tmp_path), tokenizer=str(folder))


def test_saved_in_the_released_layout(released, tmp_path):
    folder, model = released
    save_released(build_encoder(str(folder)), tmp_path)
    stored = load_file(tmp_path / "model.safetensors")
    again = Released(encoder().tower.model.config)
    again.load_state_dict(stored)
    for name, value in model.state_dict().items():
        assert torch.equal(again.state_dict()[name], value), name
    assert torch.equal(load_encoder(tmp_path).projection.weight, model.projection.weight)


@pytest.mark.parametrize("pooling", ["first", "mean"])
def test_export_reloads(tmp_path, pooling):
    torch.manual_seed(0)
    model = build_encoder("random", config=T5, prefix_length=48, suffix_length=32, pooling=pooling)
    save_encoder(model, tmp_path)
    actual = load_encoder(tmp_path)
    assert actual.lengths == model.lengths
    assert (tmp_path / "released").is_dir() == (pooling == "first")
    for kind in MARKERS:
        assert torch.equal(actual.encode(TEXTS, kind), model.encode(TEXTS, kind))
    (tmp_path / "prefix_suffix_encoder.json").write_text("{}")
    with pytest.raises(UserError, match="not an exported prefix and suffix encoder"):
        load_encoder(tmp_path)


@pytest.mark.parametrize("kind", ["prefix", "suffix"])
def test_export_gives_equal_vectors_in_sentence_transformers(tmp_path, kind):
    library = pytest.importorskip(
        "sentence_transformers", reason="sentence-transformers is not installed (group 'eval')"
    )
    model = encoder()
    save_encoder(model, tmp_path)
    other = library.SentenceTransformer(str(tmp_path), device="cpu")
    actual = other.encode(TEXTS, prompt_name=kind, convert_to_tensor=True)
    torch.testing.assert_close(actual, model.encode(TEXTS, kind), rtol=1e-4, atol=1e-5)
    assert float(other.similarity(actual, actual)[0, 0]) == pytest.approx(
        float(actual[0] @ actual[0]), rel=1e-4
    )


def test_other_backbones_and_lengths():
    bert = {
        "model_type": "bert",
        "vocab_size": 400,
        "hidden_size": 32,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "intermediate_size": 64,
        "max_position_embeddings": 64,
    }
    model = build_encoder("random", config=bert, prefix_length=64, suffix_length=32)
    assert model.encode(TEXTS, "prefix").shape == (2, 32)
    with pytest.raises(UserError, match="reads at most 64 tokens"):
        build_encoder("random", config=bert)
    with pytest.raises(UserError, match="that of a T5 encoder"):
        save_released(model, None)


def test_random_weights_with_a_tokenizer_of_their_own():
    """Its vocabulary sets the width of the embedding; without one the built-in one is used."""
    bert = {
        "model_type": "bert",
        "hidden_size": 32,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "intermediate_size": 64,
        "max_position_embeddings": 64,
    }
    options = {"prefix_length": 64, "suffix_length": 32, "tokenizer": "bundled:text-encoder"}
    model = build_encoder("random", config=bert, **options)
    assert model.tower.model.config.vocab_size == len(model.tokenizer) == 8192
    assert model.encode(TEXTS, "prefix").shape == (2, 32)
    plain = build_encoder(
        "random", config={**bert, "vocab_size": 400}, prefix_length=64, suffix_length=32
    )
    assert len(plain.tokenizer) == 400
    with pytest.raises(UserError, match="less than the 8192"):
        build_encoder("random", config={**bert, "vocab_size": 400}, **options)


@pytest.mark.parametrize("source", ["bundled:text-encoder", "random"])
def test_first_layers_are_kept(tmp_path, source):
    """Their states are those of the whole transformer after so many layers; an export has no
    more."""
    options = {
        "prefix_length": 32,
        "suffix_length": 32,
        "config": T5 if source == "random" else None,
    }
    torch.manual_seed(0)
    whole = build_encoder(source, **options)
    torch.manual_seed(0)
    part = build_encoder(source, layers=1, **options)
    inputs = whole.pad(whole.token_ids(TEXTS, "prefix"))
    with torch.no_grad():
        states = whole.tower.model.eval()(**inputs, output_hidden_states=True).hidden_states[1]
        actual = part.tower.model.eval()(**inputs).last_hidden_state
    if source == "random":  # T5's last norm follows
        states = whole.tower.model.encoder.final_layer_norm(states)
    states, actual = (x[inputs["attention_mask"].bool()] for x in (states, actual))
    torch.testing.assert_close(actual, states)
    save_encoder(part, tmp_path)
    assert torch.equal(load_encoder(tmp_path).encode(TEXTS, "suffix"), part.encode(TEXTS, "suffix"))
    with pytest.raises(UserError, match="layers=9"):
        build_encoder(source, layers=9, **options)


@pytest.mark.parametrize(
    ("name", "millions"), [("paper", 110.2), ("paper_large", 342.3), ("paper_xl", 1200)]
)
def test_presets_have_the_paper_s_size(name, millions):
    """Checklist 16: base, large and XL build on the meta device."""
    with torch.device("meta"):
        model = planned_encoder(config(name=name))
    count = sum(p.numel() for p in model.parameters()) / 1e6
    assert count == pytest.approx(millions, rel=0.03)


def test_unknown_size_is_a_user_error():
    with pytest.raises(UserError, match="its size is not known"):
        planned_encoder(config("model.pretrained=google/t5-v1_1-xxl", name="paper"))


def test_projection_scale():
    cfg = config("model.projection_std=0.001")
    assert float(make_encoder(cfg).projection.weight.std()) == pytest.approx(0.001, rel=0.1)
