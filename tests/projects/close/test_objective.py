"""Golden values through the public functions, and the module around them."""

import math

import pytest
import torch
from torch.nn import functional as F

from common.config import load
from common.engine.module import freeze
from projects.close import objective
from projects.close.batches import CloseRows, ImageInputs, Words
from projects.close.config import Config
from projects.close.data import load_examples
from projects.close.modality_gap import GapStatistics, TextAdapter, add_noise
from projects.close.network import make_adapter
from projects.close.stages import make_inputs, rows_of, stages
from projects.close.vector_to_text import IGNORED, VectorToText
from tests.projects.close.conftest import GOLDEN, GPT2, config, module_of, sines


def golden_noise():
    x = torch.arange(16, dtype=torch.float64).add(1).sin().view(2, 8)
    return F.normalize(x, dim=1), torch.arange(16, dtype=torch.float64).add(3).cos().view(2, 8)


# -- golden values -------------------------------------------------------------------------------


def test_item_3_noise_equals_the_golden_values():
    """Checklist 3: re-normalised in training, the identity in evaluation."""
    vectors, noise = golden_noise()
    want, scale = GOLDEN["noise"], GOLDEN["noise"]["scale"]
    actual = add_noise(vectors, noise, scale)
    torch.testing.assert_close(
        actual[0].tolist(), want["train_renormalised_row0"], rtol=1e-6, atol=0
    )
    torch.testing.assert_close(actual.norm(dim=1).tolist(), want["norms"], rtol=1e-6, atol=0)
    raw = add_noise(vectors, noise, scale, renormalize=False)
    torch.testing.assert_close(
        raw[0].tolist(), want["train_not_renormalised_row0"], rtol=1e-6, atol=0
    )
    adapter = TextAdapter("noise", scale)
    torch.testing.assert_close(adapter(vectors, noise[:, None]), actual)
    assert torch.equal(adapter.eval()(vectors, noise[:, None]), vectors)
    with pytest.raises(ValueError, match="needs 1 draw"):
        adapter.train()(vectors)


@pytest.mark.parametrize(
    ("scale", "cosine"),
    GOLDEN["mean_cosine_after_noise_d768 (random, approx 1/sqrt(1+768 w^2))"].items(),
)
def test_item_3_noise_leaves_the_expected_cosine(scale, cosine):
    """Checklist 3: about 1 / sqrt(1 + D w^2)."""
    w, generator = float(scale), torch.Generator().manual_seed(0)
    vectors = F.normalize(torch.randn(2000, 768, generator=generator), dim=1)
    noise = torch.randn(2000, 768, generator=generator)
    actual = float((add_noise(vectors, noise, w) * vectors).sum(1).mean())
    assert actual == pytest.approx(cosine, abs=4e-3)
    assert actual == pytest.approx(1 / math.sqrt(1 + 768 * w * w), abs=5e-3)


def test_item_4_texts_of_an_image_are_averaged_before_they_are_normalised():
    """Checklist 4: golden segment mean; a mean of unit vectors would be another vector."""
    values = torch.arange(10.0, dtype=torch.float64).view(5, 2)
    segments = torch.tensor([0, 0, 1, 2, 2])
    assert objective.segment_mean(values, segments).tolist() == GOLDEN["segment_mean"]
    assert objective.segment_mean(values, segments, 4)[3].tolist() == [0.0, 0.0]
    features = torch.tensor([[3.0, 0.0], [0.0, 1.0]])
    actual = objective.unit_input(features, torch.tensor([0, 0]), 1)
    torch.testing.assert_close(actual, F.normalize(torch.tensor([[3.0, 1.0]]), dim=1))


def test_item_5_sequences_join_as_in_the_golden_file():
    """Checklist 5: order and mask."""
    first = torch.arange(12.0).view(2, 2, 3)
    second = 100 + torch.arange(18.0).view(2, 3, 3)
    want = GOLDEN["concat_masked_sequences"]
    actual, mask = objective.concat_masked_sequences(
        first, second, None, torch.tensor([[1, 1, 0], [1, 0, 0]])
    )
    assert list(actual.shape) == want["shape"]
    assert actual.tolist() == want["seq"]
    assert mask.tolist() == want["mask"]


