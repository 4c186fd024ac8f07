"""Golden values of the parts, and what the split network does with a frozen language model."""

import math

import pytest
import torch
from torch.nn import functional as F

from common.config import UserError
from projects.cosmo.module import COSMO, row_losses
from projects.cosmo.network import CosmoNetwork
from projects.cosmo.objective import (
    LossGuard,
    caption_labels,
    clip_labels,
    contrastive_loss,
    document_labels,
    instruction_labels,
    lm_loss,
)
from projects.cosmo.visual_language.gated_cross_attention import (
    GatedCrossAttention,
    media_times,
)
from projects.cosmo.visual_language.perceiver import PerceiverResampler, QueryPooling
from tests.projects.cosmo.conftest import (
    GOLDEN,
    KINDS,
    MEDIA,
    VOCAB,
    WIDTH,
    batch_of,
    config,
    language,
    module_of,
    network_of,
    sines,
)


@pytest.fixture
def float64():
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


def filled(module):
    """Parameter number q has 0.1 sin(1 + q + k)."""
    for q, parameter in enumerate(module.parameters()):
        parameter.data = 0.1 * sines(*parameter.shape, phase=1 + q)
    return module


def close(found, want):
    torch.testing.assert_close(torch.as_tensor(found), torch.tensor(want), rtol=1e-6, atol=1e-12)


# -- golden values -------------------------------------------------------------------------------


@pytest.mark.parametrize("immediate", [True, False])
def test_items_3_and_4_gated_cross_attention_equals_the_golden_values(immediate, float64):
    """Checklist 3, 4: shapes, outputs and gradient; a token before the first medium reads nothing
    in immediate mode.
    """
    want = GOLDEN[f"gated_cross_attention only_attend_immediate_media={immediate}"]
    block = GatedCrossAttention(16, 12, compression=2, dim_head=8, heads=2, immediate=immediate)
    assert {k: list(v.shape) for k, v in block.named_parameters()} == want["param_shapes"]
    times = media_times(torch.tensor([[0, 1, 0, 1, 0, 0, 1], [1, 0, 0, 0, 0, 1, 0]]))
    x, media = sines(2, 7, 16).requires_grad_(), sines(2, 3, 4, 12, phase=2)
    assert torch.equal(block(x, media, times), x)  # gates shut
    filled(block)
    block.attn_gate.data.fill_(0.5)
    block.ff_gate.data.fill_(0)
    only = block(x, media, times)
    close((only - x).norm(dim=-1), want["attn_only_delta_norm_per_token"])
    assert ((only - x)[0, 0].abs().max() == 0) == immediate
    block.ff_gate.data.fill_(-0.3)
    out = block(x, media, times)
    close((out - x).norm(dim=-1), want["delta_norm_per_token"])
    close(out.sum(), want["out_sum"])
    close(out[0, 1, :4], want["out_0_1_first4"])
    (out**2).sum().backward()
    close(x.grad.norm(), want["grad_norm_x"])


def test_item_3_resampler_and_pooling_equal_the_golden_values(float64):
    """Checklist 3: frames are read together; the text query reads states and itself."""
    want = GOLDEN["perceiver"]
    resampler = filled(PerceiverResampler(16, depth=2, dim_head=8, heads=2, num_latents=6))
    assert {k: list(v.shape) for k, v in resampler.named_parameters()} == want["param_shapes"]
    out = resampler(sines(2, 3, 2, 6, 16))
    assert list(out.shape) == want["out_shape"]
    close(out.sum(), want["sum"])
    close(out[0, 0, 0, :4], want["out[0,0,0,:4]"])
    close(out[1, 2, 5, :4], want["out[1,2,5,:4]"])
    pooling = QueryPooling(16)
    filled(pooling.attention)
    filled(pooling.feed_forward)
    pooling.query.data = sines(1, 16, phase=3)
    states = sines(3, 6, 16)
    actual, want = pooling(states), GOLDEN["text_pooling"]
    close(actual[0, :4], want["row0_first4"])
    close(actual.norm(), want["norm"])
    mask = torch.tensor([[1] * 4 + [0] * 2] * 3)
    close(pooling(states, mask), pooling(states[:, :4]).tolist())  # masked padding is not a text


