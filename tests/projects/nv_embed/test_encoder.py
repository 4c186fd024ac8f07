"""Attention direction, instruction, pooling, EOS, LoRA."""

import pytest
import torch
from torch.nn import functional as F
from transformers import AutoConfig, AutoModel

from common.config import UserError
from common.encoders.text.tiny_tokenizer import tiny_tokenizer
from projects.nv_embed.encoder.causal import append_eos, looks_ahead, set_causal
from projects.nv_embed.encoder.instructed import instruction_prefix
from projects.nv_embed.encoder.latent_attention import LatentAttention, SelfAttention, TokenPooler
from tests.projects.nv_embed.conftest import POOLINGS, TEXTS, config, encoder
from tests.unit.losses.golden import assert_close, fill, grad_norm, load

GOLDEN = load("nv_embed")["outputs"]["latent_attention"]
SMALL = {
    "vocab_size": 60,
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 2,
    "intermediate_size": 32,
    "max_position_embeddings": 32,
    "pad_token_id": 0,
}
MODELS = {
    "llama": {},
    "mistral": {"sliding_window": 2},
    "gpt2": {"n_embd": 16, "n_layer": 2, "n_head": 2, "bos_token_id": 1, "eos_token_id": 2},
    "qwen2": {},
}


def states(model, ids, mask):
    with torch.no_grad():
        return model(input_ids=ids, attention_mask=mask).last_hidden_state


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
@pytest.mark.parametrize("kind", MODELS)
def test_every_state_depends_on_later_tokens_and_never_on_padding(kind, attention):
    """Checklist 1: bidirectional, and its negative twin with the causal mask kept."""
    torch.manual_seed(0)
    settings = AutoConfig.for_model(kind, **{**SMALL, **MODELS[kind]})
    model = AutoModel.from_config(settings, attn_implementation=attention).eval()
    ids, mask = torch.randint(3, 60, (2, 8)), torch.ones(2, 8, dtype=torch.long)
    changed = ids.clone()
    changed[:, -1] = changed[:, -1] % 56 + 3
    for causal in (True, False):
        set_causal(model, causal)
        differs = (states(model, ids, mask) != states(model, changed, mask)).any(-1)
        assert differs[:, :-1].all() == (not causal)
        assert looks_ahead(model) != causal
    mask[0, 5:] = 0
    padded = states(model, ids, mask)[0, :5]
    other = ids.clone()
    other[0, 5:] = 7
    torch.testing.assert_close(padded, states(model, other, mask)[0, :5], rtol=0, atol=0)
    alone = states(model, ids[:1, :5], mask[:1, :5])[0]
    torch.testing.assert_close(padded, alone, rtol=1e-5, atol=1e-6)


def test_an_architecture_that_ignores_the_setting_is_refused():
    model = AutoModel.from_config(AutoConfig.for_model("llama", **SMALL))
    model.forward = _causal_whatever(model)
    with pytest.raises(UserError, match="does not become bidirectional"):
        set_causal(model, False)


def _causal_whatever(model):
    class Output:
        pass

    def forward(input_ids, attention_mask):
        out = Output()
        out.last_hidden_state = model.embed_tokens(input_ids).cumsum(1)
        return out

    return forward


@pytest.mark.parametrize("pooling", ["last", "mean", "latent", "self_attention"])
def test_instruction_is_attended_to_but_not_pooled(pooling):
    """Checklist 2: it changes the embedding; its own states do not enter the pooled vector."""
    model = encoder(f"model.pooling={pooling}").eval()
    plain, told, other = (model.encode(TEXTS[:1], instruction=t) for t in ("", "find", "sort"))
    assert not torch.allclose(plain, told, atol=1e-4)
    assert not torch.allclose(told, other, atol=1e-4)
    inputs = model.tokenize(TEXTS[:1], "find")
    span = int((inputs["pool_mask"] == 0).sum())
    assert span > 3
    actual = states(model.model, inputs["input_ids"], inputs["attention_mask"])
    noisy = actual.clone()
    noisy[:, :span] += torch.randn(noisy[:, :span].shape)
    masks = inputs["attention_mask"], inputs["pool_mask"]
    same = torch.allclose(model.pooler(actual, *masks), model.pooler(noisy, *masks), atol=1e-5)
    # self-attention in the pooler sees the instruction, as the language model does
    assert same == (pooling != "self_attention")
    everything = encoder(f"model.pooling={pooling}", "model.instruction_span=pooled").eval()
    pooled = everything.encode(TEXTS[:1], instruction="find")
    assert torch.allclose(pooled, told, atol=1e-5) == (pooling == "last")