@pytest.mark.parametrize(("text", "want"), GOLDEN["vqa_preprocess"].items())
def test_item_9_answers_are_normalised_as_in_the_golden_file(text, want):
    """Checklist 9: VQA normaliser."""
    assert objective.vqa_preprocess(text) == want


def test_item_9_scores_equal_the_golden_values():
    """Checklist 9: VQA score."""
    given = {"2": {"two": 2, "three": 8}, "Three.": {"two": 2, "three": 8}, "cat": {"dog": 10}}
    actual = [objective.vqa_score(text, annotations) for text, annotations in given.items()]
    assert actual == list(GOLDEN["vqa_score"].values())


def test_item_6_targets_of_questions_equal_the_golden_lists():
    """Checklist 6: ties and three votes, up to the first answer that has neither."""
    cases = [{"yes": 6, "no": 3, "maybe": 1}, {"a": 2, "b": 2, "c": 1}, {"red": 8, "dark red": 2}]
    actual = [objective.vqa_training_targets(case) for case in cases]
    assert actual == list(GOLDEN["vqa_training_targets"].values())
    assert objective.vqa_training_targets(["b", "a", "b"]) == ["b"]


@pytest.mark.parametrize(
    ("warmup", "name"),
    [
        (None, "total 100, warmup None, linear, base 3e-4"),
        (10, "total 100, warmup 10, linear"),
        (0.1, "total 100, warmup 0.1"),
    ],
)
def test_item_10_the_schedule_equals_the_golden_values(warmup, name):
    """Checklist 10."""
    for step, want in GOLDEN["schedule"][name]:
        assert objective.learning_rate(step, 3e-4, 100, warmup) == pytest.approx(
            want, rel=1e-9, abs=1e-15
        )


# -- the module ----------------------------------------------------------------------------------


@pytest.mark.parametrize(("unit", "want"), [("samples", 1 - 6 / 48), ("steps", 0.0)])
def test_item_10_the_unit_of_the_decay_can_be_chosen(clip, monkeypatch, unit, want):
    """Checklist 10: six steps of eight samples end at 0, or at 7/8 of the rate as released."""
    module = module_of(config(f"optim.decay_unit={unit}", "optim.warmup_steps=0"), clip)
    module.global_batch_size = 8

    class Trainer:
        max_steps, precision, gradient_clip_val, strategy = 6, "32-true", None, None

    monkeypatch.setattr(type(module), "trainer", Trainer())
    actual = module.configure_optimizers()
    optimizer, schedule = actual["optimizer"], actual["lr_scheduler"]["scheduler"]
    for _ in range(6):
        optimizer.step()
        schedule.step()
    assert optimizer.param_groups[0]["lr"] == pytest.approx(module.optim.lr * want, abs=1e-12)


@pytest.mark.parametrize("unit", ["samples", "steps"])
def test_the_warm_up_counts_steps_and_epochs_together(clip, monkeypatch, unit):
    """warmup_epochs was accepted and left out: two epochs of 1.5 steps and one step are four."""
    words = [f"optim.decay_unit={unit}", "optim.warmup_steps=1", "optim.warmup_epochs=2"]
    module = module_of(config(*words), clip)
    module.global_batch_size, module.warmup_epoch_steps = 8, 1.5

    class Trainer:
        max_steps, precision, gradient_clip_val, strategy = 6, "32-true", None, None

    monkeypatch.setattr(type(module), "trainer", Trainer())
    schedule = module.configure_optimizers()["lr_scheduler"]["scheduler"]
    assert [schedule.lr_lambdas[0](step) for step in range(5)] == [0, 0.25, 0.5, 0.75, 1]


def batch_of(clip, *overrides, kind="text", keys=((0, 0), (4, 0), (8, 0)), training=True):
    cfg = config(*overrides)
    module = module_of(cfg, clip)
    examples = load_examples(cfg, "train")
    rows = rows_of(cfg, module, make_inputs(cfg, clip, examples, kind), examples, training=training)
    return module, rows, rows[list(keys)]