def test_items_3_and_9_contrastive_loss_equals_the_golden_values(float64):
    """Checklist 3, 9: the multiplier is exp(theta), with its gradient."""
    for want in GOLDEN["contrastive"]:
        visual = sines(want["B"], want["dv"]).requires_grad_()
        text = sines(want["B"], want["dt"], phase=2).requires_grad_()
        heads = [
            filled(torch.nn.Linear(d, want["latent"], bias=False)) for d in (want["dv"], want["dt"])
        ]
        theta = torch.tensor(want["temperature_param"], requires_grad=True)
        loss = contrastive_loss(heads[0](visual), heads[1](text), theta)
        loss.backward()
        close(loss, want["loss"])
        close(visual.grad.norm(), want["grad_norm_vision"])
        close(text.grad.norm(), want["grad_norm_text"])
        close(theta.grad, want["grad_temperature"])


def test_item_5_labels_equal_the_golden_values():
    """Checklist 5: what is predicted in documents, clips and instructions; of captions all but the
    first token.
    """
    known = {"pad": 1, "visual": 100}
    more = {**known, "end_of_chunk": 101, "bos": 0}
    builders = {
        "labels_interleaved_image": lambda ids: document_labels(ids, **more),
        "labels_interleaved_video": lambda ids: clip_labels(ids, **known),
        "labels_instruction": lambda ids: instruction_labels(
            ids, **known, bos=0, human=102, gpt=103
        ),
    }
    for name, build in builders.items():
        assert build(torch.tensor(GOLDEN[name]["ids"])).tolist() == GOLDEN[name]["labels"], name
    ids = torch.tensor([[0, 100, 5, 101, 2, 1]])
    assert caption_labels(ids, **known).tolist() == [[-100, -100, 5, 101, 2, -100]]


# -- the split -----------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", list(KINDS))
def test_item_1_at_first_the_frozen_model_speaks(kind):
    """Checklist 1: with shut gates the logits are those of the model alone; opened they are not.

    Any architecture.
    """
    batch = batch_of()
    args = batch["patches"], batch["input_ids"], batch["attention_mask"]
    with torch.no_grad():
        alone = language(kind)(input_ids=args[1], attention_mask=args[2]).logits
        torch.testing.assert_close(network_of(kind=kind)(*args).logits, alone, rtol=1e-5, atol=1e-6)
        opened = network_of(kind=kind, open_gates=0.5)
        one, two = opened(*args).logits, opened(-args[0], *args[1:]).logits
    assert (one - alone).abs().max() > 1e-3
    assert (one - two)[:, 1:].abs().max() > 1e-3
    torch.testing.assert_close(one[:, 0], two[:, 0], rtol=1e-5, atol=1e-6)  # before the picture


def test_item_2_texts_are_read_before_any_picture():
    """Checklist 2: another picture, the same text vector; also where cross-attention begins below
    the text layers.
    """
    batch = batch_of()
    other = -batch["patches"]
    for words in ([], ["model.unimodal_depth=0", "model.text_depth=2"], ["model.text_depth=1"]):
        network = network_of(*words, open_gates=0.5)
        with torch.no_grad():
            one, two = (
                network(p, batch["input_ids"], batch["attention_mask"])
                for p in (batch["patches"], other)
            )
            alone = network.embed_texts(batch["input_ids"], batch["attention_mask"])
        torch.testing.assert_close(one.text, two.text, rtol=0, atol=0)
        torch.testing.assert_close(one.text, alone, rtol=1e-5, atol=1e-6)
        assert (one.logits - two.logits).abs().max() > 1e-3
        assert (one.visual - two.visual).abs().max() > 1e-3


def test_item_2_text_states_are_entry_u_minus_1():
    """Checklist 2: of transformers' list of hidden states, whose entry 0 is the embedded text."""
    network, batch = network_of(open_gates=0.5), batch_of()
    ids, mask = batch["input_ids"], batch["attention_mask"]
    with torch.no_grad():
        whole = language()(
            input_ids=ids, attention_mask=mask, output_hidden_states=True
        ).hidden_states
        for below in (0, 1, 3):
            torch.testing.assert_close(network.language.states(ids, mask, below), whole[below])
    assert network.text_depth == 2
    assert not network.language.model._forward_pre_hooks


