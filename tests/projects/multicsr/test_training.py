"""Stages together: the mask model beside the student, ablations, a whole run, resume, configs."""

import json
import re

import pytest
import torch
import yaml

from common.config import CONFIG_DIR, UserError
from common.engine.check import inspect
from common.engine.comparison.spec import read_comparisons
from common.engine.sweeps.schema import read_sweep
from common.engine.workspace import Workspace
from common.families.sentences.module import build_encoder
from projects.multicsr import build
from projects.multicsr.data import prepare, views
from projects.multicsr.evaluate import (
    data_metrics,
    kept_data_metrics,
    retrieval_names,
    second_pooler,
)
from projects.multicsr.graded_triplets import GradedTriplet, write_triplets
from projects.multicsr.module import MultiCSR
from projects.multicsr.stages import make_module, requirements, stages, training_set
from tests.projects.multicsr.conftest import TEXTS, config, module
from tests.unit.losses.golden import assert_close

PAPER = ("paper", "paper_roberta", "paper_wiki", "paper_chatgpt", "paper_official")


def batch(cfg, model, rows=8):
    return views(cfg, prepare(cfg), model.encoder.tokenizer)[[(i, 0) for i in range(rows)]]


def test_the_mask_model_is_frozen_in_evaluation_mode_and_not_optimised():
    """Checklist 9: eval mode after train(), no gradient, no optimiser group, raw [CLS]."""
    model = module("model.dropout=0.5", "stage3.phi=0.9").train()
    assert model.encoder.training
    assert not any(part.training for part in model.guide.modules())
    data = batch(config(), model)
    first, second = model.guides(data), model.guides(data)
    assert all(
        torch.equal(a, b) and not a.requires_grad for a, b in zip(first, second, strict=True)
    )
    states = model.guide.tower.model(data["input_ids"], data["attention_mask"]).last_hidden_state
    torch.testing.assert_close(torch.cat(first), states[:, 0])  # no MLP
    optimised = {id(p) for group in model.parameter_groups() for p in group["params"]}
    assert optimised.isdisjoint(id(p) for p in model.guide.parameters())
    model.losses(data)["loss"].backward()
    assert all(p.grad is None for p in model.guide.parameters())
    assert all(p.grad is not None for p in model.encoder.parameters() if p.requires_grad)
    assert config(name="paper").stage3.pooling == "cls_before_pooler"


def test_a_mask_model_of_another_vocabulary_is_refused():
    """Both read the same token ids."""
    with pytest.raises(UserError, match="another vocabulary"):
        module("stage3.mask_model=bundled:text-encoder", "stage3.config=null")


def test_a_mask_model_that_masks_most_negatives_is_warned_of_once():
    model = module("stage3.phi=0.001").train()
    data = batch(config(), model)
    with pytest.warns(UserWarning, match=r"raise stage3\.phi"):
        terms = model.losses(data)
    assert terms["masked_share"] > 0.5
    model.losses(data)
    batches, foreign, hard = model.masked.tolist()
    assert batches == 2
    assert foreign == pytest.approx(2 * float(terms["masked_share"]))
    assert hard == pytest.approx(2 * float(terms["masked_own_negative_share"]))


def test_with_all_stages_off_it_is_supervised_simcse():
    """Checklist 1: the same triplets, no mask model, SimCSE's loss."""
    cfg = config("stage2.enabled=false", "stage3.enabled=false", "model.dropout=0.0")
    model = module("stage3.enabled=false", "model.dropout=0.0")
    assert model.guide is None
    prepared = prepare(cfg)
    assert [row.triplet for row in prepared.rows] == prepared.triplets
    assert prepared.curated is None
    data = batch(cfg, model)
    z = [torch.nn.functional.normalize(x, dim=1) for x in model.views(data, 3)]
    logits = z[0] @ torch.cat(z[1:]).T / 0.05
    expected = torch.nn.functional.cross_entropy(logits, torch.arange(8))
    assert_close(model.losses(data)["loss"], expected.item(), 1e-5)