def test_instruction_span_is_that_of_the_prefix():
    """Checklist 2: BOS and the prefix are the span; the released count is one less."""
    exact, released = encoder(), encoder("model.instruction_span=released")
    (ids, span), (_, less) = (m.token_rows(["the cat"], "find")[0] for m in (exact, released))
    assert exact.tokenizer.decode(ids[span:]) == "the cat [SEP]"
    assert exact.tokenizer.decode(ids[:span]) == "[CLS] instruct : find query :"
    plain = exact.token_rows(["the cat"])[0][0]
    assert ids[span:] == plain[1:]
    assert less == span - 1
    assert exact.token_rows([""], "find")[0][1] == len(exact.token_rows([""], "find")[0][0]) - 1
    assert instruction_prefix("find") == "Instruct: find\nQuery: "


@pytest.mark.parametrize("span", ["exact", "released", "pooled"])
def test_an_instruction_has_to_leave_room_for_a_text(span):
    """With span=pooled all embeddings were equal; a count of the prefix alone is one too small."""
    model = encoder(f"model.instruction_span={span}")
    most = len(model.token_rows([""], "find")[0][0]) + 1
    texts = ["the cat", "rain"]
    first, second = model.prefixed_rows(texts, instruction_prefix("find"), most)
    assert first[0] != second[0]
    with pytest.raises(UserError, match="leave no room for a text"):
        model.prefixed_rows(texts, instruction_prefix("find"), most - 1)


def test_a_corpus_is_tokenised_in_slices(monkeypatch):
    """Batches stay those of the lengths of all texts."""
    model, sizes = encoder("model.instruction_span=released").eval(), []
    whole = model.encode(TEXTS * 3, batch_size=5, instruction="find")
    rows, read = model.token_rows, model.tokenizer.__class__.__call__
    monkeypatch.setattr("projects.nv_embed.encoder.instructed._SLICE", 5)
    monkeypatch.setattr(
        model, "token_rows", lambda texts, *a: sizes.append(len(texts)) or rows(texts, *a)
    )
    asked = []
    monkeypatch.setattr(
        model.tokenizer.__class__,
        "__call__",
        lambda self, text, **o: asked.append(text) or read(self, text, **o),
    )
    assert torch.equal(model.encode(TEXTS * 3, batch_size=5, instruction="find"), whole)
    assert sizes == [5, 5, 2]
    assert sum(isinstance(text, str) for text in asked) == 3  # the prefix, once a slice


