"""Export, card, tasks, paper configs and arms."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from common.config import UserError, load
from common.data.tables import read_jsonl
from common.data.text.sets import load_sts
from common.encoders.state_dict import read_state_dict
from common.engine.comparison.claims import claims_of
from common.engine.comparison.spec import default_arms, read_comparison
from common.engine.sweeps.schema import read_sweep, words_of
from common.engine.trained import export
from common.engine.workspace import Workspace
from projects.defsent_plus import build
from projects.defsent_plus.config import Config
from projects.defsent_plus.data import load_dictionary
from projects.defsent_plus.export import load_export
from projects.defsent_plus.module import DefSentPlus
from projects.defsent_plus.tasks import write_entries
from tests.projects.defsent_plus.conftest import DEFSENT, PLAIN, config, module_of


@pytest.fixture(scope="module")
def exported(finished) -> Path:
    """Folder of the run's export."""
    run, words = finished
    return export("defsent_plus", "smoke", words[:1], str(run), None)


def test_export_opens_without_a_config_and_answers_alike(exported, finished):
    """The library's modules for the encoder; pooler, activation and entries beside them."""
    assert (exported / "modules.json").is_file()
    again = load_export(exported)
    assert again.pool == "mean"
    assert again.activation == "tanh"
    state = again.state_dict()
    folder = finished[0] / "checkpoints/round_2"
    from common.engine import checkpoint as ckpt

    for name, value in ckpt.load(ckpt.finished(folder))["state_dict"].items():
        torch.testing.assert_close(state[name], value, equal_nan=True)
    with pytest.raises(UserError, match="not an export of this project"):
        load_export(exported / "reverse_dictionary")


def test_pitfall_the_activation_survives_the_export(tmp_path):
    """GELU and the pooling of training come back; DefSent's pieces too."""
    from projects.defsent_plus.export import export as write

    module = module_of("pooler.activation=gelu", "train.pool=cls", folder=tmp_path)
    write(module, tmp_path / "gelu")
    again = load_export(tmp_path / "gelu")
    texts = ["a small thing", "two of them"]
    torch.testing.assert_close(again.entry_scores(texts), module.entry_scores(texts))
    words = module_of(*DEFSENT, folder=tmp_path)
    write(words, tmp_path / "words")
    again = load_export(tmp_path / "words")
    torch.testing.assert_close(again.entry_scores(texts), words.entry_scores(texts))
    assert again.lookup(texts, 2) == words.lookup(texts, 2)


def test_descriptions_of_similar_length_are_scored_together_and_keep_their_order(tmp_path):
    module, cells = module_of(folder=tmp_path), []
    hidden = module.hidden
    module.hidden = lambda input_ids, attention_mask: (
        cells.append(input_ids.shape) or hidden(input_ids, attention_mask)
    )
    texts = ["a dog", "a small house with a big dog in it and more words"] * 2
    scores = module.entry_scores(texts, batch_size=2)
    assert cells[0][1] > cells[1][1]
    torch.testing.assert_close(scores, torch.cat([module.entry_scores([x]) for x in texts]))


def test_the_layer_norm_of_defsent_survives_the_export(tmp_path):
    """Its eps is the architecture's: 1e-12 of BERT, 1e-5 of RoBERTa, here a large one."""
    from projects.defsent_plus.export import export as write

    module = module_of(*DEFSENT, "model.config.layer_norm_eps=0.1", folder=tmp_path)
    write(module, tmp_path / "words")
    again, texts = load_export(tmp_path / "words"), ["a small thing", "two of them"]
    torch.testing.assert_close(again.entry_scores(texts), module.entry_scores(texts))
    other = module_of(*DEFSENT, folder=tmp_path).pooler.norm
    assert (again.pooler.norm.eps, other.eps) == (0.1, 1e-12)


def lookup(cfg, workspace):
    return build(cfg).tasks["lookup"](workspace)


def test_lookup_answers_from_a_run_and_from_an_export(exported, finished, tmp_path):
    run, words = finished
    (tmp_path / "texts.txt").write_text("a big house\n\na small dog\n", encoding="utf-8")
    asked = ["lookup.text=something new", f"lookup.file={tmp_path}/texts.txt", "lookup.k=3"]
    actual = []
    for place in (run, exported):
        cfg = config(words[0], *asked, f"lookup.run={place}")
        actual.append(read_jsonl(lookup(cfg, Workspace(tmp_path / "out", "defsent_plus", "smoke"))))
    assert actual[0] == actual[1]
    assert [row["text"] for row in actual[0]] == ["something new", "a big house", "a small dog"]
    assert all(len(row["entries"]) == 3 for row in actual[0])
    with pytest.raises(UserError, match="describe what you look for"):
        lookup(config(words[0]), Workspace(tmp_path))
    with pytest.raises(UserError, match="does not exist"):
        lookup(config(words[0], "lookup.file=none.txt"), Workspace(tmp_path))
    (tmp_path / "latin.txt").write_text("gr\u00f6\u00dfer", encoding="latin-1")
    with pytest.raises(UserError, match="is not UTF-8"):
        lookup(config(words[0], f"lookup.file={tmp_path}/latin.txt"), Workspace(tmp_path))