@pytest.mark.parametrize("on", [(), (2,), (3,), (2, 3), (1,), (1, 2), (1, 2, 3)])
def test_every_combination_of_stages_trains(on, model_folders, tmp_path):
    """Checklist 1 and 17: none, each stage, and their combinations by three switches."""
    words = [f"stage{k}.enabled={str(k in on).lower()}" for k in (1, 2, 3)]
    folder = model_folders["causal"]
    write_triplets(tmp_path / "own.csv", [GradedTriplet(t, t, t) for t in TEXTS[:2]], scores=False)
    words += [
        "data.source=file",
        f"data.file={tmp_path / 'own.csv'}",
        "data.limit=null",
        "data.generate=true",
        "data.batch_size=2",
        f"stage1.model={folder}",
        "stage1.max_new_tokens=3",
        "stage2.judge=lm",
        f"stage2.score_model={folder}",
        "stage2.read=expectation",
        "stage2.alpha=0",
        "stage2.beta=5",
        "stage2.gamma=0",
        f"runs_dir={tmp_path}",
    ]
    cfg = config(*words)
    (stage,) = stages(cfg)
    data = training_set(cfg, stage.module.encoder)[[(0, 0), (1, 0)]]
    assert torch.isfinite(stage.module.losses(data)["loss"])
    assert (stage.module.guide is not None) == (3 in on)
    prepared = prepare(cfg)  # what the language model wrote is kept
    assert (prepared.curated is not None) == (2 in on)
    kept = {path.name.split("-")[0] for path in (tmp_path / "multicsr/offline").iterdir()}
    assert kept == {"stage1"} | ({"stage2"} if 2 in on else set())
    plain = prepare(config(*words, "stage1.enabled=false", "stage2.enabled=false")).triplets
    written = [row.triplet.texts for row in prepared.rows]
    assert ([t.texts for t in plain] != written) == (1 in on)  # off: the wanted instruction alone


def test_a_run_reports_all(smoke_runs):
    """STS through both poolers, zero-shot retrieval, masked shares, what stage 2 did."""
    run = smoke_runs("multicsr")
    metrics = json.loads((run / "metrics.json").read_text())
    for name in (
        "stsb_test_spearman",
        "synthetic_ndcg_at_10",
        "masked_share",
        "kept_share",
        "masked_own_negative_share",
        "swap_rate",
        "parse_failure_rate",
    ):
        assert name in metrics
    assert metrics["mlp_stsb_test_spearman"] != metrics["stsb_test_spearman"]
    assert "train/masked_share" in (run / "metrics.csv").read_text()


def test_the_student_alone_is_exported(tmp_path):
    """Inference needs neither mask model nor language model; [CLS] without the MLP if so chosen."""
    experiment = build(config())
    model = module().eval()
    experiment.export(model, tmp_path / "export")
    again = experiment.load_export(tmp_path / "export")
    expected, actual = model.encoder.encode(TEXTS), again.encoder.encode(TEXTS)
    torch.testing.assert_close(actual, expected)
    cfg = config("model.mlp_only_train=false")
    torch.manual_seed(0)
    pooled = make_module(cfg, build_encoder(cfg.model)).encoder.encode(TEXTS)
    assert not torch.allclose(pooled, expected, atol=1e-3)  # the second pooler of the script
    assert not any("guide" in path.name for path in (tmp_path / "export").rglob("*"))


def test_held_back_triplets_are_counted_by_nearness(monkeypatch):
    """Share of triplets whose entailment is nearer than the contradiction, against chance."""
    from projects.multicsr import evaluate

    assert len(evaluate.held_back(config())[0]) == 1200  # the test part
    rows = [("a", "b", "c"), ("a", "c", "b"), ("", "b", "c")]
    monkeypatch.setattr(evaluate, "load_nli_triplets", lambda root, split: rows)
    place = {"a": [1.0, 0.0], "b": [1.0, 0.1], "c": [0.0, 1.0]}
    hits = evaluate.triplet_hits(config(), lambda texts: torch.tensor([place[t] for t in texts]))
    assert hits == [1.0, 0.0]


def test_equally_near_sentences_are_half_a_hit(monkeypatch):
    """Word overlap ties often: as a loss, a tie would make the baseline weaker than it is."""
    from projects.multicsr import baselines

    rows = [["a b", "a b"], ["a", "a"], ["b", "c"]]
    monkeypatch.setattr(baselines, "held_back", lambda cfg: rows)
    actual = baselines._triplets(config("eval.triplets=true"), Seen(), baselines.word_overlap)
    assert actual == {"triplet_accuracy": 0.75}


class Seen:
    """A workspace that keeps names of items."""

    def __init__(self):
        self.names = []

    def items(self, name, values):
        self.names.append(name)

    def rank_items(self, name, predicted, gold):
        self.names.append(name)

    mean_items = items


