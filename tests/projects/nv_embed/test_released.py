"""Checkpoints in the layout of the released ones, against a forward pass written down here."""

import json

import pytest
import torch
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from torch.nn import functional as F
from transformers import PreTrainedTokenizerFast

from common.config import UserError
from common.engine.check import inspect
from projects.nv_embed import build
from projects.nv_embed.released import is_released, load_released, own_names, released_config
from projects.nv_embed.stages import build_encoder, load_encoder
from tests.projects.nv_embed.conftest import config

LAYERS, DIM, HEADS, KV_HEADS, HEAD, MLP = 2, 16, 4, 2, 4, 24
LATENTS, POOL_HEADS, POOL_HEAD = 6, 2, 5
WORDS = ["<unk>", "<s>", "</s>", "Instruct", ":", "Query", "find", "red", "fox", "runs", "far", "a"]
TEXTS = ["red fox", "a red fox runs far", "far far a fox runs a red fox far"]
POOLER = [
    f"model.num_latents={LATENTS}",
    f"model.heads={POOL_HEADS}",
    f"model.dim_head={POOL_HEAD}",
]


def weights():
    """Random tensors under the released names."""
    torch.manual_seed(3)
    shapes = {"embedding_model.embed_tokens.weight": (len(WORDS), DIM)}
    for i in range(LAYERS):
        at = f"embedding_model.layers.{i}"
        for name, rows in (("q", HEADS * HEAD), ("k", KV_HEADS * HEAD), ("v", KV_HEADS * HEAD)):
            shapes[f"{at}.self_attn.{name}_proj.weight"] = (rows, DIM)
        shapes[f"{at}.self_attn.o_proj.weight"] = (DIM, HEADS * HEAD)
        for name, shape in (("gate", (MLP, DIM)), ("up", (MLP, DIM)), ("down", (DIM, MLP))):
            shapes[f"{at}.mlp.{name}_proj.weight"] = shape
        shapes |= {f"{at}.{n}_layernorm.weight": (DIM,) for n in ("input", "post_attention")}
    shapes["embedding_model.norm.weight"] = (DIM,)
    blocks = "latent_attention_model.cross_attend_blocks"
    inner = POOL_HEADS * POOL_HEAD
    shapes |= {
        "latent_attention_model.latents": (LATENTS, DIM),
        f"{blocks}.0.fn.to_q.weight": (inner, DIM),
        f"{blocks}.0.fn.to_kv.weight": (2 * inner, DIM),
        f"{blocks}.0.fn.to_out.weight": (DIM, inner),
        f"{blocks}.1.fn.net.0.weight": (8 * DIM, DIM),
        f"{blocks}.1.fn.net.0.bias": (8 * DIM,),
        f"{blocks}.1.fn.net.2.weight": (DIM, 4 * DIM),
        f"{blocks}.1.fn.net.2.bias": (DIM,),
    }
    for name in ("0.norm", "0.norm_context", "1.norm"):
        shapes |= {f"{blocks}.{name}.{end}": (DIM,) for end in ("weight", "bias")}
    state = {}
    for name, shape in shapes.items():
        values = 0.4 * torch.randn(shape)
        state[name] = 1 + values if "norm" in name and name.endswith("weight") else values
    return state