def test_item_7_frozen_and_trained_parts():
    """Checklist 7: no gradient in the language model; every listed part has one; frozen weights
    stay.
    """
    module = module_of()
    before = {k: v.clone() for k, v in module.network.language.model.state_dict().items()}
    optimizer = torch.optim.SGD([p for p in module.parameters() if p.requires_grad], lr=0.1)
    module.losses(batch_of())["loss"].backward()
    optimizer.step()
    missing = [
        k
        for k, p in module.named_parameters()
        if p.requires_grad and (p.grad is None or not p.grad.abs().sum())
    ]
    assert not missing
    prefixes = {name.split(".")[1] for name, p in module.named_parameters() if p.requires_grad}
    assert prefixes == {
        "language",
        "resampler",
        "text_pooling",
        "visual_head",
        "text_head",
        "log_scale",
    }
    assert not module.network.language.rows.requires_grad
    after = module.network.language.model.state_dict()
    assert all(torch.equal(after[k], v) for k, v in before.items())
    assert not [k for k in module.state_dict() if ".model." in k]


@pytest.mark.parametrize("which", ["new", "all"])
def test_item_7_rows_of_tokens_can_be_trained(which):
    """Checklist 7 and pitfalls: the new rows alone, or all, at input and tied output; the model's
    own are not touched.
    """
    module = module_of(f"model.trained_rows={which}")
    lm = module.network.language
    module.losses(batch_of())["loss"].backward()
    assert len(lm.rows) == (3 if which == "new" else 40)
    assert lm.rows.grad[MEDIA - lm.start].abs().sum() > 0
    lm.rows.data += 1.0
    batch = batch_of()
    args = batch["input_ids"], batch["attention_mask"]
    with torch.no_grad():
        functional = lm(*args).logits
        lm.write_rows()
        written = lm.model(input_ids=args[0], attention_mask=args[1]).logits
    torch.testing.assert_close(functional, written, rtol=1e-4, atol=1e-5)


def test_item_7_rows_of_a_half_precision_model_are_trained_in_float32():
    """A step of instruction tuning in 16-mixed; a scaler refuses gradients of half precision."""
    cfg = config("model.trained_rows=all", "model.language_dtype=float16")
    model = language().half()
    module = COSMO(cfg, CosmoNetwork(cfg, model, WIDTH, VOCAB - 3, MEDIA), None)
    optimizer = torch.optim.SGD([p for p in module.parameters() if p.requires_grad], lr=0.5)
    scaler = torch.amp.GradScaler("cpu", init_scale=4.0)
    scaler.scale(module.losses(batch_of("instruction"))["loss"]).backward()
    scaler.unscale_(optimizer)
    rows = module.network.language.rows
    before = rows.detach().clone()
    scaler.step(optimizer)
    assert rows.dtype == torch.float32
    assert not torch.equal(rows, before)
    module.network.language.write_rows()
    assert torch.equal(model.get_input_embeddings().weight, rows.half())
    none = CosmoNetwork(config(), language().half(), WIDTH, VOCAB - 3, MEDIA)
    assert none.language.rows.dtype == torch.float16  # as it is stored, if it is not trained


def test_rows_are_taken_over_from_the_end_of_a_vocabulary():
    """Fewer rows than are trained here stand for the last tokens, those of the language model
    before them stay.
    """
    lm = network_of("model.trained_rows=all").language
    before = lm.rows.detach().clone()
    lm.take_rows(torch.full((3, 16), 0.5))
    assert torch.equal(lm.rows[:-3], before[:-3])
    assert torch.equal(lm.model.get_input_embeddings().weight, lm.rows)
    assert bool((lm.rows[-3:] == 0.5).all())
    for shape in ((3, 17), (41, 16)):
        with pytest.raises(ValueError, match="rows for the last"):
            lm.take_rows(torch.zeros(shape))


def test_item_8_latent_0_is_the_contrastive_query():
    """Checklist 8: 65 latents; cross-attention has 64, the other one alone makes the picture's
    vector.
    """
    network, seen = network_of("model.num_latents=64", open_gates=0.5), []
    assert len(network.resampler.latents) == 65
    for block in network.language.blocks:
        block.register_forward_pre_hook(lambda _, args: seen.append(args[1]))
    batch = batch_of()
    with torch.no_grad():
        parts = network(batch["patches"], batch["input_ids"], batch["attention_mask"])
        resampled = network.resampler(batch["patches"])
    assert len(seen) == 2
    torch.testing.assert_close(seen[0], resampled[:, :, 1:])
    torch.testing.assert_close(parts.visual, network.visual_head(resampled[:, 0, 0]))