def test_every_baseline_has_what_the_claims_read(monkeypatch):
    """Held-back triplets and retrieval of the encoders, the words and the judge."""
    from projects.multicsr import baselines, evaluate

    rows = [(f"a {text}", f"a {text} b", "it rains") for text in TEXTS]
    monkeypatch.setattr(evaluate, "load_nli_triplets", lambda root, split: rows)
    monkeypatch.setattr(baselines, "word_grades", lambda root: lambda pairs: [1.0 for _ in pairs])
    cfg, search = config("eval.triplets=true"), {"synthetic_ndcg_at_10", "synthetic_recall_at_100"}
    main, ablation = (part.baselines for part in read_comparisons("multicsr"))
    for name in {*main, *ablation}:
        seen = Seen()
        actual = getattr(baselines, name)(cfg, seen)
        assert ("triplet_accuracy" in actual) == (name in main), name
        assert (search <= set(actual)) == (name not in ("jaccard", "judge")), name
        assert {"triplet_accuracy", *search} & set(actual) <= set(seen.names)


def test_the_paper_configs_hold_the_recipe():
    """Sheet, training recipe: every main setting, official protocol."""
    for name in PAPER:
        cfg = config(name=name)
        assert (cfg.data.batch_size, cfg.optim.lr, cfg.trainer.max_epochs) == (128, 5e-5, 3)
        assert (cfg.data.max_length, cfg.method.temperature, cfg.stage3.phi) == (32, 0.05, 0.95)
        assert (cfg.trainer.val_every_n_steps, cfg.seed, cfg.optim.weight_decay) == (25, 42, 0.0)
        assert (cfg.stage2.alpha, cfg.stage2.beta, cfg.stage2.gamma) == (3, 3, 1)
        assert len(cfg.eval.sets) == 7
        assert cfg.stage2.enabled
        assert cfg.stage3.enabled
        assert cfg.stage1.plausibility is None  # a causal model has its guard
    assert config(name="paper").stage1.enabled
    assert not config(name="paper_chatgpt").stage1.enabled
    assert config(name="paper_official").stage3.variant == "official_bce"


def test_what_the_comparison_shows_of_retrieval_is_measured():
    """Checklist 17: a name that no run has would leave its column out without a word."""
    _, ablation = read_comparisons("multicsr")
    (name,) = retrieval_names(config(name=ablation.base)).values()
    shown = {key for key in ablation.also if "ndcg" in key or "recall" in key}
    assert shown == {f"{name}_ndcg_at_10", f"{name}_recall_at_100"}


def test_a_set_of_the_evaluation_that_is_missing_is_said_before_training(tmp_path):
    cfg = config(f"eval.retrieval=[{tmp_path / 'scifact'}]")
    with pytest.raises(UserError, match="scifact"):
        next(stages(cfg))
    assert any(not need.present and "scifact" in need.location for need in requirements(cfg))


def test_the_evaluation_asks_no_language_model_and_waits_for_nobody(
    model_folders, monkeypatch, tmp_path
):
    """One process evaluates, perhaps elsewhere: figures of the data come from what is kept."""
    from projects.multicsr import data, generation, judges

    folder = model_folders["causal"]
    (tmp_path / "p.txt").write_text("\n".join(TEXTS) + "\n")
    words = [
        "data.source=file",
        f"data.file={tmp_path / 'p.txt'}",
        "data.limit=null",
        "data.generate=true",
        f"stage1.model={folder}",
        "stage1.max_new_tokens=3",
        "stage2.judge=lm",
        f"stage2.score_model={folder}",
        "stage2.read=expectation",
        "stage2.alpha=0",
        "stage2.beta=5",
        "stage2.gamma=0",
    ]
    cfg = config(*words, f"runs_dir={tmp_path / 'here'}")
    expected = data_metrics(prepare(cfg))

    def refuse(*args, **kwargs):
        raise AssertionError("work of stages 1 and 2")

    for place, name in ((data, "barrier"), (generation, "load_model"), (judges, "load_model")):
        monkeypatch.setattr(place, name, refuse)
    assert kept_data_metrics(cfg) == expected
    assert expected["triplets"] > 0
    with pytest.warns(UserWarning, match="no figures on the training triplets"):
        assert kept_data_metrics(config(*words, f"runs_dir={tmp_path / 'elsewhere'}")) == {}


def test_an_exported_student_has_no_second_pooler(tmp_path):
    """It has no MLP, so that figures through one would be those of the raw [CLS] again."""
    cfg = config("eval.retrieval=[]")
    assert second_pooler(cfg, module())
    build(cfg).export(module().eval(), tmp_path / "export")
    assert second_pooler(cfg, build(cfg).load_export(tmp_path / "export")) == {}