def settings():
    """A ``config.json`` as the release has it."""
    text = {
        "_name_or_path": "nvidia/NV-Embed-v2",
        "architectures": ["MistralModel"],
        "model_type": "bidir_mistral",
        "vocab_size": len(WORDS),
        "hidden_size": DIM,
        "intermediate_size": MLP,
        "num_hidden_layers": LAYERS,
        "num_attention_heads": HEADS,
        "num_key_value_heads": KV_HEADS,
        "hidden_act": "silu",
        "max_position_embeddings": 64,
        "rms_norm_eps": 1e-5,
        "rope_theta": 100.0,
        "sliding_window": 4,
        "torch_dtype": "float32",
        "num_beams": 1,
        "bad_words_ids": None,
        "pad_token_id": None,
        "use_cache": True,
    }
    pooler = {
        "model_type": "latent_attention",
        "num_latents_value": LATENTS,
        "latent_dim": DIM,
        "hidden_dim": DIM,
        "num_cross_heads": POOL_HEADS,
        "cross_dim_head": POOL_HEAD,
        "output_normalize": True,
    }
    return {
        "architectures": ["NVEmbedModel"],
        "model_type": "nvembed",
        "padding_side": "right",
        "auto_map": {"AutoModel": "modeling_nvembed.NVEmbedModel"},
        "add_eos": True,
        "add_pad_token": True,
        "is_mask_instruction": True,
        "mask_type": "b",
        "text_config": text,
        "latent_attention_config": pooler,
    }


def write(folder, state=None, content=None, shards=1):
    """A checkpoint folder; it also holds a module that must not be imported."""
    folder.mkdir(exist_ok=True)
    state, names = state or weights(), sorted(state or weights())
    if shards == 1:
        save_file(state, folder / "model.safetensors")
    else:
        files = {
            n: f"model-{i % shards + 1:05d}-of-{shards:05d}.safetensors"
            for i, n in enumerate(names)
        }
        for file in set(files.values()):
            save_file({n: state[n] for n in names if files[n] == file}, folder / file)
        index = {"metadata": {}, "weight_map": files}
        (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    (folder / "config.json").write_text(json.dumps(content or settings()))
    (folder / "modeling_nvembed.py").write_text("raise SystemExit('remote code was run')\n")
    backend = Tokenizer(models.WordLevel({w: i for i, w in enumerate(WORDS)}, unk_token="<unk>"))
    backend.pre_tokenizer = pre_tokenizers.Whitespace()
    backend.post_processor = processors.TemplateProcessing(
        single="<s> $A", special_tokens=[("<s>", 1)]
    )
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=backend, bos_token="<s>", eos_token="</s>", unk_token="<unk>"
    )
    tokenizer.save_pretrained(folder)
    return str(folder)


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    return write(tmp_path_factory.mktemp("released") / "nv")


# -- the forward pass, one text at a time, in float64 --------------------------------------------


def rms(x, weight):
    return weight * x / (x.square().mean(-1, keepdim=True) + 1e-5).sqrt()


def rotated(x):
    """x (heads, L, HEAD): each pair (i, i + HEAD/2) turned by position * 100^(-2i/HEAD)."""
    half = HEAD // 2
    angle = torch.arange(x.shape[1], dtype=x.dtype)[:, None] * 100.0 ** (
        -2 * torch.arange(half, dtype=x.dtype) / HEAD
    )
    a, b = x[..., :half], x[..., half:]
    return torch.cat([a * angle.cos() - b * angle.sin(), b * angle.cos() + a * angle.sin()], -1)


