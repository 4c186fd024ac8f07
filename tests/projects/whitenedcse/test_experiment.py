"""The experiment as the commands drive it: data, evaluation, export, resume, arms, refusals."""

import json

import pytest
import torch

from common.config import UserError
from common.data.text.sets import StsSet
from common.engine.comparison.spec import default_arms, read_comparisons
from common.engine.run import train
from common.evaluation.features.geometry import uniformity
from common.families.sentences.data import text_rows
from common.families.sentences.evaluation import encoding
from common.families.sentences.module import build_encoder
from projects.whitenedcse import build
from projects.whitenedcse.data import train_set
from projects.whitenedcse.evaluate import _Embedded, batch_whitening, mechanism
from projects.whitenedcse.whitening import Whitening
from tests.projects.whitenedcse.conftest import batch, config, module_of
from tests.projects.whitenedcse.workers import features

MECHANISM = {
    "effective_rank",
    "participation_ratio",
    "whitened_stsb_test_spearman",
    "whitened_uniformity",
    "whitened_alignment",
    "head_stsb_test_spearman",
    "sgw_uniformity",
    "sgw_view_cosine",
    "untrained_effective_rank",
    "untrained_whitened_stsb_test_spearman",
}


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A smoke run whose checkpoints are all kept."""
    words = [
        f"runs_dir={tmp_path_factory.mktemp('runs')}",
        "run_id=r",
        "trainer.keep_checkpoints=5",
    ]
    return train("whitenedcse", "smoke", words), words


def test_item_14_a_run_reports_geometry_and_whitening_as_post_processing(finished):
    """Checklist 14: uniformity and alignment, raw and whitened afterwards, trained and
    untrained."""
    run, _ = finished
    metrics = json.loads((run / "metrics.json").read_text(encoding="utf-8"))
    assert metrics.keys() >= MECHANISM | {"stsb_test_spearman", "uniformity", "alignment"}
    assert 1 <= metrics["participation_ratio"] <= metrics["effective_rank"] <= 32
    assert metrics["whitened_uniformity"] < metrics["uniformity"]
    assert 0 < metrics["sgw_view_cosine"] < 1
    logged = (run / "metrics.csv").read_text(encoding="utf-8")
    assert "train/loss_per_positive" in logged
    assert (run / "items/stsb_test_spearman.json").exists()


def test_item_11_evaluation_has_neither_whitening_nor_mlp(tmp_path):
    """Checklist 11: raw [CLS] whatever the head holds; the batch size has no influence."""
    cfg, module = config(), module_of()
    texts = [row[0] for row in text_rows(cfg.data, 0)[:20]]
    expected = module.encoder.encode(texts, batch_size=20)
    ids = module.encoder.tokenize(texts[:1])
    with torch.no_grad():
        module.head.dense.weight.fill_(9.0)
        raw = module.encoder.eval().tower.model(**ids).last_hidden_state[:, 0]
    torch.testing.assert_close(expected[:1], raw, rtol=1e-4, atol=1e-5)
    for size in (1, 7):
        actual = module.encoder.encode(texts, batch_size=size)
        torch.testing.assert_close(actual, expected, rtol=1e-4, atol=1e-5)
    experiment = build(cfg)
    experiment.export(module, tmp_path)
    assert not any("dense" in p.name.lower() for p in tmp_path.iterdir())
    again = experiment.load_export(tmp_path)
    before, after = experiment.embed(module), experiment.embed(again)
    torch.testing.assert_close(after["embeddings"], before["embeddings"], rtol=0, atol=1e-6)


def test_item_11_head_in_evaluation_mode_does_not_whiten():
    """Checklist 11: what head_* reports is the dense layer alone, row by row."""
    head, x = module_of().head.eval(), torch.randn(1, 5, 32)
    torch.testing.assert_close(head(x), torch.tanh(head.dense(x)))
    torch.testing.assert_close(head(x[:, :1]), head(x)[:, :1])
    head.train()
    rows = torch.randn(1, 9, 32)
    assert not torch.allclose(head(rows), torch.tanh(head.dense(rows)))


# -- measures ------------------------------------------------------------------------------------


def test_whitening_afterwards_undoes_a_linear_distortion():
    """Gold: cosines of isotropic vectors. Stretched and shifted they rank pairs otherwise."""
    generator = torch.Generator().manual_seed(0)
    hidden = torch.randn(500, 8, generator=generator)
    stretch = torch.diag(torch.tensor([20.0, 10, 5, 1, 1, 1, 1, 1]))
    x = hidden @ stretch + 10
    gold = torch.cosine_similarity(hidden[:100], hidden[100:200])
    names = [str(i) for i in range(200)]
    sts = StsSet("toy", names[:100], names[100:], (gold + 1).tolist())
    embedded = _Embedded(lambda texts: x[[int(t) for t in texts]], sts)
    actual = embedded.whitened(x[200:], "score")
    assert embedded.spearman() < 0.8
    assert actual["whitened_score"] > 0.95
    assert actual["whitened_uniformity"] < uniformity(embedded.everything)
    assert embedded.rank()["participation_ratio"] < 3
    assert embedded.look_up(["7"]).tolist() == x[7:8].tolist()


def test_batch_whitening_measures_the_diversity_of_shuffled_views():
    x = features(rows=70, dim=32, views=1)[0]
    shuffled = batch_whitening(config(), x)
    assert shuffled["sgw_view_cosine"] < 0.999
    fixed = batch_whitening(config("sgw.shuffle=false"), x)
    assert fixed["sgw_view_cosine"] == pytest.approx(1)
    assert shuffled == batch_whitening(config(), x)  # deterministic
    assert batch_whitening(config("data.batch_size=71"), x) == {}
    assert batch_whitening(config("sgw.groups=1"), x) == {}
    full = batch_whitening(config("sgw.groups=2", "data.batch_size=64"), x)
    assert full["sgw_uniformity"] < uniformity(x)


def test_mechanism_leaves_the_module_as_it_was():
    cfg, module = config("eval.untrained=false"), module_of()
    state = torch.get_rng_state()
    actual = mechanism(cfg, module)
    assert module.training
    assert module.head.training
    assert torch.equal(torch.get_rng_state(), state)
    assert not any(name.startswith("untrained") for name in actual)
    with encoding(cfg, module.encoder) as encode:
        assert encode(["a b"]).shape == (1, 32)


# -- data ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("num_pos", [2, 3, 4])
def test_every_sentence_comes_m_times_view_major(num_pos):
    rows = batch(f"num_pos={num_pos}", rows=5)
    ids = rows["input_ids"].view(num_pos, 5, -1)
    assert all(torch.equal(ids[0], view) for view in ids)
    assert not torch.equal(ids[0, 0], ids[0, 1])
    assert rows["ids"].tolist() == list(range(5))


@pytest.mark.parametrize("level", ["subword", "word"])
def test_repetition_lengthens_the_positives_and_spares_the_anchor(level):
    plain, rows = batch(), batch(f"repetition.level={level}", "repetition.rate=1.0")
    length, before = (b["attention_mask"].view(3, 8, -1).sum(-1) for b in (rows, plain))
    assert torch.equal(length[0], before[0])
    assert (length[1:] >= length[0]).all()
    assert (length[1] > length[0]).any()
    assert not torch.equal(length[1], length[2])  # drawn for each view
    anchors = rows["input_ids"].view(3, 8, -1)[0, :, : plain["input_ids"].shape[1]]
    assert torch.equal(anchors[:, : plain["input_ids"].shape[1]], plain["input_ids"][:8])


def test_repeated_subwords_come_on_top_of_the_maximum_length():
    """No token of a cut sentence is lost; words are repeated before the cut."""
    short = ("data.max_length=8", "repetition.rate=1.0")
    length = {
        level: batch(f"repetition.level={level}", *short, rows=32)["attention_mask"].sum(1)
        for level in ("subword", "word")
    }
    assert int(length["subword"][:32].max()) == 8
    assert int(length["subword"].max()) > 8
    assert int(length["word"].max()) == 8


def test_repetition_that_the_encoder_cannot_read_is_refused():
    """Not an index error in the middle of training."""
    cfg = config("repetition.level=subword", "data.max_length=64")
    with pytest.raises(UserError, match="to 73 tokens, the encoder reads 64"):
        train_set(cfg, build_encoder(cfg.model))


def test_files_of_pairs_are_refused(tmp_path):
    (tmp_path / "pairs.csv").write_text("a,b\nx y,z\n", encoding="utf-8")
    cfg = config("data.source=file", "data.file=pairs.csv", f"data.root={tmp_path}", "data.limit=1")
    with pytest.raises(UserError, match="2 columns; give one sentence per line"):
        train_set(cfg, build_encoder(cfg.model))


def test_one_column_files_give_as_many_copies_as_asked(tmp_path):
    """The released script makes two of them, whatever the number of positives."""
    (tmp_path / "a.txt").write_text("one two\nthree\n", encoding="utf-8")
    cfg = config("data.source=file", "data.file=a.txt", f"data.root={tmp_path}", "data.limit=2")
    views = train_set(cfg, build_encoder(cfg.model))
    assert views[[(0, 0), (1, 0)]]["input_ids"].shape[0] == 6


# -- configs -------------------------------------------------------------------------------------


def test_items_14_and_15_arms_cover_the_table_and_the_sweeps():
    """Checklist 14, 15: SimCSE, m views, SGW with m=2, full; G, m and shuffling in one group."""
    main, parts = read_comparisons("whitenedcse")
    arms = main.arms
    shown = {"uniformity", "alignment", "whitened_uniformity", "whitened_alignment"}
    assert shown <= set(main.also) & set(parts.also)
    published = {"m2", "m3", "sgw_m2", "sgw_m3", "m2_long"}  # without ARMS=full
    assert published == {*default_arms(main), *default_arms(parts)}
    assert parts.arms.items() <= arms.items()
    assert set(parts.seeds) < set(main.seeds)  # the full method's runs serve both
    loaded = {
        arm: config(*[f"{k}={v}" for k, v in words.items()], name="mini")
        for arm, words in arms.items()
    }
    table = {(c.num_pos, c.sgw.position) for c in map(loaded.get, ("m2", "m3", "sgw_m2", "sgw_m3"))}
    assert table == {(2, "none"), (3, "none"), (2, "before_mlp"), (3, "before_mlp")}
    assert {cfg.sgw.groups for cfg in loaded.values()} >= {8, 16, 32, 64, 128}
    assert {cfg.num_pos for cfg in loaded.values()} == {2, 3, 4}
    assert not loaded["no_shuffle"].sgw.shuffle
    steps = {arm: cfg.trainer.max_steps for arm, cfg in loaded.items() if arm != "m2_long"}
    assert len(set(steps.values())) == 1
    encoded = {
        arm: loaded[arm].num_pos * loaded[arm].trainer.max_steps for arm in ("m2_long", "m3")
    }
    assert encoded["m2_long"] == encoded["m3"]
    for cfg in loaded.values():  # enough rows for every group size of the bundled encoder
        assert cfg.data.batch_size > 256 // cfg.sgw.groups


def test_paper_s_model_has_128_groups_of_six():
    cfg = config(name="paper")
    layer = Whitening(768, cfg.sgw.groups, shuffle=cfg.sgw.shuffle)
    assert 768 // layer.groups == 6
    assert (cfg.num_pos, cfg.method.temperature, cfg.data.max_length) == (3, 0.05, 32)
    assert config(name="paper_simcse").sgw.position == "none"


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("num_pos=1", "num_pos must be >= 2"),
        ("model.pooling=cls", "set model.pooling=cls_before_pooler"),
        ("data.source=nli", "holds triplets"),
        ("sgw.groups=0", "sgw.groups must be >= 1"),
        ("sgw.ridge=-1", "sgw.ridge must be >= 0"),
        ("method.temperature=0", "must be > 0"),
        ("repetition.rate=0", r"must be in \(0, 1\]"),
        ("eval.whitening_sentences=1", "must be >= 2"),
        ("sgw.block_layout=rows", "sgw.block_layout"),
    ],
)
def test_settings_that_do_not_fit_are_refused(override, message):
    with pytest.raises(UserError, match=message):
        config(override)
