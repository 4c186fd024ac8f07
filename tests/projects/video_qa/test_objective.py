"""Checklist items of the network and its losses; each test names its item."""

import math

import pytest
import torch

from common.encoders.modes import evaluation_mode
from projects.video_qa.attention import FrameAttention, frame_reach
from projects.video_qa.clips.batches import Masking
from projects.video_qa.clips.clips import Sentence, frame_times, frames_of_sentences
from projects.video_qa.data import load_part
from projects.video_qa.folder import embed, export, read, read_network
from projects.video_qa.module import VideoQA
from projects.video_qa.objective import (
    answer_loss,
    candidate_logits,
    localisation_loss,
    masked_contrast,
)
from projects.video_qa.sentence_rnn import SentenceRNN
from tests.projects.video_qa.conftest import batch_of, config, network_of, rows_of

SEQUENCES = ("input_ids", "attention_mask", "token_type_ids")


def scores(cfg, net, batch):
    with evaluation_mode(net):
        return net(batch).scores


def test_item_1_permuted_candidates_permute_the_scores():
    cfg = config()
    net, batch = network_of(cfg), batch_of(cfg)
    order = torch.tensor([3, 0, 4, 1, 2])
    moved = {**batch, **{k: batch[k][:, order] for k in SEQUENCES}}
    before = scores(cfg, net, batch)
    assert torch.allclose(scores(cfg, net, moved), before[:, order], atol=1e-6)
    assert before.std(1).min() > 1e-4  # they differ at all


@pytest.mark.parametrize("reach", ["local", "global"])
def test_items_2_3_and_19_attention_by_hand(reach):
    """2: no weight outside a span; 3: a sentence without frames is 0; 19: reach is a matter of the
    mask alone.
    """
    torch.manual_seed(0)
    attend = FrameAttention(4)
    tokens, frames = torch.randn(1, 2, 3, 5, 4), torch.randn(1, 6, 4)
    spans = torch.tensor([[[1, 1, 0, 0, 0, 0], [0, 1, 1, 0, 0, 0], [0] * 6]]).bool()
    there = torch.tensor([[True] * 5 + [False]])
    allowed = frame_reach(spans, there, reach)
    seen, weights = attend(tokens, frames, allowed)
    assert torch.isfinite(seen).all()
    assert weights[..., 5].eq(0).all()  # padding
    if reach == "global":
        assert allowed[0, :, :5].all()
        assert weights[..., :5].gt(0).all()
        return
    outside = ~spans[:, None, :, None].expand_as(weights)
    assert weights[outside].eq(0).all()
    assert torch.allclose(weights[:, :, :2].sum(-1), torch.ones(1, 2, 2, 5))
    assert seen[:, :, 2].eq(0).all()
    query, key = attend.query(tokens[0, 1, 0, 2]), attend.key(frames[0])
    raw = [math.exp(float(query @ key[f]) / 2) for f in (0, 1)]
    assert float(weights[0, 1, 0, 2, 0]) == pytest.approx(raw[0] / sum(raw), rel=1e-5)
    changed = frames.clone()
    changed[:, 2:] += 5  # no frame of the first sentence
    assert torch.equal(attend(tokens, changed, allowed)[0][:, :, 0], seen[:, :, 0])


