"""The module: which layers see the image, which text is chosen, groups, and gradients."""

import pytest
import torch
from transformers import AutoConfig, AutoModel

from common.config import UserError
from common.encoders.image.grid import grid_tower
from projects.one_to_k import module as method
from projects.one_to_k.masking import mask_spans
from projects.one_to_k.split_fusion import SplitFusionEncoder, split_fusion_encoder
from tests.projects.one_to_k.conftest import PLAIN, batch_of, config, module_of

BERT = {
    "model_type": "xlm-roberta",
    "vocab_size": 64,
    "hidden_size": 16,
    "num_hidden_layers": 24,
    "num_attention_heads": 2,
    "intermediate_size": 16,
    "max_position_embeddings": 32,
    "hidden_dropout_prob": 0.0,
    "attention_probs_dropout_prob": 0.0,
    "pad_token_id": 1,
}


def encoder(**options):
    torch.manual_seed(0)
    return split_fusion_encoder("random", split=6, context_dim=8, config=BERT, **options).eval()


def test_item_10_every_second_layer_of_the_pretrained_model_is_taken(tmp_path):
    """Checklist 10: layers 1, 3, ..., 23 become 0 ... 11, weights included."""
    torch.manual_seed(1)
    kind = dict(BERT)
    model = AutoModel.from_config(AutoConfig.for_model(kind.pop("model_type"), **kind))
    model.save_pretrained(tmp_path)
    keep = list(range(1, 24, 2))
    actual = split_fusion_encoder(str(tmp_path), split=6, context_dim=8, keep=keep)
    assert len(actual.layers) == 12
    assert len(actual.cross) == 6
    for new, old in enumerate(keep):
        ours = actual.layers[new].intermediate.dense.weight
        assert torch.equal(ours, model.encoder.layer[old].intermediate.dense.weight)
    with pytest.raises(UserError, match="has 24"):
        split_fusion_encoder(str(tmp_path), split=6, context_dim=8, keep=[1, 24])
    assert config(name="paper").model.keep_layers == keep


def test_item_9_the_text_part_never_sees_the_image_and_the_fusion_part_does():
    """Checklist 9: states of `text` are those of layers 0-5 of the plain model; `fuse` reacts."""
    actual = encoder(keep=list(range(12)))
    ids = torch.tensor([[3, 4, 5, 6], [7, 8, 1, 1]])
    states, mask = actual.text(ids)
    plain = AutoModel.from_config(actual.config, attn_implementation="eager").eval()
    plain.embeddings, plain.encoder.layer = actual.embeddings, actual.layers[:6]
    expected = plain(input_ids=ids, attention_mask=mask.long()).last_hidden_state
    assert torch.allclose(states[mask], expected[mask], atol=1e-5)
    one, two = (actual.fuse(states, mask, torch.full((2, 3, 8), v)) for v in (0.1, -0.7))
    assert not torch.allclose(one, two, atol=1e-3)
    one.sum().backward()
    assert all(p.grad is None or p.grad.abs().sum() > 0 for p in actual.cross.parameters())
    with torch.no_grad():  # padding changes nothing
        short, real = actual.text(ids[1:, :2])
        assert torch.allclose(short, states[1:, :2], atol=1e-5)
        seen = actual.fuse(short, real, torch.full((1, 3, 8), 0.1))
        assert torch.allclose(seen, one[1:, :2], atol=1e-5)


def test_item_9_a_split_outside_the_layers_is_refused():
    with pytest.raises(UserError, match="1 to 23 of 24"):
        split_fusion_encoder("random", split=24, context_dim=8, config=BERT)
    text = split_fusion_encoder("random", split=24, context_dim=None, config=BERT)
    assert len(text.cross) == 0


def test_image_tokens_are_the_mean_and_the_grid():
    tower = grid_tower("conv", widths=(8, 12)).eval()
    tokens = tower(torch.randn(2, 3, 16, 16))
    assert tokens.shape == (2, 1 + 16, 12)
    assert torch.allclose(tokens[:, 0], tokens[:, 1:].mean(1), atol=1e-5)