def test_item_2_the_dual_encoder_has_no_gradient_and_no_state(clip):
    """Checklist 2: only the language model and the linear map are trained and saved."""
    module, _, batch = batch_of(clip, "model.cache=false")
    assert "tokens" in batch
    module.losses(batch)["loss"].backward()
    assert all(p.grad is None and not p.requires_grad for p in clip.encoder.parameters())
    assert {name.split(".")[0] for name in module.state_dict()} == {"language"}
    own = {id(p) for p in clip.encoder.parameters()}
    assert not own & {id(p) for p in module.parameters()}
    assert all(p.grad is not None for p in module.parameters())
    assert not clip.encoder.training


def test_item_3_noise_is_for_text_in_training_before_the_linear_map(clip):
    """Checklist 3: drawn anew at every access; images and evaluation get none."""
    module, rows, batch = batch_of(clip, "method.noise=0.5")
    unit = objective.unit_input(batch["features"], batch["segments"], 3)
    torch.testing.assert_close(module.vectors(batch), add_noise(unit, batch["noise"][:, 0], 0.5))
    assert not torch.equal(batch["noise"], rows[[(0, 1), (4, 1), (8, 1)]]["noise"])
    assert torch.equal(batch["noise"], rows[[(0, 0), (4, 0), (8, 0)]]["noise"])
    module.eval()
    assert torch.equal(module.vectors(batch), unit)
    module, _, batch = batch_of(clip, "method.noise=0.5", kind="image")
    assert batch["noise"].shape[1] == 0
    unit = objective.unit_input(batch["features"], batch["segments"], 3)
    assert torch.equal(module.train().vectors(batch), unit)


