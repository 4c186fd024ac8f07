"""Labels, accumulation, freezing, selection, resume, two processes."""

import re

import numpy as np
import pytest
import torch

from common.config import ROOT, UserError
from common.data.text.pairs.readers import PairSet, read_pairs, synthetic_pairs
from common.data.text.pairs.tasks import NLI, TASKS
from common.engine import checkpoint as ckpt
from common.engine.check import inspect
from common.engine.comparison.spec import read_comparison
from common.engine.sweeps.schema import read_sweep
from projects.dse import baselines, build
from projects.dse.module import first_student
from projects.dse.pair_batches import TowerPairs
from projects.dse.pair_tasks import main_score, score_pair_task
from projects.dse.stages import student_data
from tests.projects.dse.conftest import config, run_of, student


def data_of(kind, labels):
    pairs = synthetic_pairs(len(labels))
    dtype = np.float64 if kind == "regression" else np.int64
    return PairSet(pairs.first, pairs.second, np.array(labels, dtype=dtype))


def test_a_binary_student_has_one_logit_and_float_labels():
    """Checklist 5: labels (B, 1) float."""
    cfg = config("data.task=nli_binary")
    module = first_student(cfg)
    train = TowerPairs(data_of("binary", [0, 1, 1]), "binary", module.scorer.encoder.tokenizer)
    batch = train[[(0, 0), (2, 0)]]
    assert batch["labels"].tolist() == [[0.0], [1.0]]
    assert batch["labels"].dtype == torch.float32
    assert module.scorer(batch["input_ids"], batch["attention_mask"]).shape == (2, 1)
    assert module.task.num_teacher_logits == 2


def test_scores_are_raw_and_predictions_are_not_clamped():
    """Checklist 13: STS-B's labels from 0 to 5; a prediction beyond counts as it is."""
    data = read_pairs(TASKS["stsb"], "dev")
    assert data.labels.min() == 0.0
    assert data.labels.max() == 5.0
    module = student("data.task=stsb")
    module.scorer.head.layers[-1].bias.data.fill_(40.0)
    assert float(module.pair_logits(data.pairs[:2]).min()) > 5
    beyond = np.array([[9.0], [-4.0], [1.0]])
    clamped = np.clip(beyond, 0, 5)
    gold = np.array([5.0, 0.0, 1.0])
    actual = score_pair_task(beyond, gold, "regression")["pearson"]
    assert actual != pytest.approx(score_pair_task(clamped, gold, "regression")["pearson"])


def test_thresholds_are_probabilities():
    """Checklist 14: sigmoid(logit) > threshold; a logit of 0 is 0.5 and does not count."""
    logits, gold = np.array([[0.0], [0.4], [-0.4], [3.0]]), np.array([1, 1, 1, 0])
    actual = score_pair_task(logits, gold, "binary", (0.5, 0.4))
    assert actual["accuracy"] == 0.25
    assert actual["f1"] == pytest.approx(2 * 1 / (2 + 3))
    assert actual["accuracy_at_0.4"] == 0.75  # sigmoid(-0.4) = 0.401: all four are told positive
    assert actual["f1_at_0.4"] == pytest.approx(2 * 3 / (4 + 3))
    assert main_score(actual, "binary") == actual["f1_at_0.4"]


@pytest.mark.parametrize("kind", ["concat_top_mean", "bilstm", "cls"])
def test_freezing_trains_head_and_projection_alone(kind):
    """Checklist 15 (and the LSTM of that baseline)."""
    words = ["student.freeze=true", "student.projection_dim=8", f"student.pool.kind={kind}"]
    cfg = config("distill.alpha=0.0", "student.pool.top_layers=2", *words)
    module = first_student(cfg)
    batch = student_data(cfg, module, None).train_set[[(i, 0) for i in range(4)]]
    module.losses(batch)["loss"].backward()
    split = [name.split(".") for name, p in module.named_parameters() if p.grad is not None]
    trained = {f"{part[1]}.{part[3]}" for part in split}
    lstm = {"encoder.lstm"} if kind == "bilstm" else set()
    assert trained == {"encoder.projection", "head.0", "head.1"} | lstm
    assert module.scorer.encoder.num_features == 8


@pytest.mark.slow
def test_accumulated_batches_are_one_batch_and_no_gradient_is_left(tmp_path):
    """Checklist 10: two of eight pairs make the step of sixteen; a remainder is dropped, so that an
    epoch ends with a step."""
    plain = [
        "distill.alpha=0.0",
        "student.dropout=0.0",
        "student.pool.dropout=0.0",
        "trainer.max_steps=2",
        "optim={name: sgd, lr: 0.1}",
    ]
    one = run_of(tmp_path, "run_id=one", "data.batch_size=16", *plain)
    two = run_of(
        tmp_path, "run_id=two", "data.batch_size=8", "trainer.accumulate_grad_batches=2", *plain
    )
    states = [
        ckpt.load(ckpt.newest_intact(run / "checkpoints/student")[0])["state_dict"]
        for run in (one, two)
    ]
    for name, value in states[0].items():
        torch.testing.assert_close(states[1][name], value, atol=2e-5, rtol=1e-3)
    first = first_student(config(*plain)).state_dict()
    moved = [name for name in first if not torch.allclose(first[name], states[0][name], atol=1e-4)]
    assert moved
    (stage,) = build(config("data.batch_size=100", "distill.alpha=0.0")).stages()
    assert stage.data.batches_per_epoch() == 1  # of 192 pairs


