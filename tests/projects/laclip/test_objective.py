"""Loss, schedule, weight decay, towers, cost of a step (checklist items 2, 5-10, 14, 15)."""

import json
import math
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from torch.nn import functional as F
from torch.utils.flop_counter import FlopCounterMode

from common.config import UserError
from common.data.text.tokenizers import ClipTokenizer
from common.engine.optim import lr_at
from common.engine.workspace import Workspace
from common.evaluation.image_text.clip_templates import clip_templates
from common.evaluation.image_text.zeroshot import (
    LACLIP_TEMPLATES,
    OPENAI_TEMPLATES,
    class_embeddings,
)
from common.families.image_text.evaluation import protocol
from common.losses.image_text import ClipLoss
from common.losses.temperature import LogitScale
from projects.laclip.module import LaCLIP
from tests.projects.laclip.conftest import config
from tests.projects.laclip.golden_worker import golden_matrices, golden_run

GOLDEN = json.loads(
    (Path(__file__).parents[2] / "golden" / "laclip.json").read_text(encoding="utf-8")
)["outputs"]


def close(value, expected):
    return math.isclose(value, expected, rel_tol=1e-6, abs_tol=1e-9)


def assert_golden(found, golden):
    for name in ("loss", "clip_acc", "grad_norm_image", "grad_norm_text"):
        assert close(found[name], golden[name]), name
    pairs = zip(found["grad_image_first5"], golden["grad_image_first5"], strict=True)
    assert all(close(a, b) for a, b in pairs)


@pytest.mark.parametrize("case", GOLDEN["clip_loss"]["world_size_1"])
def test_item_5_loss_and_gradients_equal_the_golden_values_on_one_rank(case):
    """Item 5: official loss, gradient norms and first gradient entries, float64."""
    actual = golden_run([case])[0]
    assert_golden(actual, case)
    assert close(actual["grad_logit_scale"], case["grad_logit_scale"])


def test_item_5_gathered_loss_equals_the_golden_values_on_two_ranks(two_ranks):
    """Item 5: loss and gradients of each rank before averaging; gathered rows carry gradient.

    The gradient of the scale is shared out between the ranks in another way; what counts is its
    mean over the ranks, which DDP forms.
    """
    golden = GOLDEN["clip_loss"]["world_size_2"]
    cases = [case for case in golden if case["rank"] == 0]
    by_rank = two_ranks.run(golden_run, cases=cases)
    for case in golden:
        index = [c["local_N"] for c in cases].index(case["local_N"])
        assert_golden(by_rank[case["rank"]][index], case)
        both = [c["grad_logit_scale"] for c in golden if c["local_N"] == case["local_N"]]
        actual = [results[index]["grad_logit_scale"] for results in by_rank]
        assert close(sum(actual), sum(both))


def test_item_5_negative_twin_local_loss_differs_from_the_golden_values():
    """Item 5: without the other rank's rows the values are not reached."""
    golden = GOLDEN["clip_loss"]["world_size_2"][0]
    image, text = golden_matrices(0, 2, golden["local_N"], golden["d"])
    local = ClipLoss(gather=False)(image, text, golden["logit_scale"]).loss.item()
    assert abs(local - golden["loss"]) > 0.1


def batch_of(size=6, num_texts=None, seed=0, length=16):
    generator = torch.Generator().manual_seed(seed)
    shape = (size, length - 2) if num_texts is None else (size, num_texts, length - 2)
    words = torch.randint(1, 40000, shape, generator=generator)
    start = torch.full((*shape[:-1], 1), 49406)
    tokens = torch.cat([start, words, torch.full((*shape[:-1], 1), 49407)], dim=-1)
    images = torch.randn(size, 3, 32, 32, generator=generator)
    return {"images": images, "tokens": tokens, "ids": torch.arange(size)}


@pytest.fixture
def module():
    torch.manual_seed(0)
    return LaCLIP(config()).eval()