@pytest.mark.parametrize("kind", ["text", "image"])
def test_vectors_computed_before_equal_those_computed_in_the_step(clip, kind):
    """The cache changes nothing."""
    names = ("model.cache=true", "model.cache=false")
    (a, _, cached), (_, _, raw) = (
        batch_of(clip, name, "method.noise=0.1", kind=kind) for name in names
    )
    assert "features" in cached
    assert "features" not in raw
    torch.testing.assert_close(a.features(raw), cached["features"], atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("overrides", [[], [GPT2, "model.config.n_embd=32"]])
def test_item_5_four_tokens_stand_before_the_text(clip, overrides):
    """Checklist 5: K vector tokens, then the embedded question; padding of the question changes
    nothing.
    """
    module, _, batch = batch_of(clip, "data.task=vqa", *overrides, keys=((0, 0), (1, 0)))
    language, vectors = module.language.eval(), F.normalize(sines(2, 128), dim=1)
    ids, mask = batch["context_ids"], batch["context_mask"]
    embeds, seen = language.prefix(vectors, ids, mask)
    assert embeds.shape[1] == 4 + ids.shape[1]
    tokens = language.to_tokens(vectors).view(2, 4, -1)
    torch.testing.assert_close(embeds[:, :4], tokens)
    torch.testing.assert_close(embeds[:, 4:], language.model.get_input_embeddings()(ids))
    assert torch.equal(seen, torch.cat([torch.ones(2, 4, dtype=torch.long), mask], 1))
    more, more_mask = F.pad(ids, (0, 2)), F.pad(mask, (0, 2))
    labels = batch["labels"]
    one = language(vectors, labels, None, ids, mask)
    two = language(vectors, labels, None, more, more_mask)
    torch.testing.assert_close(one, two, atol=1e-5, rtol=1e-4)
    texts = [
        language.generate(vectors, i, m, max_new_tokens=4, eos_token_id=3)
        for i, m in ((ids, mask), (more, more_mask))
    ]
    assert torch.equal(*texts)


def test_item_5_the_question_reaches_the_loss(clip):
    """Checklist 5: logits with a question are those of vector and question, and others without
    it."""
    module, _, batch = batch_of(clip, "data.task=vqa", "method.noise=0", keys=((0, 0), (1, 0)))
    ids, mask = batch["context_ids"], batch["context_mask"]
    with torch.no_grad():
        vectors, actual = module.vectors(batch), module.logits(batch)
        expected = module.language(vectors, batch["labels"], batch["rows"], ids, mask)
        alone = module.language(vectors, batch["labels"], batch["rows"])
    torch.testing.assert_close(actual, expected)
    assert not torch.allclose(actual, alone, atol=1e-3)


def test_teacher_forcing_of_both_kinds_agrees_with_decoding(clip):
    """Greedy tokens are the arg-max of the logits that training computes for them."""
    for overrides in (
        [],
        [GPT2, "model.config.n_embd=32"],
    ):
        module, _, _ = batch_of(clip, *overrides)
        language, vectors = module.language.eval(), F.normalize(sines(3, 128), dim=1)
        out = language.generate(vectors, max_new_tokens=3)
        logits = language(vectors, out)
        assert torch.equal(logits.argmax(2), out)


def test_constant_tokens_stand_first_and_are_learned():
    """Optional prefix that depends on nothing."""
    module = config("model.num_constants=2")
    assert module.model.num_constants == 2
    from projects.close.network import build_language

    language, _ = build_language(module.model, 16)
    embeds, seen = language.prefix(sines(3, 16))
    assert embeds.shape[:2] == (3, 6)
    assert torch.equal(embeds[0, :2], embeds[1, :2])
    assert not torch.equal(embeds[0, 2:], embeds[1, 2:])
    assert bool(seen.all())


def test_item_8_the_loss_is_a_mean_over_the_tokens_of_the_batch():
    """Checklist 8: not of rows; padding has no part."""
    logits, labels = sines(2, 3, 5), torch.tensor([[1, 2, 3], [4, IGNORED, IGNORED]])
    logp = F.log_softmax(logits, -1)
    want = -(logp[0, 0, 1] + logp[0, 1, 2] + logp[0, 2, 3] + logp[1, 0, 4]) / 4
    torch.testing.assert_close(objective.target_loss(logits, labels), want)
    changed = logits.clone()
    changed[1, 1:] = 9 * changed[1, 1:].flip(-1)
    torch.testing.assert_close(objective.target_loss(changed, labels), want)


def test_item_8_every_target_of_an_input_is_a_row(clip):
    """Checklist 8: the encoding is repeated for each, and labels end in the end of text, then
    -100."""
    module, _, batch = batch_of(clip, "data.task=m_cap")
    assert batch["rows"].tolist() == [0, 0, 1, 1, 2, 2]
    assert len(batch["labels"]) == 6
    end = module.tokenizer.eos_token_id
    for row in batch["labels"].tolist():
        kept = [x for x in row if x != IGNORED]
        assert row == kept + [IGNORED] * (len(row) - len(kept))
        assert kept.count(end) == 1
        assert kept[-1] == end
    vectors = module.eval().vectors(batch)
    logits = module.language(vectors, batch["labels"], batch["rows"])
    alone = module.language(vectors[2:], batch["labels"][4:])
    torch.testing.assert_close(logits[4:], alone, atol=1e-5, rtol=1e-4)


def test_item_13_every_adapter_can_be_chosen(clip, tmp_path):
    """Checklist 13: noise, shift, random shift, linear map, covariance, each by its switch."""
    kinds = {}
    for kind in ("noise", "shift", "random_shift", "linear", "covariance"):
        own = ["method.statistics=pairs"] if kind in ("shift", "linear", "covariance") else []
        module, _, batch = batch_of(clip, f"method.adapter={kind}", "method.noise=0.1", *own)
        torch.testing.assert_close(module.vectors(batch).norm(dim=1), torch.ones(3))
        kinds[kind] = module.vectors(batch)
        assert batch["noise"].shape[1] == (2 if kind == "covariance" else 1)
    names = list(kinds)
    for i, a in enumerate(names):
        for b in names[i + 1 :]:
            assert not torch.allclose(kinds[a], kinds[b], atol=1e-3), (a, b)


def test_item_13_size_and_factor_of_an_adapter_are_those_of_the_config():
    """Checklist 13, pitfalls: the shift is scaled, the factor of the covariance is a setting."""
    offset, square = sines(6), sines(6, 6)
    pairs = GapStatistics(offset, square, square, offset)

    def adapter(*words: str) -> TextAdapter:
        return make_adapter(config("method.statistics=pairs", *words), 6, pairs)

    half = adapter("method.adapter=shift", "method.shift_scale=0.5")
    assert torch.equal(half.shift, 0.5 * offset)
    spread = adapter("method.adapter=covariance", "method.covariance_factor=2")
    assert spread.factor == 2
    assert torch.equal(spread.shift, offset)
    random = config("method.adapter=random_shift", "method.shift_scale=0.5")
    assert float(make_adapter(random, 6, None).shift.norm()) == pytest.approx(0.5)


def test_prefix_needs_no_encoder_decoder_of_a_kind():
    """The width is that of the model's embeddings."""
    from transformers import AutoConfig, AutoModelForCausalLM

    settings = AutoConfig.for_model(
        "gpt2", vocab_size=20, n_embd=8, n_layer=1, n_head=1, n_positions=16
    )
    language = VectorToText(freeze(AutoModelForCausalLM.from_config(settings)), 6)
    assert language.width == 8
    assert not language.is_encoder_decoder


# -- items 1, 11, 12, 14, 18 ---------------------------------------------------------------------


def test_item_12_training_on_images_is_one_switch_of_the_same_code(clip):
    """Checklist 12: the same rows, targets and module; only the vectors differ, and no noise."""
    actual = {}
    for kind in ("text", "image"):
        cfg = config(f"data.inputs={kind}", "method.noise=0.2")
        stage = next(stages(cfg))
        rows = stage.data.train_set
        assert isinstance(rows, CloseRows)
        assert isinstance(rows.inputs, ImageInputs) == (kind == "image")
        actual[kind] = rows[[(0, 0), (1, 0)]]
        assert torch.isfinite(stage.module.losses(actual[kind])["loss"])
    assert torch.equal(actual["text"]["labels"], actual["image"]["labels"])
    assert actual["text"]["noise"].shape[1] == 1
    assert actual["image"]["noise"].shape[1] == 0


def test_an_epoch_is_the_beginning_of_a_shuffled_list(clip):
    """At most `epoch_size` examples, others in the next epoch."""
    _, rows, _ = batch_of(clip, "data.epoch_size=10")
    assert len(rows) == 10
    first, second = ([rows.row(i, epoch) for i in range(10)] for epoch in (0, 1))
    assert len(set(first)) == 10
    assert first != second
    assert max(first + second) >= 10
    _, rows, _ = batch_of(clip, "data.epoch_share=0.5")
    assert len(rows) == 18


@pytest.mark.parametrize(
    ("name", "beams", "length", "noise", "batch"),
    [
        ("paper", 5, 32, 0.12, 128),
        ("paper_m_cap", 5, 32, 0.04, 32),
        ("paper_ve", 5, 8, 0.08, 128),
        ("paper_vqa", 5, 16, 0.04, 128),
        ("paper_evqa", 5, 16, 0.04, 128),
        ("paper_news", 2, 16, 0.08, 16),
    ],
)
def test_item_14_beams_and_lengths_are_those_of_the_task(name, beams, length, noise, batch):
    """Checklist 14, and item 11: restval is not trained on by default."""
    cfg = load(Config, "close", name)
    assert (cfg.eval.num_beams, cfg.eval.max_new_tokens) == (beams, length)
    assert (cfg.method.noise, cfg.data.batch_size) == (noise, batch)
    assert (cfg.optim.lr, cfg.trainer.max_epochs, cfg.data.splits) == (3e-4, 8, ["train"])


def test_words_end_in_the_end_of_text_even_if_cut(clip):
    """Targets of at most so many tokens, the end included."""
    module, _, _ = batch_of(clip)
    words = Words(module.tokenizer, 3)
    ids = words("a red ball and more")
    assert len(ids) == 3
    assert ids[-1] == module.tokenizer.eos_token_id
