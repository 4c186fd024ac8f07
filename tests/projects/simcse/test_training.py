"""Views, head, masked language modelling, truncation and selection."""

from pathlib import Path

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from common.config import UserError, load
from common.data.text.sets import StsSet
from common.engine.comparison.spec import default_arms, read_comparison
from common.engine.run import train
from common.engine.sweeps.schema import read_sweep
from common.engine.workspace import Workspace
from common.evaluation.text.sts_protocol import evaluate_sts
from common.export.transformers import save_transformers
from common.families.sentences import baselines as family
from common.families.sentences.data import sentence_data, text_rows
from common.losses.auxiliary.tokens import masked_lm_loss
from projects.simcse import baselines, build
from projects.simcse import data as data_module
from projects.simcse import module as method
from projects.simcse.config import Config
from projects.simcse.data import augmentation, crop, num_views, substitution, train_set
from projects.simcse.module import SimCSE
from tests.projects.simcse.conftest import TEXTS, config, encoder, module


def batch(cfg, model, rows=8):
    return train_set(cfg, model.encoder.tokenizer)[[(i, 0) for i in range(rows)]]


def test_two_views_of_a_sentence_have_other_dropout_masks():
    """Checklist 1: the views of one batch differ in training mode and are equal in eval mode."""
    model = module()
    data = batch(config(), model)
    half = len(data["ids"])
    assert torch.equal(data["input_ids"][:half], data["input_ids"][half:])
    z_1, z_2 = model.train().embed(data)
    assert not torch.allclose(z_1, z_2, atol=1e-3)
    z_1, z_2 = model.eval().embed(data)
    torch.testing.assert_close(z_1, z_2)


def test_without_dropout_the_views_are_equal_and_the_loss_runs():
    """Checklist 2: dropout 0."""
    model = module("model.dropout=0.0").train()
    data = batch(config(), model)
    z_1, z_2 = model.embed(data)
    torch.testing.assert_close(z_1, z_2, rtol=0, atol=1e-6)
    loss = model.losses(data)["loss"]
    loss.backward()
    assert torch.isfinite(loss)


@pytest.mark.slow
def test_dropout_acts_in_the_fit_of_a_pretrained_encoder(tmp_path):
    """Checklist 1, through the engine: transformers hands out models in evaluation mode, and the
    trainer keeps modes."""
    cfg = config()
    save_transformers(encoder(cfg), tmp_path / "encoder")
    overrides = [f"model.pretrained={tmp_path / 'encoder'}", "model.config=null"]
    losses = []
    for dropout in (0.0, 0.5):
        more = [f"model.dropout={dropout}", "method.mlm_weight=0.0", "run_id=r"]
        run = train("simcse", "smoke", [f"runs_dir={tmp_path}/{dropout}", *overrides, *more])
        rows = [row.split(",") for row in (run / "metrics.csv").read_text().splitlines()]
        losses.append([float(row[3]) for row in rows if row[2] == "train/positive_cosine"])
    assert losses[0][0] == pytest.approx(1.0, abs=1e-5)
    assert losses[1][0] < 0.99


def test_same_mask_gives_equal_views_with_dropout():
    model = module("method.same_dropout_mask=true").train()
    z_1, z_2 = model.embed(batch(config(), model))
    assert torch.equal(z_1, z_2)


@pytest.mark.parametrize("only_train", [True, False])
def test_which_state_is_evaluated(only_train):
    """Checklist 5: unsupervised models are evaluated without the head, supervised ones with it."""
    cfg = config(f"model.mlp_only_train={only_train}")
    model = SimCSE(cfg, encoder(cfg)).eval()
    inputs = model.encoder.tokenize(TEXTS)
    with torch.no_grad():
        first = model.encoder.tower.model(**inputs).last_hidden_state[:, 0]
        through_head = model.encoder.tower.cls_head(first)
    actual = model.encoder.encode(TEXTS)
    torch.testing.assert_close(actual, first if only_train else through_head, rtol=1e-4, atol=1e-5)
    assert not torch.allclose(first, through_head, atol=1e-2)
    model.train()
    z = model.encoder(**inputs)  # the head acts in training in both cases
    assert z.abs().max() <= 1
    unsup, sup = config(name="paper"), config(name="paper_sup")
    assert unsup.model.mlp_only_train
    assert not sup.model.mlp_only_train


