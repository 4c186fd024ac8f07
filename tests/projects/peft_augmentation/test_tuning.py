"""What is trained, prefixes, LoRA, positions, dropout, exports."""

import pytest
import torch
from peft import PeftModel
from transformers import AutoModel

from common.config import UserError
from common.encoders.text.tiny_tokenizer import tiny_tokenizer
from common.encoders.text.tower import architecture, quiet
from common.encoders.text.tuned.classifier import Tuning, text_classifier
from common.encoders.text.tuned.prefix import Prefix
from common.export.tuned_classifier import load_classifier, save_classifier
from projects.peft_augmentation import build
from projects.peft_augmentation.stages import training_data
from tests.projects.peft_augmentation.conftest import (
    FAST,
    GOLDEN,
    STILL,
    TEXTS,
    config,
    module_of,
    run_of,
    weights_of,
)

CONFIG = {
    "vocab_size": 256,
    "hidden_size": 32,
    "num_hidden_layers": 3,
    "num_attention_heads": 2,
    "intermediate_size": 64,
    "max_position_embeddings": 64,
    "initializer_range": 0.2,
}


def classifier(kind="prefix", model_type="bert", pooling="cls", max_length=32, **tuning):
    torch.manual_seed(0)
    options = {"prefix_length": 4, **tuning}
    return text_classifier(
        "random",
        ["a", "b", "c"],
        Tuning(kind, **options),
        config={"model_type": model_type, **CONFIG},
        pooling=pooling,
        max_length=max_length,
    )


def inputs_of(model):
    return model.pad(model.rows(TEXTS))


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["prefix", "lora"])
def test_only_adapter_and_head_are_trained_and_the_backbone_stays_bit_for_bit(tmp_path, kind):
    """Checklist 1: counts, and every tensor of the backbone after training."""
    words = [f"tuning.kind={kind}", *FAST]
    module = module_of(*words)
    own = module.classifier
    head, size, layers = 3 * 32 + 3, 32, 2
    added = 4 * 2 * layers * size if kind == "prefix" else layers * 2 * (8 * size + size * 8)
    assert own.num_trained() == head + added
    before = {k: v.clone() for k, v in module.state_dict().items()}
    after = weights_of(run_of(tmp_path, "run_id=a", *words))
    moved = {k for k in before if not torch.equal(before[k], after[k])}
    backbone = {k for k in before if ".backbone." in k and ".lora_" not in k}
    assert len(backbone) > 20
    assert not moved & backbone
    assert {k for k in before if k not in backbone} == moved


def test_the_prefix_acts_in_every_layer():
    """Checklist 2: another key or value in any layer changes the outcome."""
    model = classifier().eval()
    before = model.score(TEXTS)
    for layer in range(3):
        for half in range(2):
            table = model.prefix.encoder.embedding.weight.data
            kept, start = table.clone(), (2 * layer + half) * 32
            table[:, start : start + 32] += torch.randn(
                4, 32, generator=torch.Generator().manual_seed(1)
            )
            assert (model.score(TEXTS) - before).abs().max() > 1e-4, (layer, half)
            table.copy_(kept)
    torch.testing.assert_close(model.score(TEXTS), before)


def test_no_prefix_is_a_linear_probe_of_the_frozen_backbone():
    """Checklist 2: m = 0."""
    model = classifier(prefix_length=0)
    assert model.prefix is None
    assert {name for name, p in model.named_parameters() if p.requires_grad} == {
        "head.weight",
        "head.bias",
    }
    inputs = inputs_of(model.eval())
    states = model.backbone(**inputs).last_hidden_state[:, 0]
    torch.testing.assert_close(model(**inputs), states @ model.head.weight.T + model.head.bias)


@pytest.mark.parametrize("model_type", ["bert", "roberta", "camembert"])
def test_mask_and_positions_count_the_prefix(model_type):
    """Checklist 3: m + L places to attend to; positions begin at m, or at their usual place."""
    model = classifier(model_type=model_type).eval()
    inputs, seen = inputs_of(model), []

    def look(module, args, kwargs):
        seen.append(kwargs["attention_mask"].shape[1])

    model.backbone.register_forward_pre_hook(look, with_kwargs=True)
    places = []
    model.backbone.embeddings.position_embeddings.register_forward_pre_hook(
        lambda module, args: places.append(args[0])
    )
    for shift in (True, False):
        object.__setattr__(model.tuning, "shift_positions", shift)
        model(**inputs)
    assert seen == [4 + inputs["input_ids"].shape[1]] * 2
    first = 0 if model_type == "bert" else 2  # beyond its padding id 1
    assert places[0][0, :3].tolist() == [4 + first, 5 + first, 6 + first]
    assert places[1][0, :3].tolist() == [first, 1 + first, 2 + first]