def test_lookup_holds_the_scores_of_few_descriptions(finished, tmp_path, monkeypatch):
    """A matrix of all descriptions and all entries does not fit for a long file."""
    (tmp_path / "texts.txt").write_text("a big house\na small dog\nwork\n", encoding="utf-8")
    cfg = config(finished[1][0], f"lookup.file={tmp_path}/texts.txt", f"lookup.run={finished[0]}")
    place = Workspace(tmp_path / "out", "defsent_plus", "smoke")
    whole, sizes = read_jsonl(lookup(cfg, place)), []
    scores = DefSentPlus.entry_scores
    monkeypatch.setattr(
        DefSentPlus,
        "entry_scores",
        lambda self, texts: sizes.append(len(texts)) or scores(self, texts),
    )
    monkeypatch.setattr("projects.defsent_plus.tasks.SCORES", 1)
    parts = read_jsonl(lookup(cfg, place))
    assert sizes == [1, 1, 1]
    assert [row["entries"] for row in parts] == [row["entries"] for row in whole]


def test_a_description_that_is_cut_is_said(finished, tmp_path, capsys):
    """Definitions that are too long are refused; a description was cut without a word."""
    words = [finished[1][0], f"lookup.run={finished[0]}"]
    for text, said in (("a big house", False), ("a very big house " * 20, True)):
        lookup(config(*words, f"lookup.text={text}"), Workspace(tmp_path, "defsent_plus", "smoke"))
        out = capsys.readouterr().out.replace("\n", " ")
        assert ("1 of 1 descriptions are longer than 40 tokens" in out) == said


def test_every_entry_of_a_glossary_is_written(tmp_path):
    """The mini's command lost definitions that are held out, or in an STS set, with their
    entries."""
    sets = load_sts(None, "stsb-dev")
    lines = [f"term {i}\tmeaning number {i}\n" for i in range(60)]
    lines.append(f"of a set\t{sets.first[0]}\n")
    (tmp_path / "glossary.tsv").write_text("".join(lines), encoding="utf-8")
    words = [
        f"data.file={tmp_path}/glossary.tsv",
        "data.source=file",
        "data.limit=null",
        "data.held_out=0.06",
        "data.exclude_sets=[stsb-dev]",
    ]
    cfg = config(*PLAIN, *words, f"runs_dir={tmp_path}")
    assert len(load_dictionary(cfg).entries) < 61  # what training leaves out
    out = write_entries(cfg, Workspace(tmp_path / "task"))
    assert len(read_state_dict(out)["entries"]) == 61
    assert [r["entry"] for r in read_jsonl(out.with_suffix(".jsonl"))] == [
        line.partition("\t")[0] for line in lines
    ]


def test_entries_of_a_user_s_glossary_are_written(tmp_path):
    path = tmp_path / "glossary.tsv"
    path.write_text("ice cream\tfrozen food<|list_more_def|>a sweet\nwork\teffort\n", "utf-8")
    words = [f"data.file={path}", "data.source=file", "data.limit=null", "data.held_out=0"]
    cfg = config(*PLAIN, *words, f"runs_dir={tmp_path}", f"lookup.output={tmp_path}/e.safetensors")
    out = write_entries(cfg, Workspace(tmp_path / "task"))
    assert read_state_dict(out)["entries"].shape == (2, 32)
    assert [r["entry"] for r in read_jsonl(out.with_suffix(".jsonl"))] == ["ice cream", "work"]
    cfg.lookup.output = f"{tmp_path}/e.jsonl"  # the names would be written over the vectors
    with pytest.raises(UserError, match=r"must end in \.safetensors"):
        write_entries(cfg, Workspace(tmp_path / "task"))


PAPER = {
    "paper": (3, "amp", "mean", [1e-5] * 3, 32, 150),
    "paper_bert_large": (3, "amp", "mean", [1e-5] * 3, 32, 150),
    "paper_syncse_roberta_base": (1, "ac", "mean", [1e-6], 32, 141),
    "paper_syncse_roberta_large": (2, "ac", "cls", [2e-5, 5e-6], 32, 141),
    "paper_defsent": (1, "amp", "mean", [], 16, 150),
}