def test_head_is_fresh_with_small_weights():
    """Checklist 12: N(0, 0.02) and no bias."""
    cfg = config("model.config={model_type: bert, hidden_size: 128, vocab_size: 400}")
    dense = encoder(cfg).tower.cls_head[0]
    assert float(dense.weight.std()) == pytest.approx(0.02, rel=0.05)
    assert not dense.bias.any()


def test_masked_lm_is_a_second_pass_scaled_by_lambda():
    """Checklist 7: own masked forward, special tokens never masked, absent when disabled."""
    model = module("method.mlm_weight=0.5", "model.dropout=0.0")
    cfg = config("method.mlm_weight=0.5")
    data = batch(cfg, model)
    special = torch.isin(data["input_ids"], torch.tensor(model.encoder.tokenizer.all_special_ids))
    chosen = data["mlm_labels"] != -100
    assert chosen.any()
    assert not (chosen & special).any()
    assert torch.equal(data["mlm_labels"][chosen], data["input_ids"][chosen])
    assert (data["mlm_input_ids"] != data["input_ids"])[chosen].any()
    terms = model.losses(data)
    plain = module("method.mlm_weight=0.0", "model.dropout=0.0")
    plain.encoder.load_state_dict(model.encoder.state_dict())
    alone = plain.losses({k: v for k, v in data.items() if not k.startswith("mlm")})
    assert "mlm_loss" not in alone
    torch.testing.assert_close(terms["loss"], alone["loss"] + 0.5 * terms["mlm_loss"])
    assert "mlm_input_ids" not in batch(config("method.mlm_weight=0.0"), plain)


def test_every_view_is_masked_at_the_rate():
    """Checklist 7: first and second views alike, each sentence with draws of its own."""
    cfg = config("method.mlm_weight=0.5", "method.mlm_probability=0.3")
    views, shares, alike = train_set(cfg, encoder(cfg).tokenizer), [], 0
    for epoch in range(40):
        data = views[[(i, epoch) for i in range(16)]]
        chosen = (data["mlm_labels"] != -100).view(2, 16, -1)
        special = torch.isin(data["input_ids"], torch.tensor(views.tokenizer.all_special_ids))
        words = (~special & data["attention_mask"].bool()).view(2, 16, -1)
        shares.append(chosen.sum((1, 2)) / words.sum((1, 2)))
        alike += int(torch.equal(chosen[0], chosen[1]))
    torch.testing.assert_close(
        torch.stack(shares).mean(0), torch.tensor([0.3, 0.3]), rtol=0, atol=0.03
    )
    assert not alike


def test_head_and_loss_are_those_of_the_config(monkeypatch):
    """Pretrained weights of the masked language model, and the kernel of the loss."""
    asked = []
    monkeypatch.setattr(
        method, "masked_lm_head", lambda *words, **options: asked.append((words[0], options))
    )
    cfg = config("method.mlm_weight=0.1", "method.loss_backend=blocked")
    made = encoder(cfg)
    cfg.model.pretrained = "folder"
    model = SimCSE(cfg, made)
    assert asked == [("folder", {"config": cfg.model.config})]
    assert model.objective.loss.backend == "blocked"


def test_masked_places_may_get_any_token(tmp_path):
    """A tenth of them: ids of the whole vocabulary."""
    lines = ["one two three four five six seven eight nine ten"] * 64
    views = views_of(tmp_path / "a.txt", lines, "method.mlm_probability=0.9")
    batch = views[[(i, 0) for i in range(64)]]
    replaced = (batch["mlm_input_ids"] != batch["input_ids"]) & (
        batch["mlm_input_ids"] != views.tokenizer.mask_token_id
    )
    drawn = batch["mlm_input_ids"][replaced]
    assert int(drawn.max()) > 0.8 * len(views.tokenizer)


def test_prediction_head_is_tied_to_the_word_embeddings():
    model = module("method.mlm_weight=0.1")
    words = model.encoder.tower.model.get_input_embeddings().weight
    assert any(p is words for p in model.mlm_head.parameters())


def test_masks_do_not_depend_on_the_batch():
    cfg = config()
    views = train_set(cfg, encoder(cfg).tokenizer)
    whole, alone = views[[(3, 1), (5, 1)]], views[[(5, 1)]]
    width = alone["mlm_labels"].shape[1]
    for name in ("mlm_labels", "mlm_input_ids"):
        assert torch.equal(whole[name][1, :width], alone[name][0])
    assert (whole["mlm_labels"][1, width:] == -100).all()


