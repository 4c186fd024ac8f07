"""Conversion, domain tokens, order, pooler, adapters, folders on disk."""

import json
from dataclasses import replace

import pytest
import torch
from transformers import AutoModel, AutoTokenizer

from common.config import UserError
from common.encoders.text.tiny_tokenizer import tiny_tokenizer
from common.encoders.text.tower import load_transformer
from projects.moe_embeddings.encoder import DomainEncoder, layout_of
from projects.moe_embeddings.export import dense_model, load_encoder, save_encoder
from projects.moe_embeddings.gated import GatedExpert, PreNormResidual
from projects.moe_embeddings.mixture_of_experts import mixtures, parameter_counts
from tests.projects.moe_embeddings.conftest import MODERNBERT, ROUTED, TEXTS, config, encoder_of

DOMAINS = ["blue", "red", "green", "red"]


def shaken(encoder):
    """Experts with weights of their own."""
    torch.manual_seed(1)
    with torch.no_grad():
        for layer in mixtures(encoder.model):
            for p in layer.experts.parameters():
                p.add_(0.3 * torch.randn_like(p))
    return encoder


@pytest.mark.parametrize("words", [[], [MODERNBERT]], ids=["bert", "modernbert"])
def test_checklist_1_after_conversion_outputs_are_those_of_the_dense_model(words):
    """Checklist 1: for every assignment, with domain tokens; and not once experts differ."""
    dense, mixed = encoder_of("model.routing=dense", *words), encoder_of(*words)
    expected = dense.encode(TEXTS, DOMAINS, normalize=False)
    for experts in ([2, 0, 1, 0], [0] * 4, [1, 1, 2, 2]):
        actual = mixed.encode(TEXTS, DOMAINS, experts=experts, normalize=False)
        torch.testing.assert_close(actual, expected)
    shaken(mixed)
    assert not torch.allclose(mixed.encode(TEXTS, DOMAINS, normalize=False), expected, atol=1e-4)


def test_checklist_3_the_order_of_documents_is_kept_for_any_mixture():
    """Checklist 3: a batch equals its documents one by one; batches are by length inside."""
    encoder = shaken(encoder_of())
    together = encoder.encode(TEXTS, DOMAINS)
    for i, text in enumerate(TEXTS):
        torch.testing.assert_close(together[i], encoder.encode([text], DOMAINS[i])[0])
    inputs = encoder.pad(encoder.token_rows(TEXTS, encoder.indices(DOMAINS, 4)))
    with torch.no_grad():
        by_list, by_tensor = (
            encoder(**inputs, expert=e) for e in ([2, 0, 1, 0], torch.tensor([2, 0, 1, 0]))
        )
        by_type = encoder(
            **inputs, expert=torch.tensor([2, 0, 1, 0])[:, None].expand_as(inputs["input_ids"])
        )
    assert torch.equal(by_list, by_tensor)
    torch.testing.assert_close(by_type, by_list)  # token types, all equal within a document


def test_texts_without_a_domain_get_the_mean_over_all_of_them():
    encoder = shaken(encoder_of())
    every = [encoder.encode(TEXTS, name) for name in encoder.layout.domains]
    expected = torch.nn.functional.normalize(torch.stack(every).mean(0), dim=1)
    actual = encoder.encode(TEXTS)
    torch.testing.assert_close(actual, expected)
    assert not torch.allclose(actual, every[0], atol=1e-4)


def test_checklist_4_the_assignment_holds_in_all_layers_and_for_all_tokens():
    """Checklist 4: a change of one expert in any layer moves its documents and no other."""
    before = encoder_of().encode(TEXTS, DOMAINS)
    for layer in range(2):
        for number, moved in ((0, [False, True, False, True]), (2, [True, False, False, False])):
            encoder = encoder_of()
            expert = list(mixtures(encoder.model))[layer].experts[number]
            with torch.no_grad():
                expert[1].bias += torch.linspace(-1, 1, 32)
            change = (encoder.encode(TEXTS, DOMAINS) - before).abs().amax(1) > 1e-4
            assert change.tolist() == moved


def test_checklist_5_the_domain_token_is_a_copy_of_cls_at_position_0():
    """Checklist 5: embedding, place, length; without domain tokens [CLS] stays."""
    encoder = encoder_of()
    plain = tiny_tokenizer(400)
    table = encoder.model.get_input_embeddings().weight
    assert len(set(encoder.token_ids)) == 3
    for number, name in enumerate(("[RED]", "[GREEN]", "[BLUE]")):
        place = encoder.token_ids[number]
        assert encoder.tokenizer.convert_ids_to_tokens(place) == name
        assert torch.equal(table[place], table[plain.cls_token_id])
        (row,) = encoder.token_rows(["babado kilu"], [number])
        assert row[0] == place
        assert row[1:] == plain("babado kilu")["input_ids"][1:]
    assert len(encoder.token_rows([50 * "ba "], [0])[0]) == 24  # cut as before
    without = encoder_of("model.domain_tokens=false")
    assert without.token_rows(["ba"], [1])[0] == plain("ba")["input_ids"]
    tokenizer = tiny_tokenizer(400)
    tokenizer.backend_tokenizer.post_processor = None
    with pytest.raises(UserError, match=r"take the place of \[CLS\]"):
        DomainEncoder(encoder.model, tokenizer, encoder.layout)