@pytest.mark.parametrize("pool", ["max", "mean"])
@pytest.mark.parametrize("fusion", ["attended", "matched"])
def test_item_2_what_a_sentence_sees_by_hand(fusion, pool):
    """Checklist 2: u, or W [h; u; h * u] with ReLU, of each token; then its maximum or mean over
    real tokens.
    """
    words = [f"model.fusion={fusion}", f"model.pool={pool}", "model.attention=global"]
    cfg = config(*words, "model.time_embedding=false")
    net, batch = network_of(cfg).eval(), batch_of(cfg)
    mask = batch["attention_mask"]
    tokens = 20 * torch.randn(
        *mask.shape, net.encoder.config.hidden_size
    )  # that look at one frame each
    actual, _ = net.seen(batch, tokens, mask)
    count = mask.sum(-1)
    b, a, n = ((count > 1) & (count < mask.shape[-1])).nonzero()[0].tolist()
    allowed = frame_reach(batch["frame_spans"], batch["frame_mask"], "global")
    seen = net.attend(tokens, net.project(batch["frames"].float()), allowed)[0][
        b, a, n, : count[b, a, n]
    ]
    h = tokens[b, a, n, : count[b, a, n]]
    if fusion == "matched":
        weight = net.fuse[0].weight.chunk(3, 1)
        parts = (h @ weight[0].T, seen @ weight[1].T, (h * seen) @ weight[2].T)
        seen = (sum(parts) + net.fuse[0].bias).relu()
    want = seen.amax(0) if pool == "max" else seen.mean(0)
    torch.testing.assert_close(actual[b, a, n], want, rtol=1e-4, atol=1e-5)
    assert not torch.allclose(seen.amax(0), seen.mean(0), atol=1e-2)


def test_item_3_the_whole_network_bears_a_sentence_without_frames():
    cfg = config()
    net, batch = network_of(cfg), batch_of(cfg)
    batch["frame_spans"][:, 0] = False
    out = VideoQA(cfg, net).losses(batch)
    out["loss"].backward()
    assert all(bool(torch.isfinite(p.grad).all()) for p in net.parameters() if p.grad is not None)
    batch["frames"], batch["frame_mask"] = batch["frames"][:, :0], batch["frame_mask"][:, :0]
    batch["frame_spans"], batch["frame_sentence"] = (
        batch["frame_spans"][..., :0],
        batch["frame_sentence"][:, :0],
    )
    assert torch.isfinite(scores(cfg, net, batch)).all()


def test_item_4_the_contrast_has_one_term_a_candidate_of_the_same_question():
    z = torch.tensor([[[1.0, 0.0], [0.0, 1.0], [1.0, 1.0]], [[2.0, 0.0], [0.0, 2.0], [0.0, 0.0]]])
    masked, labels = torch.tensor([[1.0, 2.0], [1.0, 0.0]]), torch.tensor([1, 0])
    assert candidate_logits(masked, z).tolist() == [[1.0, 2.0, 3.0], [2.0, 0.0, 0.0]]
    first = -math.log(math.exp(2) / (math.exp(1) + math.exp(2) + math.exp(3)))
    second = -math.log(math.exp(2) / (math.exp(2) + 2))
    assert float(masked_contrast(masked, z, labels)) == pytest.approx(
        (first + second) / 2, rel=1e-6
    )
    other = z.clone()
    other[1] = torch.randn(3, 2)  # another question's candidates
    assert torch.equal(candidate_logits(masked, other)[0], candidate_logits(masked, z)[0])
    cosine = candidate_logits(masked[:1], z[:1], "cosine", 0.1)[0]
    assert float(cosine[2]) == pytest.approx(10 * 3 / math.sqrt(10), rel=1e-6)
    free = z.requires_grad_()
    masked_contrast(masked, free, labels, stop_gradient=False).backward()
    assert free.grad is not None
    assert free.grad.abs().sum() > 0
    with pytest.raises(ValueError, match="expected"):
        masked_contrast(masked, z[:, 0], labels)
    still = masked.clone().requires_grad_()
    frozen = z.detach().clone().requires_grad_()
    masked_contrast(still, frozen, labels, stop_gradient=True).backward()
    assert frozen.grad is None
    assert still.grad is not None