def test_item_8_the_vector_is_a_mean_over_pictures():
    """Checklist 8: latent 0 of every picture counts; with the first one alone the others would
    not."""
    network, patches = network_of(), sines(2, 3, 1, 3, WIDTH)
    with torch.no_grad():
        media, pooled = network.media(patches)
        each = network.resampler(patches)[:, :, 0]
        torch.testing.assert_close(pooled, each.mean(1))
        assert (pooled - each[:, 0]).abs().max() > 1e-3
    assert media.shape[:2] == (2, 3)


def test_item_4_options_of_attention_reach_the_blocks():
    """Checklist 4: model.immediate and model.qk_norm; after the second picture the first one is
    seen or not.
    """
    times, x = torch.tensor([[1, 2]]), sines(1, 2, 16)
    media, other = sines(1, 2, 3, WIDTH), sines(1, 2, 3, WIDTH)
    other[:, 0] *= -1
    for immediate in (True, False):
        network = network_of(
            f"model.immediate={immediate}", f"model.qk_norm={not immediate}", open_gates=0.5
        )
        for block in network.language.blocks:
            with torch.no_grad():
                change = (block(x, media, times) - block(x, other, times)).abs().amax(-1)[0]
            assert change[0] > 1e-4
            assert (change[1] < 1e-6) == immediate
            assert (block.attn.q_norm is None) == (block.attn.k_norm is None) == immediate


@pytest.mark.parametrize(("first", "interval"), [(0, 1), (1, 2), (2, 1), (0, 3), (3, 4)])
def test_items_10_and_11_numbers_and_widths_of_blocks(first, interval):
    """Checklist 10, 11: ceil((L - U) / interval) blocks; compression divides heads and hidden
    width, not the number.
    """
    network = network_of(
        f"model.unimodal_depth={first}", f"model.interval={interval}", "model.text_depth=1"
    )
    assert len(network.language.blocks) == math.ceil((4 - first) / interval)
    assert network.language.layers == list(range(first, 4, interval))
    plain, slim = (GatedCrossAttention(16, WIDTH, compression=c) for c in (1, 4))
    assert plain.attn.to_q.weight.shape == (512, 16)
    assert slim.attn.to_q.weight.shape == (128, 16)
    assert plain.ff[1].weight.shape == (64, 16)
    assert slim.ff[1].weight.shape == (16, 16)
    assert slim.attn.heads == plain.attn.heads == 8
    with pytest.raises(ValueError, match="does not divide"):
        GatedCrossAttention(16, WIDTH, compression=5)
    with pytest.raises(
        UserError, match=r"model\.compression=3 must divide model\.cross\.dim_head=16"
    ):
        config("model.compression=3")


def test_generation_sees_what_the_prompt_saw():
    """With a cache of keys and beams new tokens read the last picture, as a pass over the whole
    text does.
    """
    network = network_of(open_gates=0.5)
    lm = network.language
    patches = sines(2, 2, 1, 3, WIDTH)
    ids = torch.tensor([[1, 0, MEDIA, 5, MEDIA, 6], [0, 5, MEDIA, 4, 7, 8]])
    mask = torch.tensor([[0, 1, 1, 1, 1, 1], [1] * 6])
    media = network.media(patches)[0]
    actual = lm.generate(
        ids,
        mask,
        media,
        num_beams=1,
        max_new_tokens=5,
        do_sample=False,
        eos_token_id=None,
        pad_token_id=1,
    )
    for row in range(2):
        text = ids[row][mask[row] == 1]
        for token in actual[row]:
            with torch.no_grad():
                logits = lm(text[None], torch.ones(1, len(text)), media[row : row + 1]).logits[
                    0, -1
                ]
            assert int(logits.argmax()) == int(token)
            text = torch.cat([text, token[None]])
    beams = lm.generate(
        ids,
        mask,
        media,
        num_beams=3,
        max_new_tokens=4,
        do_sample=False,
        eos_token_id=None,
        pad_token_id=1,
    )
    alone = lm.generate(
        ids[1:],
        mask[1:],
        media[1:],
        num_beams=3,
        max_new_tokens=4,
        do_sample=False,
        eos_token_id=None,
        pad_token_id=1,
    )
    assert torch.equal(beams[1:], alone)
    with pytest.raises(ValueError, match="2 media tokens in a text of 1"):
        lm(ids, mask, media[:, :1])


# -- losses --------------------------------------------------------------------------------------


