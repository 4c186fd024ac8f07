"""The experiment as the commands drive it: steps, evaluation, export, resume, configs, arms."""

import json
import re

import pytest
import torch

from common.config import ROOT, UserError, load
from common.data.tables import read_jsonl, write_jsonl
from common.engine.check import count_steps
from common.engine.comparison.spec import default_arms, read_comparison
from common.engine.run import train
from common.engine.sweeps.schema import read_sweep
from common.engine.tracking import read_metrics
from common.engine.trained import export, run_task
from common.export.sentence_encoders import load_sentence_encoder
from common.export.transformers import load_transformers
from common.families.sentences.module import build_encoder
from projects.mirror_bert import build
from projects.mirror_bert.config import Config
from projects.mirror_bert.module import MirrorBERT
from tests.projects.mirror_bert.conftest import PADDED, config, module_of
from tests.smoke import metrics_of

ENCODER = ROOT / "data/models/text-encoder"
PAPER = ("paper", "paper_drophead", "paper_roberta", "paper_roberta_drophead", "paper_word")


def few_pairs(folder):
    """One of twelve pairs of STS-B dev below a data root: encoding them all takes most of a run."""
    (folder / "stsb").mkdir()
    rows = read_jsonl(ROOT / "data/stsb/en-dev.jsonl.gz")[::12]
    write_jsonl(folder / "stsb/en-dev.jsonl.gz", rows)


@pytest.fixture(scope="module")
def lexical_run(tmp_path_factory):
    """Job titles and words through the whole engine, with validation; a part of the bundled
    sets."""
    folder = tmp_path_factory.mktemp("lexical")
    for name, count in (("esco-occupations/occupations", 150), ("wordnet/synsets", 400)):
        rows = read_jsonl(ROOT / f"data/{name}.jsonl.gz")[:count]
        (folder / name).parent.mkdir()
        write_jsonl(folder / f"{name}.jsonl.gz", rows)
    few_pairs(folder)
    pairs = folder / "pairs.csv"
    rows = ["word1,word2,score", "cup,mug,9", "cup,moon,1", "car,cart,5", "sun,son,2"]
    pairs.write_text("\n".join(rows), encoding="utf-8")
    words = [
        "data.source=lexicon",
        "data.limit=400",
        "eval.level=lexical",
        "eval.titles=test",
        "eval.num_titles=50",
        "method.temperature=0.2",
        "trainer.val_every_n_steps=3",
        f"eval.word_pairs=[{pairs}]",
        "eval.word_columns=[word1,word2,score]",
    ]
    words += ["eval.sets=[stsb-dev]", f"data.root={folder}"]
    return train("mirror_bert", "smoke", [f"runs_dir={folder}", *words])


@pytest.mark.slow
def test_checklist_14_one_trainer_for_words_and_lexical_scores_from_any_pair_file(lexical_run):
    """Checklist 14: the word level is a data source; similarity is Spearman on a file of pairs."""
    metrics = metrics_of(lexical_run)
    assert -1 <= metrics["pairs_spearman"] <= 1
    assert {"untrained_pairs_spearman", "stsb_dev_spearman"} <= metrics.keys()
    assert metrics["level_score"] == metrics["esco_recall_at_1"]
    items = json.loads((lexical_run / "items/level_score.json").read_text(encoding="utf-8"))
    assert len(items) == 50
    assert sum(items) / 50 == pytest.approx(metrics["esco_recall_at_1"])
    assert (lexical_run / "gallery/job titles/gallery.json").exists()


@pytest.mark.slow
def test_checklist_15_time_is_logged_and_quality_plotted_against_steps(lexical_run):
    """Checklist 15: seconds of the fit; development scores at the validated steps."""
    assert metrics_of(lexical_run)["train_seconds"] > 0
    curves = read_metrics(lexical_run / "metrics.csv")
    for name in ("val/sts_spearman", "val/esco_recall_at_1"):
        (points,) = (p for key, p in curves.items() if key.endswith(name))
        assert [step for step, _ in points] == [3, 6]  # after that many steps
    assert (lexical_run / "plots/steps.png").exists()
    assert not (lexical_run / "checkpoints/train/best.ckpt").exists()  # the last weights count