def test_item_2_loss_without_rewrites_is_clip_bit_for_bit(module):
    """Item 2: one text per image gives exactly CLIP's loss on the two embeddings."""
    batch = batch_of()
    image = module.encoder.encode_image(batch["images"])
    text = module.encoder.encode_text(batch["tokens"])
    plain = ClipLoss()(image, text, module.logit_scale())
    assert torch.equal(module.losses(batch)["loss"], plain.loss)
    logits = module.logit_scale() * F.normalize(image, dim=1) @ F.normalize(text, dim=1).T
    own = torch.arange(6)
    dense = (F.cross_entropy(logits, own) + F.cross_entropy(logits.T, own)) / 2
    assert torch.allclose(plain.loss, dense, rtol=1e-6)


def test_multi_text_is_the_mean_of_single_text_losses(module):
    """LaCLIP-MT: the mean over texts, each with its own negatives; images are encoded once."""
    batch = batch_of(num_texts=2)
    single = [module.losses({**batch, "tokens": batch["tokens"][:, m]})["loss"] for m in range(2)]
    assert torch.allclose(module.losses(batch)["loss"], (single[0] + single[1]) / 2, rtol=1e-5)
    one = {**batch, "tokens": batch["tokens"][:, :1]}
    assert torch.equal(module.losses(one)["loss"], single[0])
    calls = []
    module.encoder.model.visual.register_forward_hook(lambda *a: calls.append(a[2].shape))
    module.losses(batch)
    assert calls == [(6, 32)]


def test_the_logged_accuracy_is_that_of_the_captions(module):
    """Not of the rewrites, which are drawn anew."""
    texts = []

    def loss(image, text, scale):
        texts.append(text)
        return SimpleNamespace(loss=text.sum(), hits=torch.full((6,), len(texts) == 1))

    module.loss.forward = loss
    terms = module.losses(batch_of(num_texts=2))
    assert (len(texts), float(terms["batch_top1"])) == (2, 1.0)
    assert float(terms["logit_scale"]) == pytest.approx(1 / 0.07)


def test_multi_text_never_takes_another_text_of_the_image_as_negative(module):
    """LaCLIP-MT: two equal texts per image cost what one costs; a joint matrix would cost more."""
    batch = batch_of()
    doubled = {**batch, "tokens": batch["tokens"][:, None].expand(-1, 2, -1)}
    single, double = module.losses(batch)["loss"], module.losses(doubled)["loss"]
    assert torch.allclose(single, double, rtol=1e-5)
    image = module.encoder.encode_image(batch["images"]).repeat(2, 1)
    text = module.encoder.encode_text(batch["tokens"]).repeat(2, 1)
    assert ClipLoss()(image, text, module.logit_scale()).loss > single + 0.1


def test_gradient_reaches_every_trainable_parameter(module):
    module.train()
    module.losses(batch_of())["loss"].backward()
    without = [n for n, p in module.named_parameters() if p.requires_grad and p.grad is None]
    assert without == []
    zero = [n for n, p in module.named_parameters() if p.requires_grad and not p.grad.any()]
    assert all("in_proj_bias" in n or "attn" in n for n in zero), zero


def test_item_6_logit_scale_starts_at_one_over_seven_hundredths_and_stays_in_bounds(module):
    """Item 6: initial multiplier 1 / 0.07; after every step the raw value lies in [0, ln 100]."""
    assert math.isclose(float(module.logit_scale()), 1 / 0.07, rel_tol=1e-6)
    raw = module.logit_scale.log_scale
    for value, expected in ((7.0, math.log(100)), (-3.0, 0.0), (1.5, 1.5)):
        raw.data.fill_(value)
        module.after_optimizer_step()
        assert math.isclose(float(raw), expected, rel_tol=1e-6, abs_tol=1e-9)
    assert isinstance(module.logit_scale, LogitScale)