def reference(state, ids, first_pooled):
    """Unit embedding of one text without padding: every token sees every token."""
    w = {name: tensor.double() for name, tensor in state.items()}
    x = w["embedding_model.embed_tokens.weight"][ids]
    for i in range(LAYERS):
        layer = {k.split(f"layers.{i}.")[1]: v for k, v in w.items() if f"layers.{i}." in k}
        h = rms(x, layer["input_layernorm.weight"])
        q, k, v = (
            (h @ layer[f"self_attn.{n}_proj.weight"].T).unflatten(-1, (-1, HEAD)).transpose(0, 1)
            for n in "qkv"
        )
        k, v = (t.repeat_interleave(HEADS // KV_HEADS, dim=0) for t in (k, v))
        seen = (rotated(q) @ rotated(k).transpose(1, 2) / HEAD**0.5).softmax(-1) @ v
        x = x + seen.transpose(0, 1).flatten(1) @ layer["self_attn.o_proj.weight"].T
        h = rms(x, layer["post_attention_layernorm.weight"])
        gate, up = (h @ layer[f"mlp.{n}_proj.weight"].T for n in ("gate", "up"))
        x = x + (gate / (1 + (-gate).exp()) * up) @ layer["mlp.down_proj.weight"].T
    x = rms(x, w["embedding_model.norm.weight"])
    attend, feed = (
        {k.split(f"cross_attend_blocks.{b}.")[1]: v for k, v in w.items() if f"blocks.{b}." in k}
        for b in (0, 1)
    )
    h = F.layer_norm(x, (DIM,), attend["norm.weight"], attend["norm.bias"])
    z = F.layer_norm(
        w["latent_attention_model.latents"],
        (DIM,),
        attend["norm_context.weight"],
        attend["norm_context.bias"],
    )
    actual = []
    for head in range(POOL_HEADS):
        rows = slice(head * POOL_HEAD, (head + 1) * POOL_HEAD)
        keys, values = attend["fn.to_kv.weight"].chunk(2)
        score = (h @ attend["fn.to_q.weight"][rows].T) @ (z @ keys[rows].T).T
        actual.append((score / POOL_HEAD**0.5).softmax(-1) @ (z @ values[rows].T))
    x = x + torch.cat(actual, -1) @ attend["fn.to_out.weight"].T
    h = F.layer_norm(x, (DIM,), feed["norm.weight"], feed["norm.bias"])
    value, gate = (h @ feed["fn.net.0.weight"].T + feed["fn.net.0.bias"]).chunk(2, -1)
    gate = gate * (1 + torch.erf(gate / 2**0.5)) / 2
    x = x + (value * gate) @ feed["fn.net.2.weight"].T + feed["fn.net.2.bias"]
    return F.normalize(x[first_pooled:].mean(0), dim=0)


def word_ids(text):
    words = text.replace(":", " :").split()
    return torch.tensor([1, *(WORDS.index(word) for word in words), 2])


@pytest.mark.parametrize("span", ["released", "exact"])
@pytest.mark.parametrize("instruction", ["", "find a fox"])
def test_embeddings_are_those_of_the_release(checkpoint, instruction, span):
    """`pretrained:` on a released checkpoint: decoder, pooler and masks by an independent
    forward."""
    model = load_released(checkpoint, max_length=32, span=span)
    prefix = f"Instruct: {instruction}\nQuery: " if instruction else ""
    count = len(word_ids(prefix)) - 2  # without BOS and EOS
    first = (count if span == "released" else count + 1) if instruction else 0
    expected = torch.stack([reference(weights(), word_ids(prefix + t), first) for t in TEXTS])
    actual = model.encode(TEXTS, instruction=instruction)
    torch.testing.assert_close(actual, expected.float(), rtol=1e-4, atol=1e-5)
    changed = {k: v.flip(0) if k.endswith("0.fn.to_kv.weight") else v for k, v in weights().items()}
    other = torch.stack([reference(changed, word_ids(prefix + t), first) for t in TEXTS])
    assert not torch.allclose(actual, other.float(), atol=1e-3)  # keys and values changed places


def test_the_config_s_encoder_is_released_weights_with_new_adapters(checkpoint):
    """Through `model.pretrained`: equal embeddings before training, adapters and pooler
    trainable."""
    words = [f"model.pretrained={checkpoint}", "model.config=null", *POOLER]
    model = build_encoder(config(*words).model).eval()
    plain = load_encoder(checkpoint, config(*words).model)
    torch.testing.assert_close(model.encode(TEXTS), plain.encode(TEXTS), rtol=1e-5, atol=1e-6)
    trained = {n for n, p in model.named_parameters() if p.requires_grad}
    assert any("lora_A" in n for n in trained)
    assert all("lora_" in n or n.startswith("pooler.") for n in trained)
    causal = build_encoder(config(*words, "model.causal=true").model).eval()
    assert not torch.allclose(causal.encode(TEXTS), plain.encode(TEXTS), atol=1e-3)
    assert inspect("nv_embed", "smoke", words)["parameters"]
    experiment = build(config(*words))
    assert torch.equal(
        experiment.load_export(checkpoint).encoder.encode(TEXTS), plain.encode(TEXTS)
    )


def test_shards_and_stored_buffers(tmp_path, checkpoint):
    state = weights() | {"embedding_model.layers.0.self_attn.rotary_emb.inv_freq": torch.ones(2)}
    folder = write(tmp_path / "shards", state, shards=3)
    assert not (tmp_path / "shards/model.safetensors").exists()
    actual = load_released(folder, max_length=32).encode(TEXTS)
    assert torch.equal(actual, load_released(checkpoint, max_length=32).encode(TEXTS))


def test_names():
    """A pure mapping: every tensor has one place, and what has none is named."""
    state = weights()
    actual = own_names(state, "here")
    assert len(actual) == len(state)
    for name in actual:
        assert name.startswith(("model.", "pooler.layer."))
    assert actual["pooler.layer.latents"] is state["latent_attention_model.latents"]
    with pytest.raises(UserError, match=r"here .*unexpected tensor lm_head.weight"):
        own_names(state | {"lm_head.weight": torch.ones(1)}, "here")
    decoder = {k: v for k, v in state.items() if k.startswith("embedding_model.")}
    with pytest.raises(UserError, match=r"no tensor latent_attention_model\.\*"):
        own_names(decoder, "here")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda s: s.pop("embedding_model.norm.weight"), r"missing: model\.norm\.weight"),
        (lambda s: s.update({"embedding_model.extra": torch.ones(1)}), r"unexpected: model\.extra"),
        (
            lambda s: s.update({"latent_attention_model.latents": torch.ones(5, DIM)}),
            r"other shape: pooler\.layer\.latents \(5, 16\) instead of \(6, 16\)",
        ),
    ],
)
def test_weights_that_do_not_fit_are_named(tmp_path, change, message):
    state = weights()
    change(state)
    with pytest.raises(UserError, match=message):
        load_released(write(tmp_path / "bad", state), max_length=32)