def test_checklist_16_anisotropy_before_and_after(lexical_run):
    """Checklist 16: mean cosine of both encoders, and the two distributions as a figure."""
    metrics = metrics_of(lexical_run)
    assert {"mean_cosine", "untrained_mean_cosine"} <= metrics.keys()
    assert metrics["mean_cosine"] != metrics["untrained_mean_cosine"]
    assert (lexical_run / "plots/cosines.png").exists()


def test_checklist_16_one_compare_file_has_every_analysis():
    """Checklist 16: each perturbation alone, both, random weights; at both levels."""
    spec = read_comparison("mirror_bert")
    cfg = {
        arm: load(Config, "mirror_bert", spec.base, [f"{k}={json.dumps(v)}" for k, v in o.items()])
        for arm, o in spec.arms.items()
    }
    noise = {arm: (c.model.dropout > 0, c.augment.span_chars > 0) for arm, c in cfg.items()}
    for level in ("", "_words"):
        assert noise[f"dropout{level}"] == (True, False)
        assert noise[f"span_mask{level}"] == (False, True)
        assert noise[f"both{level}"] == noise[f"random_both{level}"] == (True, True)
        assert cfg[f"random_both{level}"].model.random_init
        assert cfg[f"random{level}"].model.random_init
        assert cfg[f"raw{level}"].optim.lr < 1e-20
        assert cfg[f"random{level}"].optim.lr < 1e-20
    trained = {
        (c.trainer.max_steps, c.data.limit, c.data.batch_size)
        for arm, c in cfg.items()
        if c.optim.lr > 1e-20
    }
    assert len(trained) == 1
    moving = {arm for arm in default_arms(spec) if cfg[arm].optim.lr > 1e-20}
    assert moving == set(read_sweep("mirror_bert").arms)  # each was searched
    assert "mean_cosine" in spec.also
    assert {"dropout", "span_mask", "both", "raw", "random", "random_both"} <= {*default_arms(spec)}


@pytest.mark.slow
@pytest.mark.usefixtures("unrendered_figures")
def test_the_raw_arm_moves_no_weight(tmp_path):
    encoder = module_of(config()).encoder
    encoder.tower.model.save_pretrained(tmp_path / "encoder")
    encoder.tokenizer.save_pretrained(tmp_path / "encoder")
    words = [
        f"runs_dir={tmp_path}",
        f"model.pretrained={tmp_path / 'encoder'}",
        "model.config=null",
    ]
    raw = [*words, "optim.lr=1.0e-30", "trainer.max_steps=1"]
    metrics = metrics_of(train("mirror_bert", "smoke", raw))
    for name in ("stsb_test_spearman", "mean_cosine"):
        assert metrics[name] == pytest.approx(metrics[f"untrained_{name}"], abs=1e-9)
    trained = metrics_of(train("mirror_bert", "smoke", words))
    assert abs(trained["mean_cosine"] - trained["untrained_mean_cosine"]) > 1e-3


@pytest.mark.slow
@pytest.mark.usefixtures("unrendered_figures")
def test_checklist_9_fifty_steps_an_epoch_at_a_constant_rate(tmp_path):
    """Checklist 9: 10,000 strings in batches of 200, incomplete batches dropped, constant rate."""
    lines = [f"string {i}" for i in range(10_000)]
    (tmp_path / "mirror_corpus").mkdir()
    for name in ("stsbenchmark_train_10k_sents_random_sampled.txt", "en_words_top_10k.txt"):
        (tmp_path / "mirror_corpus" / name).write_text("\n".join(lines), encoding="utf-8")
    for name, steps in (("paper", 50), ("paper_word", 100)):
        cfg = config(f"data.root={tmp_path}", name=name)
        assert count_steps(cfg, len(lines)) == steps
        assert count_steps(cfg, len(lines) + 199) == steps
        assert (cfg.optim.schedule, cfg.optim.warmup_steps) == ("constant", 0)
    run = train("mirror_bert", "smoke", [f"runs_dir={tmp_path}", "optim.lr=2.0e-5"])
    curves = read_metrics(run / "metrics.csv")
    (rates,) = (points for key, points in curves.items() if key.endswith("train/lr"))
    assert [rate for _, rate in rates] == [2e-5] * 6