def views_of(path, lines, *words):
    """The training set of a file of sentences."""
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    cfg = config("data.source=file", f"data.file={path}", "data.limit=null", *words)
    return train_set(cfg, encoder(cfg).tokenizer)


def test_masks_are_drawn_by_seed_epoch_and_sentence(tmp_path):
    """One text many times: no two draws are equal, and places in the batch do not matter."""
    lines = ["one two three four five six seven eight nine ten"] * 4
    first, other = (
        views_of(tmp_path / "a.txt", lines, "method.mlm_probability=0.5", f"seed={seed}")
        for seed in (0, 1)
    )
    keys = [(0, 0), (1, 0), (2, 0)]
    whole = first[keys]
    batches = (whole, first[[(0, 1)]], other[[(0, 0)]])
    draws = {tuple((row != -100).tolist()) for batch in batches for row in batch["mlm_labels"]}
    assert len(draws) == 6 + 2 + 2
    for name in ("mlm_labels", "mlm_input_ids"):
        turned = first[keys[::-1]][name].view(2, 3, -1).flip(1)
        assert torch.equal(whole[name].view(2, 3, -1), turned)


def test_truncation_is_for_training_only():
    """Checklist 8: 32 tokens in training; evaluation reads the whole text."""
    cfg = config("data.max_length=8")
    model = SimCSE(cfg, encoder(cfg)).eval()
    long = "one two three four five six seven eight nine ten"
    assert train_set(cfg, model.encoder.tokenizer)[[(0, 0)]]["input_ids"].shape[1] <= 8
    changed = long.replace("ten", "zzz")
    assert not torch.allclose(model.encoder.encode([long]), model.encoder.encode([changed]))
    assert config(name="paper").data.max_length == 32


@pytest.mark.slow
def test_selection_by_sts_dev_spearman(tmp_path):
    """Checklist 10: STS-B dev Spearman selects; scores are the concatenated "all" correlation."""
    cfg = config()
    stage = next(build(cfg).stages())
    assert stage.monitor == "val/sts_spearman"
    assert cfg.eval.dev == "stsb-dev"
    assert config(name="paper").eval.dev == "senteval:STSBenchmark-dev"
    overrides = [f"runs_dir={tmp_path}", "run_id=r", "method.mlm_weight=0.0"]
    run = train("simcse", "smoke", overrides)
    assert (run / "checkpoints/train/best.ckpt").exists()
    rows = (run / "metrics.csv").read_text().splitlines()
    assert any("val/sts_spearman" in row for row in rows)


def test_sts_scores_concatenate_the_subsets():
    """Checklist 10: one correlation over all pairs; the mean over subsets has another name."""
    lengths = {"a": 0.9, "bb": 0.8, "ccc": 0.7, "d": 0.3, "ee": 0.2, "fff": 0.1}

    def encode(texts):
        cosine = torch.tensor([lengths.get(text, 1.0) for text in texts])
        return torch.stack([cosine, (1 - cosine**2).sqrt()], 1)

    gold = [2.0, 1.0, 0.0, 5.0, 4.0, 3.0]  # each subset in order, the second at lower cosines
    sts = StsSet("sts12", ["x"] * 6, list(lengths), gold, ["one"] * 3 + ["two"] * 3)
    metrics, _ = evaluate_sts(encode, {"sts12": sts})
    assert metrics["sts12_spearman_mean"] == pytest.approx(1.0)
    assert metrics["sts12_spearman"] == metrics["sts_average_spearman"] < 0


def test_missing_cells_do_not_stop_the_collator(tmp_path):
    """Checklist 13: an empty cell is read as one space."""
    path = tmp_path / "train.csv"
    path.write_text("sent0,sent1,hard_neg\na cat,,a dog\ntwo men,people,\n", encoding="utf-8")
    cfg = config("data.source=file", f"data.file={path}", "data.limit=null", "data.batch_size=2")
    assert text_rows(cfg.data, 0)[0] == ("a cat", " ", "a dog")
    model = SimCSE(cfg, encoder(cfg))
    data = batch(cfg, model, rows=2)
    assert len(data["input_ids"]) == 6
    assert torch.isfinite(model.losses(data)["loss"])