@pytest.mark.parametrize("name", PAPER)
def test_paper_configs_hold_the_published_recipe(name):
    cfg = config(name=name)
    actual = (
        cfg.rounds,
        cfg.entry.encoding,
        cfg.train.pool,
        cfg.train.lr,
        cfg.data.batch_size,
        cfg.data.max_length,
    )
    assert actual == PAPER[name]
    defsent = name == "paper_defsent"
    recipe = (
        cfg.trainer.gradient_clip_val,
        cfg.optim.schedule,
        cfg.optim.warmup_epochs,
        cfg.optim.eps,
    )
    assert recipe == ((None, "constant", 0.1, 1e-8) if defsent else (1, "linear", 0, 1e-6))
    assert (cfg.optim.name, cfg.optim.weight_decay, cfg.trainer.precision) == (
        "adamw",
        0,
        "32-true",
    )
    assert cfg.train.freeze_embeddings == defsent
    assert (cfg.data.held_out, cfg.data.exclude_sets) == (0, [])
    if defsent:
        assert cfg.optim.lr == pytest.approx(1.1314e-5, rel=1e-4)
    assert cfg.entry.ica.enabled == (name in ("paper", "paper_bert_large"))
    assert cfg.restart_from_base
    assert (cfg.trainer.max_epochs, cfg.data.encoding) == (1, "utf-16")


SYNCSE = "hkust-nlp/SynCSE-partial-RoBERTa-"
# M_0, its pooling in inference; pooler in training: source, activation, checkpoint of the head
ENCODERS = {
    "paper": ("bert-base-uncased", "mask", "own", "tanh", None),
    "paper_bert_large": ("bert-large-uncased", "mask", "own", "tanh", None),
    "paper_syncse_roberta_base": (f"{SYNCSE}base", "avg", "lm_head", "gelu", "roberta-base"),
    "paper_syncse_roberta_large": (
        f"{SYNCSE}large",
        "cls_before_pooler",
        "lm_head",
        "gelu",
        "roberta-large",
    ),
    "paper_defsent": ("bert-base-uncased", "avg", "own", "tanh", None),
}


@pytest.mark.parametrize("name", ENCODERS)
def test_items_7_8_and_15_paper_configs_hold_the_published_encoders(name):
    """Checklist 7, 8, 15: the pooler of each, the prompt of inference, the targets; the seven STS
    sets.
    """
    cfg, model = config(name=name), config(name=name).model
    pooler = cfg.pooler
    assert ENCODERS[name] == (
        model.pretrained,
        model.pooling,
        pooler.source,
        pooler.activation,
        pooler.lm_head,
    )
    prompt = 'This sentence : "{text}" means [MASK] .' if model.pooling == "mask" else None
    assert model.template == prompt
    defsent = name == "paper_defsent"
    assert (cfg.entry.targets, cfg.data.single_piece) == (
        ("lm_head", True) if defsent else ("entries", False)
    )
    ica = cfg.entry.ica
    assert (ica.scale, ica.max_iter, ica.tol, ica.seed) == (100, 1000, 1e-4, 42)
    assert cfg.data.long == "refuse"
    named = ("STSBenchmark", "STS12", "STS13", "STS14", "STS15", "STS16", "SICKRelatedness")
    assert cfg.eval.sets == [f"senteval:{text}" for text in named]
    assert cfg.eval.dev == "senteval:STSBenchmark-dev"


def test_arms_differ_in_rounds_targets_and_entries_alone():
    spec = read_comparison("defsent_plus")
    arms = {
        name: load(
            Config, "defsent_plus", spec.base, [f"{k}={json.dumps(v)}" for k, v in words.items()]
        )
        for name, words in spec.arms.items()
    }
    whole = arms["round_2"]
    sweep = read_sweep("defsent_plus")
    rates = sweep.space["optim.lr"]
    assert len(rates) >= 3
    assert sweep.arms == default_arms(spec)
    assert sweep.metric == "stsb_dev_spearman"
    assert sweep.seed not in spec.seeds
    assert load(Config, "defsent_plus", sweep.base, words_of(sweep.shared)).eval.sets == [
        "stsb-dev"
    ]
    for name in default_arms(spec):
        arm = arms[name]
        assert min(rates) < arm.optim.lr < max(rates), name
        assert replace(arm.optim, lr=whole.optim.lr) == whole.optim, name
        assert replace(arm.train, freeze_embeddings=False, lr=whole.train.lr) == whole.train, name
        assert arm.train.freeze_embeddings == (name == "defsent")
        assert replace(arm.data, single_piece=False) == whole.data, name
        for section in ("model", "trainer", "pooler", "eval"):
            assert getattr(arm, section) == getattr(whole, section), (name, section)
    texts = [claim.text for claim in claims_of(spec)]
    assert texts[:3] == ["round_1 > defsent", "round_2 > defsent", "round_2 > raw"]