def test_padding_changes_nothing():
    model = classifier(model_type="roberta", shift_positions=False).eval()
    alone = torch.cat([model.score([row]) for row in TEXTS])
    torch.testing.assert_close(model.score(TEXTS), alone, atol=1e-5, rtol=1e-4)


def test_a_prefix_has_to_fit_the_positions():
    """Checklist 3: m + length <= positions of the encoder."""
    assert classifier(prefix_length=32).prefix.length == 32
    with pytest.raises(UserError, match="exceed the 64 positions"):
        classifier(prefix_length=33)
    classifier(prefix_length=33, shift_positions=False)


@pytest.mark.parametrize("case", GOLDEN["outputs"]["prefix_encoder_cases"])
def test_prefixes_have_the_released_sizes(case):
    """Checklist 4: golden counts and shapes; the perceptron's count is the sheet's."""
    hidden = case["hidden"]
    with torch.device("meta"):
        prefix = Prefix(case["pre_seq_len"], case["layers"], 16, hidden)
        assert list(prefix(2).shape) == case["output_shape_for_batch2"]
        projected = Prefix(20, 12, 12, 768, projection_dim=512)
    assert sum(p.numel() for p in prefix.parameters()) == case["trainable_parameters"]
    assert sum(p.numel() for p in projected.parameters()) == 9_864_704


def test_keys_and_values_of_a_layer_are_the_table_s_neighbours():
    """Checklist 4: row m of the table holds key and value of layer 0, then those of layer 1."""
    prefix = Prefix(3, 2, 2, 8, dropout=0.0)
    cache, table = prefix.cache(5), prefix.table()
    for layer in range(2):
        key, value = cache.layers[layer].keys, cache.layers[layer].values
        assert key.shape == (5, 2, 3, 4)
        start = 2 * layer * 8
        assert torch.equal(key[4, 1, 2], table[2, start + 4 : start + 8])
        assert torch.equal(value[4, 1, 2], table[2, start + 12 : start + 16])
    assert prefix.encoder.embedding.weight.std() < 0.05  # 0.02, not the 1 of a bare table


def test_lora_begins_as_the_backbone_and_merges_into_it(tmp_path):
    """Checklist 5: B = 0 at first; merged weights give the same outputs."""
    model, plain = classifier("lora").eval(), classifier("full").eval()
    plain.head.load_state_dict(model.head.state_dict())
    assert torch.equal(model.score(TEXTS), plain.score(TEXTS))
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.3)
    before = model.score(TEXTS)
    assert (before - plain.score(TEXTS)).abs().max() > 1e-2
    merged = load_classifier(save_classifier(model, tmp_path, merge=True))
    assert merged.tuning.kind == "full"
    assert not (tmp_path / "adapter").exists()
    assert (merged.score(TEXTS) - before).abs().max() < 1e-5
    assert torch.equal(model.score(TEXTS), before)


def test_dropout_of_the_frozen_backbone_is_on_in_training_alone():
    """Checklist 13: and so is that of the prefix."""
    module = module_of()
    assert module.classifier.backbone.training
    inputs = inputs_of(module.classifier)
    same = [module.classifier.vectors(**inputs) for _ in range(2)]
    assert not torch.allclose(*same)
    module.eval()
    same = [module.classifier.vectors(**inputs) for _ in range(2)]
    assert torch.equal(*same)
    drawn = Prefix(3, 2, 2, 8, dropout=0.5).train().cache(4).layers[0].keys
    assert (drawn == 0).any()
    assert not torch.equal(drawn[0], drawn[1])  # anew for each row


def test_the_contrast_reaches_the_prefix_and_not_the_backbone():
    """Checklist 10."""
    module = module_of("contrast.weight=1.0", *STILL)
    data = training_data(config("contrast.weight=1.0"), module).train_set
    terms = module.losses(data[[(i, 0) for i in range(8)]])
    terms["contrast"].backward()
    grads = {
        name
        for name, p in module.named_parameters()
        if p.grad is not None and p.grad.abs().sum() > 0
    }
    assert grads == {"classifier.prefix.encoder.embedding.weight"}


@pytest.mark.parametrize("pooling", ["cls", "mean", "pooler"])
@pytest.mark.parametrize("kind", ["prefix", "lora", "full"])
def test_exports_open_in_transformers_and_peft(tmp_path, kind, pooling):
    """Inference: encoder, adapter, head; peft's own forward pass gives the same vectors."""
    model = classifier(kind, "roberta", pooling, projection_dim=8 if kind == "prefix" else None)
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.3)
    save_classifier(model.eval(), tmp_path)
    again = load_classifier(tmp_path)
    torch.testing.assert_close(again.score(TEXTS), model.score(TEXTS), atol=1e-6, rtol=1e-5)
    with quiet():
        opened = AutoModel.from_pretrained(tmp_path)
    if kind != "full":
        opened = PeftModel.from_pretrained(opened, tmp_path / "adapter")
    inputs = inputs_of(model)
    with torch.no_grad():
        states = opened.eval()(**inputs).last_hidden_state
        torch.testing.assert_close(states, model.states(**inputs).last_hidden_state)