def test_a_hard_negative_is_the_third_view_of_its_row(tmp_path):
    """The loss is that of anchors, positives and hard negatives, each encoded in its own row."""
    rows = [("a cat", "a small cat", "a dog"), ("two men", "people", "rain")]
    path = tmp_path / "train.csv"
    lines = ["sent0,sent1,hard_neg", *map(",".join, rows)]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    words = ["data.source=file", f"data.file={path}", "data.limit=null", "method.mlm_weight=0.0"]
    cfg = config(*words, "model.mlp_only_train=false")
    model = SimCSE(cfg, encoder(cfg)).eval()
    with torch.no_grad():
        data = batch(cfg, model, rows=2)
        actual, loss = model.embed(data), model.losses(data)["loss"]
        expected = [model.encoder.encode(list(column)) for column in zip(*rows, strict=True)]
        torch.testing.assert_close(actual, tuple(expected), rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(loss, model.objective(*actual).loss)
        assert not torch.isclose(loss, model.objective(*actual[:2]).loss, rtol=1e-2)


def test_same_mask_and_own_hard_negative_need_the_rows_that_they_are_about(tmp_path):
    """An option that could have no effect, or another one than it says, is refused."""
    for words in (["data.source=nli"], ["data.augment=delete"]):
        with pytest.raises(UserError, match="two views of one sentence"):
            config("method.same_dropout_mask=true", "data.limit=8", *words)
    path = tmp_path / "pairs.tsv"
    path.write_text("a\tb\na cat\ta dog\ntwo men\tpeople\n", encoding="utf-8")
    words = ["data.source=file", f"data.file={path}", "data.limit=null"]
    for option, message in (
        ("method.same_dropout_mask=true", "not for pairs"),
        ("method.hard_negative_logit=0.5", "rows with a hard negative"),
    ):
        cfg = config(option, *words)
        with pytest.raises(UserError, match=message):
            train_set(cfg, encoder(cfg).tokenizer)
    with pytest.raises(UserError, match=r"data\.limit must be >= 1"):
        config("data.limit=-3")
    with pytest.raises(UserError, match="mlm_probability"):
        config("method.mlm_probability=1.5")


@pytest.mark.parametrize(
    ("name", "text", "views"),
    [
        ("a.txt", "a\nb\n", 2),
        ("a.csv", "x,y\na,b\n", 2),
        ("a.csv", "x,y,z\na,b,c\n", 3),
        ("a.tsv", "x\ty\tz\na\tb\tc\n", 3),
        ("a.txt", None, 2),
        ("a.csv", None, 3),
    ],
)
def test_views_and_negatives_of_a_file_are_counted_from_its_columns(tmp_path, name, text, views):
    """Also before it is there, for `make check`: a table then counts as triplets."""
    if text is not None:
        (tmp_path / name).write_text(text, encoding="utf-8")
    words = ["data.source=file", f"data.file={name}", f"data.root={tmp_path}", "data.limit=null"]
    cfg = config(*words)
    assert num_views(cfg.data) == views
    model = SimCSE(cfg, encoder(cfg))
    assert model.negatives_per_query(8) == (7 if views == 2 else 15)
    assert num_views(config(*words, "data.hard_negatives=false").data) == 2


def test_rows_by_source(tmp_path):
    assert num_views(config(name="mini").data) == 3
    mini = config("data.hard_negatives=false", "data.limit=50", name="mini")
    assert num_views(mini.data) == 2
    assert {len(row) for row in text_rows(mini.data, 0)} == {3}
    cfg = config("data.hard_negatives=false", "data.source=nli", "data.limit=20")
    assert train_set(cfg, encoder(cfg).tokenizer).views == 2
    with pytest.raises(UserError, match="limit"):
        text_rows(config("data.limit=1000000", name="mini").data, 0)


@pytest.mark.parametrize("kind", ["crop", "delete", "synonym", "mlm"])
def test_discrete_augmentation_changes_the_second_view_only(kind):
    cfg = config(
        f"data.augment={kind}",
        "data.augment_rate=0.3",
        "method.mlm_weight=0.0",
        "data.source=nli",
        "data.hard_negatives=false",
        "data.limit=30",
    )
    plain = config("data.source=nli", "data.hard_negatives=false", "data.limit=30")
    tokenizer = encoder(cfg).tokenizer
    keys = [(i, 0) for i in range(30)]
    changed, whole = train_set(cfg, tokenizer)[keys], train_set(plain, tokenizer)[keys]
    width = min(changed["input_ids"].shape[1], whole["input_ids"].shape[1])
    ids = [x["input_ids"][:, :width] for x in (changed, whole)]
    assert torch.equal(ids[0][:30], ids[1][:30])
    assert not torch.equal(ids[0][30:], ids[1][30:])


def test_masked_lm_augmentation_is_a_frozen_copy_beside_the_encoder():
    """It replaces tokens one for one, trains no weight and is not part of the module."""
    cfg = config("data.augment=mlm", "data.augment_rate=0.15", "method.mlm_weight=0.0")
    model = SimCSE(cfg, encoder(cfg))
    data = batch(cfg, model)
    first, second = data["input_ids"].chunk(2)
    assert torch.equal(*data["attention_mask"].chunk(2))
    share = (first != second).sum(1) / data["attention_mask"][:8].sum(1)
    assert ((share > 0) & (share < 0.4)).all()
    plain = config("method.mlm_weight=0.0")
    assert model.state_dict().keys() == SimCSE(plain, encoder(plain)).state_dict().keys()
    model.losses(data)["loss"].backward()


def test_arms_cover_the_paper_s_ablations():
    """Sheet, evaluation: dropout rates, discrete augmentations, heads, masked-LM term, pooling."""
    arms = {
        name: config(*[f"{k}={'null' if v is None else v}" for k, v in words.items()], name="mini")
        for name, words in read_comparison("simcse").arms.items()
    }
    assert {arm.data.augment for arm in arms.values()} == {
        "none",
        "crop",
        "delete",
        "synonym",
        "mlm",
    }
    assert {0.0, 0.1, 0.2} <= {arm.model.dropout for arm in arms.values()}
    heads = {(arm.model.pooling, arm.model.mlp_only_train) for arm in arms.values()}
    assert heads >= {("cls", True), ("cls", False), ("cls_before_pooler", False), ("avg", False)}
    assert any(arm.method.mlm_weight for arm in arms.values())
    assert len({(a.trainer.max_steps, a.data.batch_size) for a in arms.values()}) == 1
    # one search for every claimed arm
    assert list(read_sweep("simcse").arms) == list(default_arms(read_comparison("simcse")))


STS = ("SICKRelatedness", "STS12", "STS13", "STS14", "STS15", "STS16", "STSBenchmark")
PAPER = {  # batch on a GPU, learning rate, epochs, GPUs, negatives of a query
    "paper": ("bert-base-uncased", 64, 3e-5, 1, 1, "63"),
    "paper_unsup_bert_large": ("bert-large-uncased", 64, 1e-5, 1, 1, "63"),
    "paper_unsup_roberta_base": ("roberta-base", 512, 1e-5, 1, 1, "511"),
    "paper_unsup_roberta_large": ("roberta-large", 512, 3e-5, 1, 1, "511"),
    "paper_sup": ("bert-base-uncased", 128, 5e-5, 3, 4, "1,023"),
    "paper_sup_bert_large": ("bert-large-uncased", 128, 1e-5, 3, 4, "1,023"),
    "paper_sup_roberta_base": ("roberta-base", 128, 5e-5, 3, 4, "1,023"),
    "paper_sup_roberta_large": ("roberta-large", 128, 1e-5, 3, 4, "1,023"),
}


@pytest.mark.parametrize("name", PAPER)
def test_paper_configs_hold_the_published_recipe(name):
    """Sheet, training recipe, all eight columns."""
    cfg = config(name=name)
    backbone, batch_size, lr, epochs, devices, _ = PAPER[name]
    assert (cfg.model.pretrained, cfg.model.pooling) == (backbone, "cls")
    assert (cfg.data.batch_size, cfg.optim.lr) == (batch_size, lr)
    assert (cfg.trainer.max_epochs, cfg.trainer.devices) == (epochs, devices)
    assert (cfg.method.temperature, cfg.data.max_length) == (0.05, 32)
    assert cfg.model.mlp_only_train == ("_sup" not in name)
    assert (cfg.optim.weight_decay, cfg.optim.schedule, cfg.optim.warmup_steps) == (0, "linear", 0)
    assert (cfg.optim.name, cfg.optim.betas, cfg.optim.eps) == ("adamw", (0.9, 0.999), 1e-8)
    assert cfg.trainer.precision == "16-mixed"
    assert (cfg.trainer.gradient_clip_val, cfg.trainer.val_every_n_steps, cfg.seed) == (1, 125, 42)
    assert sorted(cfg.eval.sets) == [f"senteval:{name}" for name in STS]
    assert len(cfg.eval.transfer) == 7
    assert cfg.method.gather_grad == "local"


def test_crop_keeps_a_run_of_words():
    import numpy as np

    words = ["a", "b", "c", "d", "e", "f", "g", "h", "i", "j"]
    kept = crop(" ".join(words), np.random.default_rng(0), 0.3).split()
    assert len(kept) == 7
    assert "".join(kept) in "".join(words)


def test_crop_has_the_rate_of_the_config_and_any_place():
    change = augmentation(config("data.augment=crop", "data.augment_rate=0.7").data)
    texts = {change("a b c d e f g h i j", np.random.default_rng(i), 1) for i in range(99)}
    words = "abcdefghij"
    assert texts == {" ".join(words[i : i + 3]) for i in range(8)}
    assert change("a b", np.random.default_rng(0), 0) == "a b"
    assert change("a", np.random.default_rng(0), 1) == "a"  # not nothing


def test_synonyms_and_masked_model_are_those_of_the_config(monkeypatch):
    asked = []
    monkeypatch.setattr(data_module, "bundled", lambda *words: asked.append(words) or Path())
    monkeypatch.setattr(data_module, "read_jsonl", lambda *_: [])
    augmentation(config("data.augment=synonym", "data.root=here").data)
    assert asked == [("wordnet", "here")]
    weights = []
    monkeypatch.setattr(
        "common.encoders.text.tower.load_transformer",
        lambda pretrained, **options: weights.append((pretrained, options["config"])),
    )
    monkeypatch.setattr(data_module, "MlmSubstitution", lambda model, tokenizer, *options: options)
    words = ["data.augment=mlm", "data.augment_rate=0.4", "data.max_length=9"]
    cfg = config(*words, "method.mlm_weight=0.0")
    cfg.model.pretrained = "folder"
    change = substitution(cfg, "tokenizer")
    assert weights == [("folder", cfg.model.config)]
    assert change(["rows"], None, 0) == ["rows"]
    assert change.__closure__[0].cell_contents == (0.4, 9)


def test_the_seed_draws_rows_and_views(tmp_path):
    """Which rows a limit takes, and the noise of the second view."""
    words = ["data.augment=crop", "data.augment_rate=0.5", "method.mlm_weight=0"]
    rows = [f"w{i} x y z a b c d" for i in range(30)]
    for lines, limit, view in ((rows, "data.limit=8", 0), (rows[:1] * 8, "data.limit=null", 1)):
        drawn = []
        for seed in (0, 1):
            views = views_of(tmp_path / "a.txt", lines, *words, limit, f"seed={seed}")
            drawn.append(views[[(i, 0) for i in range(8)]]["input_ids"].chunk(2)[view].tolist())
        assert drawn[0] != drawn[1]


def test_bucketed_batches_are_those_of_the_sampler():
    cfg = config("data.bucket_batches=4")
    data = sentence_data(cfg, train_set(cfg, encoder(cfg).tokenizer))
    assert data.batches_per_epoch() == 4


def test_rows_without_training_pool_as_the_paper_s(monkeypatch, tmp_path):
    """Evaluation: the paper's BERT row averages first and last layer; the head, random before
    training, is in no row.
    """
    seen, post = [], []
    rows = torch.randn(9, 2, generator=torch.Generator().manual_seed(0)) * torch.tensor([9.0, 1])

    def score(cfg, workspace, model, fit=None, *_):
        seen.append((model.tower.pooling, model.tower.cls_head))
        made = rows if fit is None else fit(rows)(rows)
        scales = made.std(0)
        post.append((bool(made.mean(0).abs().max() < 1e-3), bool(scales.max() < 2 * scales.min())))
        return {}

    monkeypatch.setattr(family, "_encoder", score)
    cfg = config("model.pooling=cls")
    arms = (
        baselines.raw,
        baselines.raw_cls,
        baselines.centred,
        baselines.whitened,
        baselines.raw_mean,
        baselines.whitened_mean,
    )
    for arm in arms:
        arm(cfg, Workspace(tmp_path))
    first_last = ("avg_first_last", None)
    assert seen == [
        first_last,
        ("cls_before_pooler", None),
        first_last,
        first_last,
        ("avg", None),
        ("avg", None),
    ]
    # whether the mean is 0, and whether all dimensions have one scale
    plain, centred, whitened = (False, False), (True, False), (True, True)
    assert post == [plain, plain, centred, whitened, plain, whitened]


def test_the_quick_start_trains_at_the_best_rate_of_its_arm():
    """It trained with labels at the rate that is best without: 0.577 for 0.641 on STS-B dev."""
    arms = read_comparison("simcse").arms
    rates = {
        name: load(Config, "simcse", "mini", [f"{k}={v}" for k, v in words.items()]).optim.lr
        for name, words in arms.items()
    }
    searched = {"same_mask": 1e-3, "unsup": 1e-4, "sup_pairs": 1e-3, "sup": 1e-3}
    assert rates == dict.fromkeys(arms, 1e-4) | searched  # each at the best of the same search
    assert load(Config, "simcse", "mini").optim.lr == rates["sup"]  # the quick start has labels


def test_without_hard_negatives_the_positive_of_a_row_stays(tmp_path):
    """Of sentence, entailment and contradiction the first two are the views."""
    path = tmp_path / "rows.tsv"
    path.write_text("a\tb\tc\na cat\ta pet\tno animal\ntwo men\tpeople\tnobody\n", encoding="utf-8")
    words = ["data.source=file", f"data.file={path}", "data.limit=null"]
    cfg = config(*words, "data.hard_negatives=false")
    tokenizer = encoder(cfg).tokenizer
    batch = train_set(cfg, tokenizer)[[(0, 0), (1, 0)]]
    texts = [tokenizer.decode(ids, skip_special_tokens=True) for ids in batch["input_ids"]]
    assert texts == ["a cat", "two men", "a pet", "people"]


def test_reported_terms_are_of_the_masked_copies_and_of_other_rows():
    """The language model reads masked ids; the negative cosine is with another row's second view."""
    model = module("method.mlm_weight=0.5", "model.dropout=0.0").eval()
    data = batch(config("method.mlm_weight=0.5"), model, rows=3)
    z = torch.randn(2, 3, 8, generator=torch.Generator().manual_seed(0))  # new encoders tie
    model.embed = lambda _: tuple(z)
    with torch.no_grad():
        terms = model.losses(data)
        states = model.encoder.tower.model(
            input_ids=data["mlm_input_ids"], attention_mask=data["attention_mask"]
        ).last_hidden_state
        expected = masked_lm_loss(model.mlm_head, states, data["mlm_labels"])
        first, second = (F.normalize(z, dim=1) for z in model.embed(data))
        others = [float(first[i] @ second[(i - 1) % 3]) for i in range(3)]
    assert not torch.equal(data["mlm_input_ids"], data["input_ids"])
    torch.testing.assert_close(terms["mlm_loss"], expected)
    assert float(terms["negative_cosine"]) == pytest.approx(sum(others) / 3, abs=1e-5)
    torch.testing.assert_close(
        terms["loss"] - 0.5 * expected, model.objective(*model.embed(data)).loss.detach()
    )
    own = [float(first[i] @ second[i]) for i in range(3)]
    assert float(terms["positive_cosine"]) == pytest.approx(sum(own) / 3, abs=1e-5)
    hits = (first @ second.T).argmax(1) == torch.arange(3)
    assert float(terms["top1"]) == pytest.approx(float(hits.float().mean()))
    assert 0 <= float(terms["top1"]) != 0.5


@pytest.mark.parametrize("kind", ["delete", "synonym"])
def test_the_rate_is_the_share_of_words_that_go_or_change(kind):
    """A deletion leaves words of the text in their order; a replacement brings new ones."""
    text = "the quick car stops and the big dog runs home to its old house"
    words, shares = text.split(), {}
    for rate in (0.1, 0.6):
        change = augmentation(config(f"data.augment={kind}", f"data.augment_rate={rate}").data)
        made = [change(text, np.random.default_rng(i), 1).split() for i in range(40)]
        if kind == "delete":
            left = [iter(words) for _ in made]
            assert all(all(w in rest for w in row) for row, rest in zip(made, left, strict=True))
            shares[rate] = 1 - sum(map(len, made)) / (40 * len(words))
        else:
            changed = [sum(word not in words for word in row) for row in made]
            shares[rate] = sum(changed) / (40 * len(words))
    assert shares[0.6] > 2 * shares[0.1] > 0