@pytest.mark.parametrize("pooling", ["last", "mean", "latent", "self_attention"])
@pytest.mark.parametrize("causal", [True, False])
def test_padding_changes_nothing(pooling, causal):
    """Checklist 3, 13 and 15: every pooling with and without the causal mask; unit vectors."""
    words = (f"model.pooling={pooling}", f"model.causal={causal}", "model.lora_dropout=0")
    model = encoder(*words).eval()
    together = model.encode(TEXTS, batch_size=4, instruction="find")
    alone = torch.cat([model.encode(text, instruction="find") for text in TEXTS])
    torch.testing.assert_close(together, alone, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(together.norm(dim=1), torch.ones(4))
    inputs = model.tokenize(TEXTS[:1], "find")
    wider = {k: F.pad(v, (0, 3), value=5 if k == "input_ids" else 0) for k, v in inputs.items()}
    with torch.no_grad():
        torch.testing.assert_close(model(**inputs), model(**wider), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(("pooling", "causal"), POOLINGS)
def test_groups_by_length_give_the_embeddings_and_gradients_of_one_pass(pooling, causal):
    """In the order of the batch, with less arithmetic on padding, in training only; in float64."""
    words = (f"model.pooling={pooling}", f"model.causal={causal}", "model.lora_dropout=0")
    actual, cells = [], []
    model = encoder(*words).double()
    for name, parameter in model.named_parameters():
        if "lora_B" in name:  # zero at the start
            parameter.data = torch.full_like(parameter, 0.05)
    model.model.register_forward_pre_hook(
        lambda module, args, kwargs: cells.append(kwargs["input_ids"].numel()), with_kwargs=True
    )
    for groups in (1, 3):
        model.length_groups, cells = groups, []
        model.train().zero_grad()
        z = model(**model.tokenize(TEXTS, "find"))
        (z * torch.arange(1.0, 5.0)[:, None]).sin().sum().backward()
        grads = {k: p.grad for k, p in model.named_parameters() if p.grad is not None}
        actual.append((z, grads, cells))
        model.eval()(**model.tokenize(TEXTS, "find"))
        assert len(cells) == groups + 1
    (z, grads, cells), (z_groups, grads_groups, cells_groups) = actual
    torch.testing.assert_close(z_groups, z)
    assert not torch.allclose(z_groups.flip(0), z, atol=1e-3)  # the order is observable
    assert grads_groups.keys() == grads.keys()
    for name, value in grads.items():
        torch.testing.assert_close(grads_groups[name], value, msg=name)
    assert sum(cells_groups[:-1]) < cells[0]


@pytest.mark.parametrize("case", GOLDEN, ids=lambda c: f"R{c['num_latents']}-D{c['dim']}")
def test_golden_latent_attention(case):
    """Checklist 4: released module, float64: states, pooled vector, gradients, parameter names."""
    layer = LatentAttention(
        case["dim"], case["num_latents"], case["heads"], case["dim_head"]
    ).double()
    named = [[name, list(p.shape)] for name, p in layer.named_parameters()]
    assert named == case["parameter_names_and_shapes"]
    for k, (name, parameter) in enumerate(layer.named_parameters()):
        wave = fill(tuple(parameter.shape), 0.1 + k).detach()
        norm = ".norm" in name
        scaled = 0.1 * wave if norm else 0.5 * wave
        parameter.data = 1 + scaled if norm and name.endswith("weight") else scaled
    shape = (case["B"], case["L"], case["dim"])
    x = fill(shape, 0.7).detach().requires_grad_()
    mask = torch.ones(shape[:2])
    mask[:, 0] = 0
    mask[0, -1] = 0
    assert_close(layer(x), case["token_output_first6"])
    pooler = TokenPooler(
        "latent",
        case["dim"],
        num_latents=case["num_latents"],
        heads=case["heads"],
        dim_head=case["dim_head"],
    ).double()
    pooler.layer = layer
    pooled = pooler(x, torch.ones(shape[:2]), mask)
    pooled = F.normalize(pooled, dim=1) if case["output_normalize"] else pooled
    assert_close(pooled, case["pooled"])
    (pooled * fill((case["B"], case["dim"]), 3.3).detach()).sum().backward()
    assert_close(grad_norm(x), case["grad_norm_x"])
    assert_close(grad_norm(layer.latents), case["grad_norm_latents"])


def test_tokens_are_queries_and_both_blocks_have_residuals():
    """Checklist 4: one output per token; with silent blocks the states pass unchanged."""
    layer = LatentAttention(8, 4, 2, 3)
    x = torch.randn(2, 5, 8)
    assert layer(x).shape == x.shape
    order = torch.tensor([3, 1, 0, 4, 2])
    torch.testing.assert_close(layer(x)[:, order], layer(x[:, order]))  # tokens do not mix
    for name, parameter in layer.named_parameters():
        if "to_out" in name or "net.2" in name:
            parameter.data.zero_()
    torch.testing.assert_close(layer(x), x)
    mixing = SelfAttention(8, 2, 3)
    mask = torch.tensor([[1, 1, 1, 1, 0]] * 2)
    noisy = x.clone()
    noisy[:, 4] += torch.randn(8)
    torch.testing.assert_close(mixing(x, mask)[:, :4], mixing(noisy, mask)[:, :4])
    assert not torch.allclose(mixing(x)[:, :4], mixing(noisy)[:, :4])


def test_eos_survives_truncation():
    """Checklist 14: it is part of the template, so cutting a text leaves it."""
    model = encoder()
    long = "one two three " * 40
    for instruction in ("", "find the title"):
        ids, _ = model.token_rows([long], instruction, 48)[0]
        assert len(ids) == 48
        assert ids[-1] == model.tokenizer.sep_token_id
    with pytest.raises(UserError, match="no room"):
        model.token_rows([long], "find the title of the whole book", 16)


def test_eos_is_appended_to_a_tokenizer_that_has_none(tmp_path):
    """Checklist 14: BOS and EOS around the text, kept by a saved tokenizer; once is enough."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    vocab = {t: i for i, t in enumerate(["<unk>", "<s>", "</s>", "a", "b"])}
    backend = Tokenizer(models.WordLevel(vocab, unk_token="<unk>"))
    backend.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=backend,
        bos_token="<s>",
        eos_token="</s>",
        unk_token="<unk>",
        padding_side="left",
    )
    append_eos(tokenizer)
    append_eos(tokenizer)
    assert tokenizer("a b")["input_ids"] == [1, 3, 4, 2]
    assert tokenizer("a b a b", truncation=True, max_length=3)["input_ids"] == [1, 3, 2]
    assert (tokenizer.pad_token, tokenizer.padding_side) == ("</s>", "right")
    tokenizer.save_pretrained(tmp_path)
    again = PreTrainedTokenizerFast.from_pretrained(tmp_path)
    assert again("a")["input_ids"] == [1, 3, 2]
    plain = tiny_tokenizer()
    append_eos(plain)  # ends with [SEP] already
    assert plain("a")["input_ids"] == tiny_tokenizer()("a")["input_ids"]


def test_only_adapters_and_pooler_are_trained():
    """Checklist 10: what has a gradient, and that full training is a choice."""
    model = encoder()
    trained = {name for name, p in model.named_parameters() if p.requires_grad}
    assert trained
    assert all("lora_" in name or name.startswith("pooler.") for name in trained)
    assert any("lora_A" in name for name in trained)
    assert any("latents" in name for name in trained)
    whole = encoder("model.lora_rank=null")
    assert all(p.requires_grad for p in whole.parameters())
    with pytest.raises(UserError, match="LoRA targets"):
        encoder("model.lora_targets=no_such_layer")


def test_merging_the_adapters_reproduces_the_outputs():
    """Checklist 10."""
    model = encoder("model.lora_targets='q_proj,v_proj'").eval()
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.3)
    before = model.encode(TEXTS, instruction="find")
    fresh = encoder("model.lora_targets='q_proj,v_proj'").eval().encode(TEXTS, instruction="find")
    assert not torch.allclose(before, fresh, atol=1e-3)
    model.merge()
    assert not any("lora" in name for name, _ in model.named_parameters())
    torch.testing.assert_close(
        model.encode(TEXTS, instruction="find"), before, rtol=1e-4, atol=1e-5
    )


def test_gradient_checkpointing_gives_equal_gradients():
    actual = []
    for checkpointing in (False, True):
        model = encoder(f"model.grad_checkpointing={checkpointing}", "model.lora_dropout=0").train()
        model(**model.tokenize(TEXTS, "find")).square().sum().backward()
        assert model.model.is_gradient_checkpointing == checkpointing
        actual.append({n: p.grad for n, p in model.named_parameters() if p.grad is not None})
    assert actual[0].keys() == actual[1].keys()
    assert all(torch.allclose(actual[0][n], actual[1][n], rtol=1e-4, atol=1e-6) for n in actual[0])


def test_frozen_weights_in_bfloat16():
    """bf16: the frozen model, while adapters and pooler stay float32."""
    model = encoder("model.weights=bfloat16")
    assert {p.dtype for n, p in model.named_parameters() if "base_layer" in n} == {torch.bfloat16}
    trained = [p for p in model.parameters() if p.requires_grad]
    assert (
        len(trained) == 28 + 14
    )  # two matrices at seven layers of each of two blocks, and the pooler
    assert {p.dtype for p in trained} == {torch.float32}
    assert torch.isfinite(model.encode(TEXTS)).all()
    with pytest.raises(UserError, match="lora_rank"):
        config("model.weights=bfloat16", "model.lora_rank=null")