def test_item_7_matching_and_mlm_use_the_same_text(monkeypatch):
    """Checklist 7: the masked text that is fused is the masked version of the text that is
    matched."""
    words = ("data.mask_probability=0", "data.max_masks=1", "data.span_probability=0")
    module, batch = module_of(*words), batch_of(*words)
    chosen = torch.tensor([0, 1, 2, 3, 3, 2, 1, 0])
    monkeypatch.setattr(method, "choose_positive", lambda *a: chosen)
    matched, predicted = [], []
    match, mlm = module.network.match, method.masked_lm_loss

    def watched(states, mask, tokens):
        matched.append(states)
        return match(states, mask, tokens)

    def watched_mlm(head, states, labels):
        predicted.append(labels)
        return mlm(head, states, labels)

    monkeypatch.setattr(module.network, "match", watched)
    monkeypatch.setattr(method, "masked_lm_loss", watched_mlm)
    module.losses(batch)
    rows = torch.arange(8)
    own, _ = module.network.text_encoder.text(batch["tokens"][rows, chosen])
    assert torch.allclose(matched[0], own, atol=1e-6)
    assert torch.allclose(matched[1], own, atol=1e-6)
    assert not torch.allclose(matched[2], own, atol=1e-3)
    assert torch.equal(predicted[0], batch["labels"][rows, chosen])


def test_item_11_new_parameters_have_twice_the_rate_and_norms_no_decay():
    """Checklist 11: by name; every trainable parameter is in exactly one group."""
    module = module_of()
    names = {id(p): n for n, p in module.named_parameters()}
    seen = []
    for group in module.parameter_groups():
        for p in group["params"]:
            name = names[id(p)]
            seen.append(name)
            new = any(x in name for x in ("_projection.", "matching.", "cross.", "temperature"))
            assert group["lr_scale"] == (2.0 if new else 1.0), name
            plain = p.ndim < 2 or "bias" in name or "norm" in name.lower()
            assert group["weight_decay"] == (0.0 if plain else 0.01), name
    assert sorted(seen) == sorted(names.values())
    assert sum("cross." in n for n in seen) >= 10


def test_gradients_reach_every_parameter_and_all_terms_count():
    module, batch = module_of(), batch_of()
    terms = module.losses(batch)
    total = terms["itc"] + terms["itm"] + terms["mlm"]
    assert float(terms["loss"]) == pytest.approx(float(total), rel=1e-6)
    terms["loss"].backward()
    for name, parameter in module.named_parameters():
        assert parameter.grad is not None, name
        if ".attention.self.key.bias" not in name and "cross.0.key.bias" not in name:
            assert bool(parameter.grad.abs().sum() > 0), name


def test_masks_leave_the_first_token_and_respect_the_limits():
    """At most 12 masks, spans of two or three, position 0 never, the last token may be masked."""
    import numpy as np

    rng, hit = np.random.default_rng(0), np.zeros(40)
    ids = np.arange(10, 50)
    kinds = {"mask": 0, "same": 0, "random": 0}
    for _ in range(400):
        masked, labels = mask_spans(ids, 30, rng, mask_id=4, vocab_size=10)
        places = np.flatnonzero(labels != -100)
        assert len(places) == 12
        assert np.array_equal(labels[places], ids[places])
        assert np.array_equal(masked[labels == -100], ids[labels == -100])
        hit[places] += 1
        for p in places:
            kinds["mask" if masked[p] == 4 else "same" if masked[p] == ids[p] else "random"] += 1
    assert hit[0] == 0
    assert hit[30:].sum() == 0
    assert hit[29] > 50
    assert kinds["mask"] / 4800 == pytest.approx(0.81, abs=0.03)  # a random token may be the mask
    few = mask_spans(ids, 5, rng, mask_id=4, vocab_size=10)[1]
    assert (few != -100).sum() == 2
    assert isinstance(encoder(keep=list(range(12))), SplitFusionEncoder)


def test_wrong_settings_are_user_errors():
    with pytest.raises(UserError, match="no fusion layers"):
        config("model.text=ngrams")
    with pytest.raises(UserError, match="matching head"):
        config("method.itm_weight=0")
    with pytest.raises(UserError, match="texts_per_image=5"):
        config("data.texts_per_image=5")
    with pytest.raises(UserError, match="not among"):
        config("method.objective=pivot", "data.pivot=xx")
    with pytest.raises(UserError, match="use some of multi30k"):
        config("eval.benchmarks=[flickr]")
    with pytest.raises(UserError, match=r"needs data\.files"):
        config("data.source=jsonl", *PLAIN)
    with pytest.raises(UserError, match=r"needs data\.shards and data\.languages"):
        config("data.source=webdataset", "data.languages=[en]", *PLAIN)