def test_weight_decay_reaches_all_parameters():
    """No exclusions, as in the official code."""
    module = module_of(config())
    (group,) = module.parameter_groups()
    assert group["weight_decay"] == 0.01
    assert len(group["params"]) == len(list(module.parameters()))


@pytest.mark.parametrize("overrides", [(), PADDED])
def test_export_keeps_the_embeddings(overrides, tmp_path):
    """sentence-transformers' format, or that of transformers where padding counts."""
    cfg = config(*overrides)
    experiment, module = build(cfg), module_of(cfg).eval()
    with torch.inference_mode():
        experiment.export(module, tmp_path)
        before = experiment.embed(module)["embeddings"]
        again = experiment.load_export(tmp_path).eval()
        after = experiment.embed(again)["embeddings"]
    assert isinstance(again, MirrorBERT)
    torch.testing.assert_close(before, after)
    if overrides:
        assert load_transformers(tmp_path).max_length == 32
    else:
        assert (tmp_path / "modules.json").exists()


@pytest.mark.slow
@pytest.mark.usefixtures("unrendered_figures")
def test_a_run_is_exported_and_searched_with_its_own_settings(tmp_path, capsys):
    """A pooling given on the command line of `train` need not be given again: no weight tells
    it."""
    words = [f"runs_dir={tmp_path}", "trainer.max_steps=1", "eval.untrained=false"]
    run = train("mirror_bert", "smoke", [*words, "run_id=a", "model.pooling=cls_before_pooler"])
    folder = export("mirror_bert", "smoke", words[:1], None, None)
    assert folder == run / "export"
    assert load_sentence_encoder(folder).tower.pooling == "cls_before_pooler"
    changed = export("mirror_bert", "smoke", [*words[:1], "model.pooling=avg"], "a", None)
    assert load_sentence_encoder(changed).tower.pooling == "avg"
    (tmp_path / "texts.txt").write_text("it rains\nhe is old\n", encoding="utf-8")
    ask = [f"search.file={tmp_path}/texts.txt", f"search.queries={tmp_path}/texts.txt"]
    run_task("mirror_bert", "smoke", [*words[:1], *ask], "search")
    assert "2 texts indexed" in capsys.readouterr().out
    with pytest.raises(UserError, match="is a run of mirror_bert, not of simcse"):
        export("simcse", "smoke", words[:1], str(run), None)
    with pytest.raises(UserError, match="make train PROJECT=mirror_bert CONFIG=smoke"):
        export("mirror_bert", "smoke", [f"runs_dir={tmp_path}/none"], None, None)


RECIPE = {  # pooling, temperature, dropout, DropHead, span, length in training and after, epochs
    "paper": ("avg_all", 0.04, 0.1, 0.0, 5, 50, 64, 1),
    "paper_drophead": ("avg_all", 0.04, 0.0, 0.2, 5, 50, 64, 1),
    "paper_roberta": ("cls_before_pooler", 0.04, 0.1, 0.0, 5, 50, 64, 1),
    "paper_roberta_drophead": ("cls_before_pooler", 0.04, 0.0, 0.05, 5, 50, 64, 1),
    "paper_qa": ("cls_before_pooler", 0.04, 0.0, 0.05, 0, 50, 64, 3),
    "paper_word": ("cls_before_pooler", 0.2, 0.1, 0.0, 0, 25, 25, 2),
}