def test_padding_does_not_change_vectors():
    encoder = shaken(encoder_of())
    rows = encoder.token_rows(TEXTS, [0] * 4)
    inputs = encoder.pad(rows)
    with torch.no_grad():
        actual = encoder(**inputs, expert=[0] * 4)
        alone = encoder(**encoder.pad(rows[2:3]), expert=[0])
    torch.testing.assert_close(actual[2:3], alone)


def test_the_pooler_is_mean_norm_linear_tanh_linear():
    encoder = encoder_of()
    inputs = encoder.pad(encoder.token_rows(TEXTS, [1] * 4))
    with torch.no_grad():
        actual = encoder(**inputs, expert=[1] * 4)
        encoder.routes.begin(torch.tensor([1] * 4))
        states = encoder.model(**inputs).last_hidden_state
        mask = inputs["attention_mask"][..., None]
        mean = (states * mask).sum(1) / mask.sum(1)
        pooler = encoder.pooler
        expected = pooler.outer(torch.tanh(pooler.inner(pooler.norm(mean))))
    torch.testing.assert_close(actual, expected)


def test_checklist_10_single_moe_converts_layer_l_half_alone():
    """Checklist 10: of three layers number 1, of two layers number 1; the others stay dense."""
    for words, place in (([MODERNBERT], 1), ([], 1)):
        encoder = encoder_of("model.layers=middle", *words)
        names = [n for n, m in encoder.model.named_modules() if hasattr(m, "experts")]
        assert len(names) == 1
        assert f".{place}." in f".{names[0]}."


def test_checklist_13_parameters_in_all_and_of_a_document():
    """Checklist 13: N experts hold N - 1 more copies; a document meets as much as before."""
    dense, mixed = encoder_of("model.routing=dense"), encoder_of()
    size = parameter_counts(dense.model)[0]
    layer = 2 * (32 * 64 + 64 + 64 * 32 + 32)
    assert parameter_counts(mixed.model) == (size + 2 * layer, size)


def test_generation_a_gated_experts_begin_as_the_plain_layer_behind_its_norm():
    """Sheet, A: gate of 1, norm before, residual around, pooler_output, learned router."""
    encoder = encoder_of(
        "model.block=gated",
        "model.routing=sentence",
        "model.num_experts=4",
        "model.pooler=cls",
        "method.balance_weight=0.05",
    )
    block = encoder.model.encoder.layer[0]
    assert isinstance(block.output, PreNormResidual)
    expert = block.output.mixture.experts[3]
    assert isinstance(expert, GatedExpert)
    x = torch.randn(2, 3, 32)
    with torch.no_grad():
        plain = expert.down(torch.nn.functional.gelu(expert.up(x)))
        torch.testing.assert_close(expert(x), plain)
        expert.gate.bias.fill_(0.5)
        torch.testing.assert_close(expert(x) - expert.down.bias, (plain - expert.down.bias) / 2)
        y = block.intermediate(x)
        norm, mix = block.output.norm, block.output.mixture
        encoder.routes.begin()
        torch.testing.assert_close(block.output(y, x), x + mix(norm(x)))
    inputs = encoder.pad(encoder.token_rows(TEXTS, [0] * 4))
    with torch.no_grad():
        actual = encoder(**inputs)
        encoder.routes.begin(mask=inputs["attention_mask"])
        first = encoder.model(**inputs).last_hidden_state[:, 0]
        torch.testing.assert_close(actual, encoder.pooler.dense(first).tanh())
    with pytest.raises(UserError, match="for BERT and its relatives"):
        encoder_of("model.block=gated", MODERNBERT)


def test_adapters_train_the_experts_alone_and_are_folded_in_on_export(tmp_path):
    """Sheet, B: LoRA on the linear layers of the experts, the base frozen."""
    encoder = encoder_of("model.lora_rank=2")
    trained = {n for n, p in encoder.named_parameters() if p.requires_grad}
    assert all("lora_" in name or name.startswith("pooler.") for name in trained)
    assert sum("experts.2." in name for name in trained) == 8  # two layers of two linears
    with torch.no_grad():
        for name, p in encoder.named_parameters():
            if "lora_B" in name:
                p.normal_()
    actual = encoder.encode(TEXTS, DOMAINS)
    save_encoder(encoder, tmp_path)
    torch.testing.assert_close(load_encoder(tmp_path).encode(TEXTS, DOMAINS), actual)
    torch.testing.assert_close(encoder.encode(TEXTS, DOMAINS), actual)  # the trained one stays
    for routed in ROUTED.values():  # routers are new: they learn beside the adapters
        parts = encoder_of("model.lora_rank=2", *routed).named_parameters()
        gates = [p.requires_grad for n, p in parts if n.endswith(".gate.weight")]
        assert gates == [True, True]