def test_item_6_documents_are_not_contrasted():
    """Checklist 6: the term is there for pairs of pictures or clips and texts alone; L = L_LM +
    lambda L_c.
    """
    module = module_of("method.contrastive_weight=0.5")
    for kind in ("image_text", "video_text"):
        terms = module.losses(batch_of(kind))
        torch.testing.assert_close(terms["loss"], terms["lm"] + 0.5 * terms["contrastive"])
    for kind in ("interleaved_image", "interleaved_video", "instruction"):
        terms = module.losses(batch_of(kind))
        assert "contrastive" not in terms
        torch.testing.assert_close(terms["loss"], terms["lm"])
        terms["loss"].backward()
        assert module.network.text_head.weight.grad.abs().sum() == 0


def test_item_9_theta_is_exponentiated():
    """Checklist 9: 0.2 by default, a factor of 1.22; not clamped; a further config value for new
    runs.
    """
    module = module_of()
    assert float(module.network.log_scale) == pytest.approx(0.2)
    assert float(module.losses(batch_of())["logit_scale"]) == pytest.approx(math.exp(0.2))
    module.network.log_scale.data.fill_(-1.0)
    module.after_optimizer_step()
    assert float(module.network.log_scale) == -1.0
    assert float(
        module_of("method.logit_scale_init=2.659").losses(batch_of())["logit_scale"]
    ) == pytest.approx(1 / 0.07, rel=1e-3)


def test_item_18_without_lambda_it_is_a_generation_model():
    """Checklist 18: no contrastive part is left, and with the same weights the loss is the language
    model's.
    """
    plain, whole = module_of("method.contrastive_weight=0"), module_of()
    assert not [k for k in plain.state_dict() if "head" in k or "pooling" in k or "log_scale" in k]
    assert len(whole.network.resampler.latents) - len(plain.network.resampler.latents) == 1
    terms = plain.losses(batch_of())
    assert set(terms) == {"loss", "lm"}
    batch = batch_of()
    logits = plain.network(batch["patches"], batch["input_ids"], batch["attention_mask"]).logits
    want = F.cross_entropy(
        logits[:, :-1].flatten(0, 1), batch["labels"][:, 1:].flatten(), ignore_index=-100
    )
    torch.testing.assert_close(terms["loss"], want)
    torch.testing.assert_close(lm_loss(logits, batch["labels"]), want)
    total, count = row_losses(logits, batch["labels"])
    torch.testing.assert_close(total.sum() / count.sum(), want)
    with pytest.raises(UserError, match="contrastive_weight > 0"):
        plain.network.embed_images(batch["patches"])


def test_options_of_the_losses():
    """Equal captions, weights of kinds, and the guard; none of them by default."""
    batch = batch_of()
    batch["caption_ids"] = torch.tensor([0, 0, 1, 2])
    batch["patches"][1] = batch["patches"][0]
    plain, masked = (module_of(f"method.duplicates={d}").losses(batch) for d in ("keep", "mask"))
    assert masked["contrastive"] < plain["contrastive"]
    weighed = module_of("data.weights={image_text: 2.0}", "method.apply_weights=true").losses(batch)
    torch.testing.assert_close(weighed["loss"], 2 * plain["loss"])
    unused = module_of("data.weights={image_text: 2.0}").losses(batch)
    torch.testing.assert_close(unused["loss"], plain["loss"])
    guarded = module_of("method.guard=true")
    guarded.lm_guard.average.fill_(0.5)
    terms = guarded.losses(batch)
    torch.testing.assert_close(terms["loss"], 0.5 + terms["contrastive"])
    guard = LossGuard()
    assert [float(guard(torch.tensor(v))) for v in (2.0, 2.6)] == pytest.approx([2.0, 2.6])
    assert float(guard.average) == pytest.approx(0.9 * 2.0 + 0.1 * 2.6)


def test_negatives_of_a_node(monkeypatch):
    """method.gather=node: groups of as many ranks as a node has, made once; their number is what is
    reported.
    """
    made = []
    monkeypatch.setattr("projects.cosmo.module.world_size", lambda: 4)
    monkeypatch.setattr(
        "projects.cosmo.module.dist.new_subgroups", lambda size: (made.append(size) or "own", [])
    )
    module = module_of("method.gather=node", "trainer.num_nodes=2")
    assert module.group() == module.group() == "own"
    assert made == [2]
    assert module.negatives_per_query(0) == 2 * module.cfg.data.batch_of("image_text") - 1
    assert module_of().group() is None