@pytest.mark.parametrize("name", RECIPE)
def test_paper_configs_hold_the_published_recipe(name):
    """Sheet, training recipe, all five columns."""
    cfg = config(name=name)
    pooling, temperature, dropout, drop_head, span, length, after, epochs = RECIPE[name]
    assert (cfg.model.pooling, cfg.method.temperature) == (pooling, temperature)
    assert (cfg.model.dropout, cfg.model.drop_head) == (dropout, drop_head)
    assert (cfg.augment.span_chars, cfg.augment.min_chars) == (span, 30)
    assert (cfg.data.max_length, cfg.model.max_length) == (length, after)
    assert (cfg.trainer.max_epochs, cfg.data.batch_size, cfg.seed) == (epochs, 200, 42)
    assert (cfg.optim.lr, cfg.optim.weight_decay) == (2e-5, 0.01)
    assert cfg.trainer.gradient_clip_val is None
    assert cfg.trainer.val_every_n_steps is None  # no selection
    assert ("roberta" in cfg.model.pretrained) == ("roberta" in name or name == "paper_qa")
    assert cfg.data.pairwise == (name == "paper_qa")


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("model.pooling=cls", "adds no parameters"),
        ("model.drop_head=1", r"drop_head must be in \[0, 1\)"),
        ("method.temperature=0", "temperature must be > 0"),
        ("data.pairwise=true", "need data.source=file"),
        ("eval.level=lexical", "needs eval.titles"),
        ("eval.word_columns=[a]", "names three columns"),
        ("augment.span_chars=-1", "augment.span_chars must be >= 0"),
    ],
)
def test_settings_that_do_not_fit_are_refused(override, message):
    with pytest.raises(UserError, match=message):
        config(override)


@pytest.mark.slow
@pytest.mark.skipif(not ENCODER.exists(), reason="needs the bundled text encoder")
@pytest.mark.usefixtures("unrendered_figures")
def test_checklist_13_a_short_fit_improves_the_raw_backbone_on_sts_b_dev(tmp_path):
    """Checklist 13: a few steps of the mini config, against the encoder before them.

    Over seeds 0 to
    2 the gain on these pairs is 0.039 to 0.058: the strings come from all parts of the file, since
    its first ones are near copies of each other, which are negatives."""
    few_pairs(tmp_path)
    texts = [row["sentence1"] for row in read_jsonl(ROOT / "data/stsb/en-train.jsonl.gz")[::9]]
    texts = texts[:400]
    (tmp_path / "strings.txt").write_text("\n".join(texts), encoding="utf-8")
    words = [
        "trainer.max_steps=12",
        "data.batch_size=24",
        "data.source=file",
        "data.file=strings.txt",
        f"data.root={tmp_path}",
        "data.limit=null",
        "data.max_length=16",
        "trainer.val_every_n_steps=null",
        "eval.sets=[stsb-dev]",
        "eval.titles=none",
        "data.bucket_batches=8",
        f"runs_dir={tmp_path}",
        "tracking.wandb=disabled",
        "optim.lr=3.0e-4",
    ]
    metrics = metrics_of(train("mirror_bert", "mini", words))
    assert metrics["stsb_dev_spearman"] > metrics["untrained_stsb_dev_spearman"] + 0.01
    assert metrics["mean_cosine"] < metrics["untrained_mean_cosine"] - 0.15


def test_encoder_of_the_config_has_the_configured_limit():
    assert build_encoder(config("model.max_length=40").model).max_length == 40


def test_the_card_s_words_without_a_list_of_terms_ask_for_none():
    card = (ROOT / "projects/mirror_bert/README.md").read_text(encoding="utf-8")
    (words,) = re.findall(r"`(data\.source=lexicon [^`]*)`", card)
    cfg = config(*words.split(), name="paper_word")
    assert (cfg.data.source, cfg.eval.word_pairs) == ("lexicon", [])