@pytest.mark.parametrize(("similarity", "temperature"), [("dot", 1.0), ("cosine", 0.1)])
def test_the_contrast_keeps_its_precision_under_autocast(similarity, temperature):
    """Guards against logits in bfloat16: between 128 and 256 it has whole numbers alone."""
    torch.manual_seed(0)  # candidates that share most of their tokens: norm 12, logits near 144
    z = 12 * torch.nn.functional.normalize(
        torch.randn(4, 1, 48) + 0.15 * torch.randn(4, 5, 48), dim=-1
    )
    labels = torch.tensor([0, 2, 4, 1])
    near = z[torch.arange(4), labels] + 0.1 * torch.randn(4, 48)
    own = {"similarity": similarity, "temperature": temperature}

    def actual(autocast):
        masked, candidates = near.clone().requires_grad_(), z.clone().requires_grad_()
        with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
            rounded = torch.einsum("bd,bad->ba", near, z).dtype
            logits = candidate_logits(masked, candidates, **own)
            loss = masked_contrast(masked, candidates, labels, **own)
            half = candidate_logits(near.bfloat16(), z.bfloat16(), **own)
        assert rounded == (torch.bfloat16 if autocast else torch.float32)
        assert logits.dtype == half.dtype == torch.float32
        return logits, loss, *torch.autograd.grad(loss, [masked, candidates])

    expected = actual(False)
    assert all(torch.equal(a, b) for a, b in zip(actual(True), expected, strict=True))
    assert 0.01 < expected[1] < 2
    assert expected[2].abs().max() > 0.01


@pytest.mark.parametrize("scope", ["all", "answer", "subtitle"])
def test_item_5_only_the_right_candidate_is_masked_and_no_special_token(scope):
    cfg = config("method.mask_prob=1.0", f"method.mask_scope={scope}")
    rows, batch = rows_of(cfg), batch_of(cfg)
    words = rows.words
    assert not batch["input_ids"].eq(words.mask).any()
    assert batch["masked_ids"].shape[1] == 1
    right = batch["input_ids"][torch.arange(6), batch["labels"]]
    hidden, n = batch["masked_ids"][:, 0], right.shape[-1]
    hidden = torch.nn.functional.pad(hidden, (0, n - hidden.shape[-1]))
    special = (right == words.cls) | (right == words.sep) | (right == words.pad)
    assert torch.equal(hidden[special], right[special])
    changed = hidden.eq(words.mask)
    assert changed.any()
    second = batch["token_type_ids"][torch.arange(6), batch["labels"]].bool()
    if scope == "all":
        mark = torch.tensor([words(";")[0]])
        assert changed[~special & (right != mark)].all()
    if scope == "answer":
        assert not changed[~second].any()
        for b, question in enumerate(load_part(cfg, "train").questions[:6]):
            shown, ids = hidden[b, 0][(second & ~special)[b, 0]], words(question.text)
            assert shown[: len(ids)].tolist() == ids  # the question stays
            assert shown[len(ids) :].eq(words.mask).all()
    if scope == "subtitle":
        assert changed[~second].any()
        assert not changed[second].any()


def test_item_5_masking_draws_its_rate_and_is_the_same_in_all_sentences():
    cfg = config("method.mask_prob=0.5")
    batch, words = batch_of(cfg), rows_of(cfg).words
    second = batch["masked_types"][:, 0].bool() & batch["masked_attention"][:, 0].bool()
    for b in range(6):
        tails = {
            tuple(row[m].tolist())
            for row, m, there in zip(
                batch["masked_ids"][b, 0], second[b], batch["sentence_mask"][b], strict=True
            )
            if there
        }
        assert len(tails) == 1  # the question and the answer are masked once
    import numpy as np

    drawn = Masking(0.15)([5] * 20000, "question", words.mask, np.random.default_rng(0))
    assert drawn.count(words.mask) / 20000 == pytest.approx(0.15, abs=0.01)