def test_settings_that_do_not_fit_are_named(tmp_path, checkpoint):
    words = [f"model.pretrained={checkpoint}", "model.config=null"]
    with pytest.raises(UserError, match=r"set model\.num_latents=6 model\.dim_head=5"):
        build_encoder(config(*words, "model.num_latents=7", "model.dim_head=4").model)
    with pytest.raises(UserError, match=r"set model\.pooling=latent"):
        build_encoder(config(*words, *POOLER, "model.pooling=mean").model)
    with pytest.raises(UserError, match=r"leave model\.config out"):
        build_encoder(config(words[0], *POOLER).model)
    content = settings()
    assert released_config(content, "x").decoder["model_type"] == "mistral"
    for change, message in [
        ({"padding_side": "left"}, "padding_side"),
        ({"mask_type": "c"}, "mask_type"),
        ({"text_config": {**content["text_config"], "hidden_size": 8}}, r"widths \[8, 16\]"),
        ({"text_config": {**content["text_config"], "model_type": "bidir_x"}}, "unknown kind 'x'"),
        ({"text_config": None}, "config.json of an NVEmbedModel lacks"),
        ({"latent_attention_config": {}}, "lacks 'hidden_dim'"),
    ]:
        with pytest.raises(UserError, match=message):
            released_config(content | change, "x")
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(UserError, match=r"config\.json is not JSON"):
        is_released(str(tmp_path))
    assert not is_released("random")
    assert not is_released("bundled:causal-lm")
    assert is_released(checkpoint)


def test_the_layout_is_that_of_the_file(checkpoint):
    """The made-up checkpoint has the released names, so that the tests above mean what they say."""
    from tests.unit.losses.golden import load

    case = load("nv_embed")["outputs"]["latent_attention"][0]
    names = {
        n.removeprefix("latent_attention_model.")
        for n in load_file(f"{checkpoint}/model.safetensors")
        if n.startswith("latent")
    }
    assert names == {name for name, _ in case["parameter_names_and_shapes"]}