def test_item_7_schedule_equals_the_golden_values():
    """Item 7: 40 steps with 10 of warm-up, from 1e-6 over the peak to nearly 1e-5."""
    golden = GOLDEN["cosine_scheduler"]["values_at_0_1_9_10_11_25_39"]
    options = {
        "lr": 1e-3,
        "total_steps": 40,
        "warmup_steps": 10,
        "warmup_start_lr": 1e-6,
        "final_lr": 1e-5,
    }
    actual = [lr_at(step, **options) for step in (0, 1, 9, 10, 11, 25, 39)]
    assert all(close(a, b) for a, b in zip(actual, golden, strict=True))


@pytest.mark.parametrize("towers", ["open_clip", "own"])
def test_item_8_weight_decay_spares_biases_norms_and_the_logit_scale(towers):
    """Item 8: decayed are exactly the matrices whose name has no bias, ln or bn."""
    if towers == "open_clip":
        module = LaCLIP(config())
    else:
        with torch.device("meta"):
            module = LaCLIP(config(name="paper"))
    groups = module.parameter_groups()
    decayed = {id(p) for g in groups if g["weight_decay"] > 0 for p in g["params"]}
    free = {id(p) for g in groups if g["weight_decay"] == 0 for p in g["params"]}
    named = {n: p for n, p in module.named_parameters() if p.requires_grad}
    assert decayed | free == {id(p) for p in named.values()}
    for name, parameter in named.items():
        spared = parameter.ndim < 2 or any(part in name for part in ("bias", "ln", "bn"))
        assert (id(parameter) in free) == spared, name
    tables = [n for n in named if "token_embedding" in n or "positional" in n or "pos_embed" in n]
    assert len(tables) >= 3
    assert all(id(named[n]) in decayed for n in tables if named[n].ndim >= 2)
    assert id(module.logit_scale.log_scale) in free


def test_item_9_image_blocks_normalise_queries_and_keys_per_head():
    """Item 9: every image block of the paper's model has LayerNorm(head_dim, 1e-6) on q and k."""
    with torch.device("meta"):
        module = LaCLIP(config(name="paper"))
    blocks = module.encoder.image_tower.trunk.blocks
    assert len(blocks) == 12
    for block in blocks:
        for norm in (block.attn.q_norm, block.attn.k_norm):
            assert isinstance(norm, torch.nn.LayerNorm)
            assert (norm.normalized_shape, norm.eps) == ((64,), 1e-6)


def test_item_9_scaling_queries_changes_nothing():
    """Item 9: LayerNorm makes attention blind to the scale of q and k; without it, it is not."""
    from common.encoders.image.vit import QKNormViT

    images = torch.randn(2, 3, 32, 32)
    for qk_norm, blind in ((True, True), (False, False)):
        torch.manual_seed(0)
        tower = QKNormViT(32, 8, 32, 1, 2, qk_norm=qk_norm).eval()
        before = tower(images)
        with torch.no_grad():
            tower.trunk.blocks[0].attn.qkv.weight[:64] *= 50  # q and k
            tower.trunk.blocks[0].attn.qkv.bias[:64] *= 50
        assert torch.allclose(before, tower(images), atol=1e-4) == blind


def test_item_10_text_feature_is_taken_at_the_end_token(module):
    """Item 10: the state at the arg-max id, whatever stands behind it."""
    tokens = module.encoder.tokenizer(["a cat", "two small red cars"])
    changed = tokens.clone()
    changed[0, 6:] = 5  # behind the end token, ids below it
    same, other = module.encoder.encode_text(tokens), module.encoder.encode_text(changed)
    assert torch.allclose(same, other, atol=1e-6)
    changed[0, 1] = 5
    assert not torch.allclose(same[0], module.encoder.encode_text(changed)[0], atol=1e-4)


@pytest.mark.parametrize("text", ["a photo of a cat.", "Red   BUS &amp; car", "don't stop"])
def test_item_10_token_ids_equal_the_golden_ones(text):
    """Item 10: ids of the official tokenizer, end of text included."""
    expected = GOLDEN["tokenizer"][text]
    ids = ClipTokenizer(77)(text)[0]
    assert ids[: len(expected)].tolist() == expected
    assert not ids[len(expected) :].any()