@pytest.mark.slow
@pytest.mark.parametrize(
    "words",
    [["model.domain_tokens=false"], ["model.routing=dense"], [MODERNBERT], *ROUTED.values()],
)
def test_export_reloads_with_equal_vectors(words, tmp_path):
    encoder = shaken(encoder_of(*words))
    save_encoder(encoder, tmp_path)
    again = load_encoder(tmp_path)
    assert torch.equal(again.encode(TEXTS, DOMAINS), encoder.encode(TEXTS, DOMAINS))
    assert (tmp_path / "experts").is_dir() == (encoder.layout.routing in ("dense", "enforced"))
    assert not list(tmp_path.rglob("*.py"))
    (tmp_path / "mixture.json").write_text("{}")
    with pytest.raises(UserError, match="not an exported mixture"):
        load_encoder(tmp_path)


def test_a_domain_keeps_its_token_in_a_tokenizer_of_a_class_with_a_template(tmp_path):
    """BertTokenizer puts its own [CLS] back when it is read."""
    encoder = shaken(
        encoder_of(
            "model.pretrained=bundled:text-encoder", "model.config=null", "model.tokenizer=null"
        )
    )
    save_encoder(encoder, tmp_path)
    for name, number in (("red", 0), ("blue", 1)):
        tokenizer = AutoTokenizer.from_pretrained(tmp_path / "experts" / name)
        ids = tokenizer(TEXTS, padding=True, return_tensors="pt")["input_ids"]
        number = encoder.layout.domains.index(name)
        assert ids[:, 0].tolist() == [encoder.token_ids[number]] * len(TEXTS)
        assert int(ids[0, 1]) == encoder.tokenizer(TEXTS[0])["input_ids"][1]


@pytest.mark.parametrize(
    "words", [[], [MODERNBERT, "model.layers=middle"]], ids=["bert", "modernbert"]
)
def test_a_domain_is_a_plain_model_for_other_libraries(words, tmp_path):
    """One folder per expert: transformers alone gives the vectors, text in, no word about
    domains."""
    encoder = shaken(encoder_of(*words))
    save_encoder(encoder, tmp_path)
    for name in ("red", "blue"):
        folder = tmp_path / "experts" / name
        model, tokenizer = (
            AutoModel.from_pretrained(folder).eval(),
            AutoTokenizer.from_pretrained(folder),
        )
        assert type(model) is type(load_transformer("random", config=config(*words).model.config))
        inputs = tokenizer(TEXTS, padding=True, return_tensors="pt")
        assert inputs["input_ids"][0, 0] == encoder.token_ids[encoder.layout.domains.index(name)]
        with torch.no_grad():
            states = model(
                input_ids=inputs["input_ids"], attention_mask=inputs["attention_mask"]
            ).last_hidden_state
            mask = inputs["attention_mask"][..., None]
            actual = encoder.pooler.outer(
                encoder.pooler.inner(
                    encoder.pooler.norm((states * mask).sum(1) / mask.sum(1))
                ).tanh()
            )
        torch.testing.assert_close(actual, encoder.encode(TEXTS, name, normalize=False))
        kinds = [
            m["type"].rpartition(".")[2] for m in json.loads((folder / "modules.json").read_text())
        ]
        assert kinds == ["Transformer", "Pooling", "LayerNorm", "Dense", "Dense"]


def test_what_is_asked_wrongly_is_refused():
    encoder = encoder_of()
    with pytest.raises(UserError, match="out of red, green, blue; got yellow"):
        encoder.encode(TEXTS, "yellow")
    with pytest.raises(UserError, match="4 documents need a domain each"):
        encoder.encode(TEXTS, ["red"])
    with pytest.raises(ValueError, match="nothing to encode"):
        encoder.encode([], "red")
    inputs = encoder.pad(encoder.token_rows(TEXTS, [0] * 4))
    for wrong in (None, [0, 1], [0, 1, 2, 3]):
        with pytest.raises(ValueError, match="expert"):
            encoder(**inputs, expert=wrong)
    with pytest.raises(UserError, match="only enforced experts"):
        dense_model(encoder_of(*ROUTED["token"]), 0)
    with pytest.raises(UserError, match="means something else"):
        encoder_of("data.domains=[red, mask]")
    with pytest.raises(UserError, match="reads at most 64 tokens"):
        encoder_of("data.max_length=65")
    layout = layout_of(config().model, ["a"], 8)
    assert replace(layout, max_length=9) != layout