@pytest.mark.parametrize(("merge", "kind"), [("false", "lora"), ("true", "full")])
def test_an_export_keeps_its_adapter_unless_the_config_merges_it(tmp_path, merge, kind):
    """Inference: both folders score as the classifier does."""
    words = ["tuning.kind=lora", f"export.merge={merge}"]
    module = module_of(*words).eval()
    for name, parameter in module.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.3)
    build(config(*words)).export(module, tmp_path)
    again = load_classifier(tmp_path)
    assert again.tuning.kind == kind
    assert (tmp_path / "adapter").exists() == (kind == "lora")
    expected = module.classifier.score(TEXTS)
    torch.testing.assert_close(again.score(TEXTS), expected, atol=1e-5, rtol=1e-4)


def test_damaged_or_unfit_exports_are_refused(tmp_path):
    with pytest.raises(UserError, match="not an exported classifier"):
        load_classifier(tmp_path)
    save_classifier(classifier(), tmp_path)
    (tmp_path / "adapter/adapter_model.safetensors").write_bytes(b"x")
    with pytest.raises(UserError, match="damaged"):
        load_classifier(tmp_path)


@pytest.mark.parametrize("kind", ["prefix", "lora", "full"])
def test_weights_without_a_pooler_get_a_new_one(tmp_path, kind):
    """As released for RoBERTa: drawn at random, and frozen with the backbone of P-tuning."""
    torch.manual_seed(0)
    fields = {"model_type": "roberta", **CONFIG}
    plain = AutoModel.from_config(architecture(fields), add_pooling_layer=False)
    plain.save_pretrained(tmp_path / "plain")
    tiny_tokenizer(256).save_pretrained(tmp_path / "plain")

    def of(pooling, seed=1):
        torch.manual_seed(seed)
        weights = str(tmp_path / "plain")
        return text_classifier(weights, ["a", "b"], Tuning(kind), pooling=pooling, max_length=32)

    with pytest.raises(UserError, match=r"does not fill .*pooler"):
        of("pooler")
    model = of("new_pooler").eval()
    dense = model.backbone.pooler.dense
    assert 0.1 < float(dense.weight.std()) < 0.3  # initializer_range of CONFIG
    assert dense.weight.requires_grad == (kind == "full")
    assert torch.equal(of("new_pooler").backbone.pooler.dense.weight, dense.weight)
    assert not torch.equal(of("new_pooler", 2).backbone.pooler.dense.weight, dense.weight)
    save_classifier(model, tmp_path / "export")
    again = load_classifier(tmp_path / "export")  # with the pooler that was drawn
    torch.testing.assert_close(again.score(TEXTS), model.score(TEXTS), atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize("kind", ["prefix", "lora"])
def test_a_smaller_backbone_is_the_first_layers(tmp_path, kind):
    """Checklist 17: two sizes in one comparison; states are those behind the last kept layer."""
    whole, half = (
        text_classifier(
            "bundled:text-encoder", ["a", "b"], Tuning(kind), max_length=64, layers=layers
        ).eval()
        for layers in (None, 2)
    )
    inputs = inputs_of(half)
    behind = whole.backbone(**inputs, output_hidden_states=True).hidden_states
    actual = half.backbone(**inputs).last_hidden_state
    torch.testing.assert_close(actual, behind[2])
    assert not torch.allclose(actual, behind[4])
    if kind == "prefix":
        assert half.prefix.layers == 2
    again = load_classifier(save_classifier(half, tmp_path))
    torch.testing.assert_close(again.score(TEXTS), half.score(TEXTS), atol=1e-6, rtol=1e-5)
    with pytest.raises(UserError, match=r"model\.layers=5: this encoder has 4 layers"):
        text_classifier("bundled:text-encoder", ["a"], Tuning(kind), max_length=64, layers=5)


def test_encoders_that_take_no_prefix_are_refused():
    with pytest.raises(UserError, match="takes no prefix"):
        classifier(model_type="deberta-v2")
    assert classifier("lora", "deberta-v2", targets=("query_proj", "value_proj")).num_trained() > 99
    with pytest.raises(UserError, match="no pooler"):
        classifier(model_type="electra", pooling="pooler")