def test_item_10_over_long_text_equals_the_golden_length_and_end():
    """Item 10: 100 words fill the context and still end in end-of-text."""
    length, last = GOLDEN["tokenizer"]["word x100: length nonzero, last id"]
    ids = ClipTokenizer(77)(" ".join(["word"] * 100))[0]
    assert (int((ids != 0).sum()), int(ids[-1])) == (length, last)


def test_item_14_templates_are_averaged_and_renormalised(module):
    """Item 14: class embedding = unit(mean of unit template embeddings)."""
    actual = class_embeddings(module.encode_texts, ["cat", "dog"], LACLIP_TEMPLATES)
    for row, name in enumerate(("cat", "dog")):
        texts = [template.replace("{}", name) for template in LACLIP_TEMPLATES]
        mean = F.normalize(module.encode_texts(texts), dim=1).mean(0)
        assert torch.allclose(actual[row], F.normalize(mean, dim=0), atol=1e-6)
        assert float(mean.norm()) < 0.999999  # so that the second normalisation matters
    assert len(LACLIP_TEMPLATES) == 7


@pytest.mark.parametrize(
    ("words", "sentences"),
    [
        ([], LACLIP_TEMPLATES),
        (["eval.validate=imagenet", "eval.templates=openai"], OPENAI_TEMPLATES),
        (["eval.validate=imagenet"], LACLIP_TEMPLATES),
        (["eval.validate=dtd", "eval.templates=openai"], clip_templates("dtd")),
        (["eval.validate=dtd"], clip_templates("dtd")),
        (["eval.validate=imagenet_v2"], LACLIP_TEMPLATES),
    ],
)
def test_item_14_validation_has_the_sentences_of_the_evaluation(words, sentences, tmp_path):
    """Item 14: the checkpoint is chosen by what is reported; sets have CLIP's own lists."""
    cfg = config(*words)
    module = LaCLIP(cfg)
    judge = protocol(cfg, module, Workspace(tmp_path))
    name = cfg.eval.validate or "imagenet"
    assert tuple(module.templates) == tuple(judge.templates[name]) == tuple(sentences)
    assert [len(judge.templates[name]) for name in ("dtd", "cifar10")] == [8, 18]


@pytest.mark.parametrize("num_texts", [1, 2])
def test_item_15_a_step_costs_what_a_step_of_clip_costs(num_texts):
    """Item 15: operations and saved memory do not depend on the number of rewrites.

    With multi-text the text tower sees twice as many texts, which the count shows.
    """
    from common.data.samplers import Key
    from common.families.image_text.module import build_tokenizer
    from projects.laclip.data import build_data

    def cost(rewrites, texts):
        cfg = config(f"data.num_rewrites={rewrites}", f"method.num_texts={texts}")
        torch.manual_seed(0)
        module = LaCLIP(cfg)
        keys: list[Key] = [(i, 0) for i in range(16)]
        batch = build_data(cfg, build_tokenizer(cfg.model)).train_set[keys]
        saved = 0

        def pack(tensor):
            nonlocal saved
            saved += tensor.numel() * tensor.element_size()
            return tensor

        with FlopCounterMode(display=False) as counter:
            with torch.autograd.graph.saved_tensors_hooks(pack, lambda t: t):
                loss = module.losses(batch)["loss"]
            loss.backward()
        return counter.get_total_flops(), saved, batch["images"].shape

    clip, ours = cost(0, 1), cost(2, num_texts)
    if num_texts == 1:
        assert ours == clip
    else:
        assert ours[0] > clip[0]


def test_wrong_model_settings_are_user_errors():
    with pytest.raises(UserError, match="exactly one of"):
        config("model.vision=qknorm_vit_b16")
    with pytest.raises(UserError, match="ViT-B-17"):
        LaCLIP(config("model.open_clip=ViT-B-17", name="paper_laion400m"))