def test_items_6_7_13_and_17_the_contrastive_branch():
    """6: same parameters; 7: answers without it are the same; 13: zero weights are the plain model;
    17: text alone.
    """
    full = config("method.mask_prob=0.0")
    plain = config("method.contrast_weight=0.0", "method.localisation_weight=0.0")
    net, batch = network_of(full), batch_of(full)
    module = VideoQA(full, net).eval()
    right = net(batch).text[torch.arange(6), batch["labels"]]
    sequences = batch["masked_ids"], batch["masked_attention"], batch["masked_types"]
    masked = net.run(batch, *sequences, visual=False)
    assert torch.allclose(masked.text[:, 0], right, atol=1e-6)  # nothing is masked at rate 0
    assert masked.visual is None
    names = {name for name, _ in net.named_parameters()} - {"span_head.weight", "span_head.bias"}
    assert names == {name for name, _ in network_of(plain).named_parameters()}
    module.contrast(batch, net(batch)).backward()
    moved = {n for n, p in net.named_parameters() if p.grad is not None and p.grad.abs().sum() > 0}
    assert moved
    assert not any(n.startswith(("visual", "project", "attend", "fuse")) for n in moved)
    without = {k: v for k, v in batch.items() if not k.startswith("masked")}
    assert torch.equal(scores(full, net, without), scores(full, net, batch))
    other = VideoQA(plain, net).losses(without)
    assert set(other) == {"loss", "answer", "accuracy"}
    assert torch.equal(other["loss"], answer_loss(net(without).scores, batch["labels"]))
    terms = module.losses(batch)
    assert float(terms["loss"].detach()) == pytest.approx(
        float((terms["answer"] + terms["localisation"] + terms["contrast"]).detach())
    )
    halved = (
        VideoQA(
            config(
                "method.mask_prob=0.0",
                "method.contrast_weight=0.5",
                "method.localisation_weight=0.25",
            ),
            net,
        )
        .eval()
        .losses(batch)
    )
    expected = terms["answer"] + 0.25 * terms["localisation"] + 0.5 * terms["contrast"]
    assert torch.allclose(halved["loss"], expected)


def test_item_17_pre_training_has_neither_auxiliary_term():
    cfg = config()
    net = network_of(cfg)
    terms = VideoQA(cfg, net, "pretrain").losses(batch_of(cfg))
    assert set(terms) == {"loss", "answer", "accuracy"}
    assert not any(p.requires_grad for p in net.span_head.parameters())
    VideoQA(cfg, net, "main")
    assert all(p.requires_grad for p in net.span_head.parameters())
    both = config("method.contrast_features=both")
    assert torch.isfinite(VideoQA(both, network_of(both)).losses(batch_of(both))["contrast"])


def test_item_8_padding_sentences_change_nothing():
    cfg = config()
    net, batch = network_of(cfg), batch_of(cfg)
    count = batch["sentence_mask"].sum(1)
    short, long = int(count.argmin()), int(count.argmax())
    assert count[short] < count[long]
    alone = rows_of(cfg)[[(short, 0)]]
    assert torch.allclose(scores(cfg, net, alone)[0], scores(cfg, net, batch)[short], atol=1e-6)
    torch.manual_seed(0)
    rnn, x = SentenceRNN(3, 2, "gru"), -torch.rand(1, 4, 3)
    mask = torch.tensor([[True, True, False, False]])
    states, pooled = rnn(x, mask)
    assert torch.equal(pooled, rnn(x[:, :2], mask[:, :2])[1])
    assert states[:, 2:].eq(0).all()


def test_item_12_spans_and_questions_without_one():
    cfg = config()
    batch = batch_of(cfg, 8)
    known = (batch["spans"] >= 0).all(1)
    assert known.any()
    assert not known.all()
    logits = torch.randn(8, batch["sentence_mask"].shape[1], 2)
    loss = localisation_loss(logits, batch["sentence_mask"], batch["spans"])
    assert torch.equal(
        loss, localisation_loss(logits[known], batch["sentence_mask"][known], batch["spans"][known])
    )
    by_hand = []
    for b in torch.nonzero(known)[:, 0]:
        own = logits[b, : int(batch["sentence_mask"][b].sum())].log_softmax(0)
        first, last = batch["spans"][b]
        by_hand.append(float(-0.5 * (own[first, 0] + own[last, 1])))
    assert float(loss) == pytest.approx(sum(by_hand) / len(by_hand), rel=1e-5)
    nothing = localisation_loss(
        logits.requires_grad_(), batch["sentence_mask"], torch.full((8, 2), -100)
    )
    nothing.backward()
    assert float(nothing.detach()) == 0
    assert logits.grad is not None
    assert logits.grad.eq(0).all()