def test_every_default_arm_is_searched_alike_on_development_pairs():
    """The same rates, that of `mini` at no end of them, seeds that no verdict uses."""
    sweep, (comparison, _) = read_sweep("multicsr"), read_comparisons("multicsr")
    assert set(sweep.arms) == set(comparison.default_arms)
    rates, mini = sweep.space["optim.lr"], config(name="mini")
    assert min(rates) < mini.optim.lr < max(rates)
    assert sweep.metric == "stsb_dev_spearman"
    assert sweep.shared["eval.sets"] == [mini.eval.dev]
    assert not {sweep.seed} & set(comparison.seeds)


def test_commands_of_the_card_cut_nothing_off():
    """Stage 1 on own premises: all of them, sentences of any length, the paper's rule."""
    card = (CONFIG_DIR.parent / "projects/multicsr/README.md").read_text(encoding="utf-8")
    commands = re.findall(
        r"`make run PROJECT=multicsr ([^`]*TASK=(?:generate|score|filter)[^`]*)`", card
    )
    assert len(commands) == 3
    for command in commands:
        name, *words = (word for word in command.split() if not word.startswith("TASK="))
        cfg = config(*words, name=name.removeprefix("CONFIG="))
        assert cfg.data.limit is None
        assert cfg.stage1.max_new_tokens == 256
        assert cfg.stage1.plausibility is None  # whichever kind of model is named
        assert (cfg.stage2.alpha, cfg.stage2.beta, cfg.stage2.gamma) == (3, 3, 1)


def test_the_ablation_is_one_group_of_arms():
    """Checklist 17: {none, 1, 2, 3, 1+2, 2+3, all} from one config, on STS and retrieval."""
    text = yaml.safe_load((CONFIG_DIR / "multicsr/compare.yaml").read_text())
    arms = text["more"]["ablation"]["arms"]
    combinations = {
        tuple(k for k in (1, 2, 3) if arm[f"stage{k}.enabled"]) for arm in arms.values()
    }
    assert combinations == {(), (1,), (2,), (3,), (1, 2), (2, 3), (1, 2, 3)}
    cfg = config(name=text["more"]["ablation"]["base"])
    assert cfg.eval.retrieval
    assert cfg.optim.warmup_steps <= cfg.trainer.max_steps / 10  # most steps have the full rate


@pytest.mark.parametrize("name", ["mini", "ablation", *PAPER])
def test_a_dry_run_builds_every_config(name):
    report = inspect("multicsr", name, [])
    size, steps = {"mini": ("5.29 M (5.29 M", "200"), "ablation": ("10.58 M (5.29 M", "20")}.get(
        name, (("248.70 M (124.65 M" if "roberta" in name else "218.37 M (109.48 M"), "by the data")
    )
    assert report["parameters"].startswith(size)  # the mask model is not trained
    assert report["steps"] == steps


def test_few_triplets_are_refused():
    cfg, encoder = config("data.batch_size=128"), module().encoder
    with pytest.raises(UserError, match="fewer than"):
        training_set(cfg, encoder)


def test_generation_task_writes_the_documented_header(model_folders, tmp_path, capsys):
    """Checklist 13: sent0,sent1,hard_neg; records beside it, of distinct premises that are
    counted."""
    (tmp_path / "p.txt").write_text("\n".join([*TEXTS, TEXTS[0], ""]) + "\n")
    words = [
        "data.source=file",
        f"data.file={tmp_path / 'p.txt'}",
        "data.limit=null",
        "data.generate=true",
        "stage1.enabled=true",
        f"stage1.model={model_folders['causal']}",
        "stage1.max_new_tokens=4",
        "stage1.compare_plain=true",
        f"files.output={tmp_path / 'out.csv'}",
    ]
    build(config(*words)).tasks["generate"](Workspace(tmp_path / "run", "multicsr", "smoke"))
    lines = (tmp_path / "out.csv").read_text().splitlines()
    assert lines[0] == "sent0,sent1,hard_neg"
    assert len(lines) == 5  # each premise once
    assert "6 premises; 4 are left, each once" in capsys.readouterr().out
    assert (tmp_path / "out.csv.parts/part-000000.jsonl").is_file()
    build(config(*words)).tasks["generate"](Workspace(tmp_path / "run", "multicsr", "smoke"))
    (tmp_path / "given.csv").write_text("kept")  # somebody else's: no records beside it
    words[-1] = f"files.output={tmp_path / 'given.csv'}"
    with pytest.raises(UserError, match="is there already"):
        build(config(*words)).tasks["generate"](Workspace(tmp_path / "run", "multicsr", "smoke"))
    assert (tmp_path / "given.csv").read_text() == "kept"


def test_the_module_is_one_of_the_family():
    assert isinstance(module(), MultiCSR)