@pytest.mark.slow
def test_the_best_step_on_the_development_part_is_kept(tmp_path):
    words = ["trainer.val_every_n_steps=2", "eval.speed.queries=0", "distill.alpha=0.0"]
    (stage,) = build(config(*words)).stages()
    assert stage.monitor == "val/pair_score"
    run = run_of(tmp_path, "run_id=v", *words)
    assert (run / "checkpoints/student/best.ckpt").exists()
    assert "val/pair_score" in (run / "metrics.csv").read_text()


def test_configs_of_the_paper_are_the_released_settings():
    for name, task, parts in (
        ("paper", "mnli", ["dev", "dev_mm"]),
        ("paper_allnli", "allnli", ["dev"]),
        ("paper_mrpc", "mrpc", ["dev"]),
        ("paper_stsb", "sts-b", ["dev"]),
    ):
        cfg = config(name=name)
        assert (cfg.data.task, cfg.eval.parts) == (task, parts)
        assert (cfg.student.pool.kind, cfg.student.pool.top_layers) == ("concat_top_mean", 4)
        assert (cfg.student.head.dims, cfg.distill.alpha) == ([512], 0.5)
        assert cfg.data.batch_size * cfg.trainer.accumulate_grad_batches == 32
        assert cfg.teacher.batch_size * cfg.teacher.accumulate == 32
        assert cfg.optim.warmup_epochs == pytest.approx(0.1 * cfg.trainer.max_epochs)
    sizes = {
        "paper": 392_702,
        "paper_allnli": 942_069,
        "paper_mrpc": 3_668,
        "paper_qnli": 104_743,
        "paper_qqp": 363_846,
        "paper_snli": 549_367,
        "paper_stsb": 5_749,
    }
    for name, pairs in sizes.items():  # validated after every epoch of 32 pairs a step
        assert config(name=name).trainer.val_every_n_steps == pairs // 32, name
    released = config(name="paper_mrpc_as_released")
    assert released.optim.name == "bertadam"
    assert released.optim.warmup_epochs == pytest.approx(0.2 * released.trainer.max_epochs)
    assert TASKS["snli"].labels == TASKS["mnli"].labels == TASKS["allnli"].labels == NLI


@pytest.mark.parametrize("name", ["paper", "paper_allnli"])
def test_plan_of_the_paper(name):
    """4 x 1024 features, 16,384 of the pair; nothing needs to be here."""
    plan = build(config(name=name)).plan()
    assert any("weights" in r.name for r in plan.requirements)
    report = inspect("dse", name, [])
    assert report["parameters"].startswith("342.48 M")


def test_claims_of_the_comparison():
    comparison = read_comparison("dse")
    assert {"teacher", "alpha_0", "alpha_05", "frozen"} <= set(comparison.arms)
    assert all(callable(getattr(baselines, name)) for name in comparison.baselines)


def test_every_student_of_the_comparison_is_searched_alike_on_development_pairs():
    """The same rates for each default arm, none of them at an end of the grid of `mini`."""
    sweep, comparison, mini = read_sweep("dse"), read_comparison("dse"), config(name="mini_12000")
    assert {*sweep.arms, "teacher"} == set(comparison.default_arms)
    rates = sweep.space["optim.lr"]
    assert min(rates) < mini.optim.lr < max(rates)
    assert sweep.metric == "dev_accuracy"
    assert sweep.shared["eval.parts"] == [mini.eval.dev]
    assert not {sweep.seed} & set(comparison.seeds)


def test_commands_of_the_card_name_classes_as_words():
    """YAML reads yes and no as truth values, which no file holds."""
    card = (ROOT / "projects/dse/README.md").read_text(encoding="utf-8")
    (plain,) = re.findall(r"`data\.task=file.*?(data\.labels=\S+)`", card)
    (quoted,) = re.findall(r"`'(data\.labels=[^']*)'`", card)
    files = [f"data.{part}_file=a.tsv" for part in ("train", "dev", "test")]
    for word, labels in ((plain, ["other", "same"]), (quoted, ["no", "yes"])):
        assert config("data.task=file", *files, word).data.labels == labels


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["student.head.kind=dot"], "has classes"),
        (["data.task=file"], "train_file"),
        (["student.pool={kind: cls, sqrt_len: true}"], "divides a sum"),
        (["data.labels=[yes]"], "two different"),
        (["distill.alpha=1.5"], "alpha"),
        (["eval.parts=[test, devv]"], r"eval\.parts: synthetic has no part 'devv'"),
        (["data.task=mrpc"], "mrpc has no part 'test'; it has train, dev"),
        (["data.task=mnli", "eval.parts=[dev]", "eval.dev=test"], r"eval\.dev: mnli has no part"),
        (
            ["data.task=file", "data.train_file=a.tsv", "data.test_file=b.tsv"],
            r"eval\.dev: file .* no data\.dev_file",
        ),
        (["eval.thresholds=[]"], "at least one"),
        (["eval.transfer=[XX]"], "no XX"),
    ],
)
def test_settings_that_mean_nothing_are_refused(words, message):
    with pytest.raises(UserError, match=message):
        config(*words)