def test_item_19_a_frame_belongs_to_every_sentence_that_covers_it():
    said = [Sentence(0, 1, "a"), Sentence(0.5, 2, "b"), Sentence(2.05, 2.2, "c")]
    actual = frames_of_sentences(said, frame_times(9, 3))
    assert actual.sum(1).tolist() == [4, 5, 1]
    assert actual[:2, 2:4].all()  # seconds 0.67 and 1.0
    assert actual[2].argmax() == 6  # floor(3 * 2.125): no frame is inside
    local, everywhere = (config(f"model.attention={reach}") for reach in ("local", "global"))
    assert network_of(local).state_dict().keys() == network_of(everywhere).state_dict().keys()


@pytest.mark.parametrize(
    "words",
    [
        ("model.fusion=attended", "model.pool=mean"),
        ("model.rnn=gru", "model.attention=global", "model.time_embedding=true"),
        ("model.streams=text",),
        ("model.chunk=7", "model.checkpointing=true"),
    ],
)
def test_variants_train_every_parameter(words):
    """Every switch builds a network all of whose parameters get a gradient."""
    cfg = config(*words)
    net = network_of(cfg).train()
    VideoQA(cfg, net).losses(batch_of(cfg, 8))["loss"].backward()
    dead = [n for n, p in net.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0]
    # a bias adds the same to all that a softmax compares, as a key's does: its gradient is
    # rounding, or nothing
    no_softmax = ("text_score.bias", "visual_score.bias", "span_head.bias")
    assert all(n in no_softmax or ("key" in n and "bias" in n) for n in dead), dead


def test_chunks_and_recomputation_change_nothing():
    plain, small = config(), config("model.chunk=7", "model.checkpointing=true")
    net, other = network_of(plain).train(), network_of(small).train()
    batch = batch_of(plain)
    grads = []
    for cfg, n in ((plain, net), (small, other)):
        VideoQA(cfg, n).losses(batch)["loss"].backward()
        grads.append(n.encoder.embeddings.word_embeddings.weight.grad)
    assert torch.allclose(*grads, atol=1e-6)


def test_a_small_random_encoder_begins_with_attention_to_equal_tokens():
    """model.alike: keys are queries, positions count .3 and segments .5; all else as without it."""
    alike = network_of(config(name="mini")).state_dict()
    plain = network_of(config("model.alike=false", name="mini")).state_dict()
    expected = dict(plain)
    for name, share in (("position", 0.3), ("token_type", 0.5)):
        expected[f"encoder.embeddings.{name}_embeddings.weight"] = (
            share * plain[f"encoder.embeddings.{name}_embeddings.weight"]
        )
    for layer in range(2):
        own = f"encoder.encoder.layer.{layer}.attention.self"
        assert torch.equal(alike[f"{own}.key.weight"], alike[f"{own}.query.weight"])
        assert not torch.equal(plain[f"{own}.key.weight"], plain[f"{own}.query.weight"])
        expected[f"{own}.key.weight"] = plain[f"{own}.query.weight"]
    assert alike.keys() == expected.keys()
    assert not [name for name in expected if not torch.equal(alike[name], expected[name])]


def test_two_rates():
    groups = VideoQA(config(), network_of(config())).parameter_groups()
    assert {g.get("lr_scale", 1.0) for g in groups} == {1.0, 2.0}
    assert sum(len(g["params"]) for g in groups) == len(list(network_of(config()).parameters()))


def test_export_reloads_with_equal_scores_and_starts_a_main_stage(tmp_path):
    """Equal outputs after reloading; item 11: `pretrain.weights` fills all weights, the scores'
    included.
    """
    cfg = config("model.time_embedding=true")
    module = VideoQA(cfg, network_of(cfg))
    export(cfg, module, tmp_path)
    again = read(tmp_path)
    left, right = embed(cfg, module), embed(cfg, VideoQA(cfg, again.network))
    assert all(torch.equal(left[k], right[k]) for k in left)
    batch = batch_of(cfg)
    assert torch.equal(scores(cfg, again.network, batch), scores(cfg, module.network, batch))
    plain = config("model.time_embedding=true", "method.localisation_weight=0.0")
    torch.manual_seed(5)
    other = network_of(plain)
    other.load_state_dict(read_network(tmp_path, other))
    assert all(
        torch.equal(v, module.network.state_dict()[k]) for k, v in other.state_dict().items()
    )
