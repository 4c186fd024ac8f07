"""Stored vectors, ranking, export, the embedding on its own, speed, and the table of all arms."""

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import AutoModel, AutoTokenizer

from common.config import UserError, to_dict
from common.data.text.pairs.readers import PairSet
from common.data.text.sets import StsSet
from common.engine.trained import run_task
from common.engine.workspace import Workspace
from common.evaluation.text.transfer import LabelledTexts, TransferTask
from projects.dse import baselines, evaluate, tasks
from projects.dse.config import SpeedConfig
from projects.dse.module import first_student
from projects.dse.scorer import load_scorer, save_scorer
from projects.dse.speed import Costs, measure_costs, speed_metrics, speed_table
from projects.dse.stages import teacher_module
from projects.dse.table import (
    ARMS,
    PLAIN,
    STUDENT,
    Row,
    arm_name,
    degradation_table,
    mixed_settings,
)
from projects.dse.tasks import _lines
from tests.placed import passes_within_evaluated
from tests.projects.dse.conftest import TEXTS, classifier, config, metrics_of, student

OTHERS = ["a cat", "somebody plays music", "dogs run", "the sun shines", "a field"]


@pytest.mark.parametrize("kind", ["concat", "dot"])
def test_stored_vectors_give_the_scores_of_the_pairs(kind):
    """Checklist 12: every pair of queries and candidates, to 1e-5 of the joint pass."""
    words = ["data.task=stsb"] if kind == "dot" else ["student.head.dims=[16, 8]"]
    module = student(f"student.head.kind={kind}", *words)
    scorer = module.scorer
    stored = scorer.encode(OTHERS)
    actual = scorer.score_all(TEXTS, stored)
    assert actual.shape == (4, 5, module.task.num_logits)
    for q, query in enumerate(TEXTS):
        for k, other in enumerate(OTHERS):
            inputs = scorer.encoder.tokenize([query, other])
            with torch.no_grad():
                joint = scorer(**inputs)[0]
            torch.testing.assert_close(actual[q, k], joint, atol=1e-5, rtol=1e-5)
    expected = actual.diagonal().T
    torch.testing.assert_close(scorer.score_sides(TEXTS, OTHERS[:4]), expected)
    pairs = list(zip(TEXTS, OTHERS[:4], strict=True))
    torch.testing.assert_close(scorer.score(pairs), expected)  # as the teacher's


def test_a_symmetric_score_is_asked_for():
    """The order of training is kept; the mean of both orders is an option."""
    scorer = student().scorer
    one, other = scorer.score_all(TEXTS, OTHERS), scorer.score_all(OTHERS, TEXTS)
    assert not torch.allclose(one, other.transpose(0, 1), atol=1e-3)
    both = scorer.score_all(TEXTS, OTHERS, both_orders=True)
    torch.testing.assert_close(both, (one + other.transpose(0, 1)) / 2)
    torch.testing.assert_close(
        scorer.score_sides(TEXTS, OTHERS[:4], both_orders=True), both.diagonal().T
    )
    values, places = scorer.rank(TEXTS, OTHERS, k=2)
    log_prob = one.log_softmax(2)[..., 1]  # entailment
    assert torch.equal(places, log_prob.topk(2, 1).indices)
    torch.testing.assert_close(values, log_prob.topk(2, 1).values)
    with pytest.raises(UserError, match="no class 'x'"):
        scorer.rank(TEXTS, OTHERS, label="x")


def test_two_classes_are_ranked_by_the_one_that_is_asked_for():
    """The one logit is that of the second class, which is not_entailment of QNLI and RTE."""
    scorer = student("data.task=rte", "eval.parts=[dev]", "eval.dev=dev").scorer
    logits = scorer.score_all(TEXTS[:1], OTHERS)[..., 0]
    for label, sign in ((None, -1), ("entailment", -1), ("not_entailment", 1)):
        values, places = scorer.rank(TEXTS[:1], OTHERS, k=5, label=label)
        torch.testing.assert_close(values, (sign * logits).sort(1, descending=True).values)
        assert torch.equal(places, (sign * logits).argsort(1, descending=True))
    with pytest.raises(UserError, match="no class 'x'"):
        scorer.rank(TEXTS[:1], OTHERS, label="x")
    same = student("data.task=same_intent").scorer
    assert torch.equal(same.rank(TEXTS, OTHERS)[0], same.rank(TEXTS, OTHERS, label="same")[0])
    with pytest.raises(UserError, match="none, but a score"):
        student("data.task=stsb").scorer.rank(TEXTS, OTHERS, label="same")


@pytest.mark.parametrize(
    "kind", ["concat_top_mean", "mean_top_max", "cls", "word_vectors", "bilstm"]
)
def test_exports_load_with_transformers_and_give_the_same_scores(tmp_path, kind):
    module = student(f"student.pool.kind={kind}", "student.projection_dim=6")
    save_scorer(module.scorer, tmp_path / "e")
    again = load_scorer(tmp_path / "e")
    torch.testing.assert_close(again.encode(TEXTS), module.scorer.encode(TEXTS))
    torch.testing.assert_close(
        again.score_sides(TEXTS, TEXTS[::-1]), module.scorer.score_sides(TEXTS, TEXTS[::-1])
    )
    assert again.labels == ["contradiction", "entailment", "neutral"]
    (tmp_path / "e/dse_head.safetensors").unlink()
    with pytest.raises(UserError, match="not an exported"):
        load_scorer(tmp_path / "e")


def test_vectors_with_transformers_alone(tmp_path):
    """What the card says: mean of the top layers' states, without the first token."""
    module = student()
    save_scorer(module.scorer, tmp_path)
    model, tokenizer = AutoModel.from_pretrained(tmp_path), AutoTokenizer.from_pretrained(tmp_path)
    inputs = tokenizer(TEXTS[:1], return_tensors="pt", return_token_type_ids=False)
    with torch.no_grad():
        states = model.eval()(**inputs, output_hidden_states=True).hidden_states
    vector = torch.cat(states[-2:], dim=2)[:, 1:].mean(1)
    torch.testing.assert_close(vector, module.scorer.encode(TEXTS[:1]), atol=1e-5, rtol=1e-5)


def test_metrics_of_a_run_stand_beside_its_teacher(trained):
    """Checklist 16, one run: degradation, agreement, R2 of the logits, chance."""
    actual = metrics_of(trained)
    loss = (actual["teacher_test_accuracy"] - actual["test_accuracy"]) / actual[
        "teacher_test_accuracy"
    ]
    assert actual["test_relative_degradation"] == pytest.approx(loss)
    assert 0 <= actual["test_agreement"] <= 1
    assert actual["test_logit_r2"] < 1
    assert actual["test_accuracy_chance"] >= 1 / 3


def test_degradation_of_two_classes_is_that_of_accuracy(monkeypatch):
    """As in the table and the claims; F1 of a teacher that tells no pair positive is 0."""
    cfg = config("data.task=same_intent", "eval.thresholds=[0.5, 0.3]")
    data = PairSet(TEXTS, OTHERS[:4], np.array([1, 0, 0, 0]))
    logits = {"teacher": [[-1.0], [-2.0], [-3.0], [-4.0]], "own": [[1.0], [1.0], [-1.0], [1.0]]}
    teacher, own = (torch.tensor(x) for x in logits.values())
    monkeypatch.setattr(evaluate, "teacher_logits", lambda *_: teacher)
    actual = evaluate.against_teacher(cfg, "test", data, own)
    assert actual["teacher_test_f1"] == 0
    assert actual["test_relative_degradation"] == pytest.approx((0.75 - 0.5) / 0.75)
    data.labels[:] = 1  # its accuracy is 0 too
    assert "test_relative_degradation" not in evaluate.against_teacher(cfg, "test", data, own)


def test_runs_of_one_arm_are_seeds():
    """The table names what else they differ in; variants are arms of their own."""

    def told(*words: str) -> dict[str, Any]:
        return to_dict(config(*words))

    other = told("seed=3", "run_id=x", "eval.batch_size=7", "tracking.tags=[a]")
    assert mixed_settings("DSE", [told(), other]) == []
    faster = told("optim.lr=0.1", "student.projection_dim=4")
    assert mixed_settings("DSE", [told(), faster]) == ["optim.lr", "student.projection_dim"]
    assert mixed_settings("teacher", [told("train=teacher"), {**faster, "train": "teacher"}]) == []
    plain = [told("distill.alpha=0.0", f"teacher.lr={lr}") for lr in (0.1, 0.2)]
    assert mixed_settings(PLAIN, plain) == []
    dot = told("data.task=stsb", "student.head.kind=dot")
    assert [arm_name(x) for x in (told(), told("distill.alpha=0.0"), dot)] == [
        STUDENT,
        PLAIN,
        f"{STUDENT}, dot head",
    ]
    assert arm_name(told("distill.alpha=0.3")) == "student, alpha 0.3"
    assert (
        arm_name(told("distill.alpha=0.0", "student.pool.kind=word_vectors"))
        == f"{PLAIN}, word_vectors"
    )
    frozen = ("distill.alpha=0.0", "student.freeze=true")
    assert arm_name(told(*frozen)) == "frozen encoder"
    assert arm_name(told(*frozen, "student.pool.kind=bilstm")) == "BiLSTM"
    assert set(ARMS) > {STUDENT, PLAIN, "frozen encoder", "BiLSTM"}


def test_the_table_says_what_its_mean_mixes(tmp_path, trained, capsys):
    other = tmp_path / "other"
    shutil.copytree(trained, other, ignore=shutil.ignore_patterns("checkpoints"))
    text = (other / "config.yaml").read_text().replace("alpha: 0.5", "alpha: 0.5\n  scores: x")
    (other / "config.yaml").write_text(text.replace("  scores: null\n", ""))
    run_task("dse", "smoke", [f"table.runs=[{trained},{other}]", f"runs_dir={tmp_path}"], "table")
    assert (
        "DSE on synthetic is the mean of 2 runs that differ in distill.scores"
        in capsys.readouterr().out.replace("\n", " ")
    )
    zero = [
        Row("sts-b", arm, ["dev"], {"dev_pearson": x})
        for arm, x in (("teacher", 0.0), ("DSE", 0.5))
    ]
    assert "| DSE | 0.5000 | 0.5000 |  |" in degradation_table(zero)


def test_one_table_of_all_arms(tmp_path, trained):
    """Checklist 16: tasks, average, relative degradation averaged over the tasks."""
    scores = {
        "teacher": (0.8, 0.9),
        "DSE": (0.76, 0.81),
        "student, alpha 0": (0.72, 0.72),
        "word vectors": (0.4, 0.5),
    }
    rows = [
        row
        for arm, (a, b) in scores.items()
        for row in (
            Row("mnli", arm, ["dev"], {"dev_accuracy": a}),
            Row("sts-b", arm, ["dev"], {"dev_pearson": b, "dev_spearman": 0.1}),
        )
    ]
    lines = degradation_table(rows).splitlines()
    assert lines[0].count("mnli dev accuracy") == lines[0].count("sts-b dev pearson") == 1
    assert lines[3] == "| DSE | 0.7600 | 0.8100 | 0.7850 | 7.50 % |"
    assert "| teacher | 0.8000 | 0.9000 | 0.8500 |  |" in lines
    partial = degradation_table([*rows, Row("qqp", "teacher", ["dev"], {"dev_accuracy": 0.9})])
    assert "| DSE | 0.7600 | 0.8100 |  |  |  |" in partial
    run_task("dse", "smoke", [f"table.runs=[{trained}]", f"runs_dir={tmp_path}"], "table")
    (made,) = tmp_path.rglob("table.md")
    assert "| DSE |" in made.read_text()


def test_the_parts_of_a_task_count_once_in_the_average():
    """Two parts of MNLI had twice the weight of STS-B's one, in average and degradation."""
    scores = {"teacher": (0.8, 0.6, 0.9), "DSE": (0.72, 0.57, 0.9)}
    rows = [
        row
        for arm, (a, b, c) in scores.items()
        for row in (
            Row("mnli", arm, ["dev", "dev_mm"], {"dev_accuracy": a, "dev_mm_accuracy": b}),
            Row("sts-b", arm, ["dev"], {"dev_pearson": c}),
        )
    ]
    line = degradation_table(rows).splitlines()[3]  # (.72 + .57) / 2 and .9; (10 % + 5 %) / 2 and 0
    assert line == "| DSE | 0.7200 | 0.5700 | 0.9000 | 0.7725 | 3.75 % |"


def test_break_even_and_speedup():
    """Checklist 17: by hand. Text 2 s, pair 5 s, head 1 s."""
    costs = Costs(text=2.0, pair=5.0, head=1.0)
    assert costs.teacher(10, 20) == 1000
    assert costs.student(10, 20) == 2 * 30 + 200
    assert costs.unique == 1.0  # every sentence used once: nothing is won
    k = costs.break_even(10)
    assert costs.student(10, k) == pytest.approx(costs.teacher(10, k))
    assert costs.break_even(1) == 1.0
    assert Costs(9.0, 5.0, 1.0).break_even(1) == float("inf")
    options = SpeedConfig(queries=10, candidates=[1, 20])
    actual = speed_metrics(costs, options)
    assert actual["speedup_10x20"] == pytest.approx(1000 / 260)
    assert actual["break_even_candidates_one_query"] == 1.0
    table = speed_table(costs, options)
    assert [row[1] for row in table] == ["K", "1", "20"]


def test_speed_is_measured_and_grows_with_reuse():
    """Checklist 17: growing K; a tiny student is still faster once its candidates are stored."""
    options = SpeedConfig(queries=16, candidates=[2, 200], teacher_pairs=64, repeats=2)
    own, texts = student().scorer, [f"{a} {b}" for a in TEXTS for b in OTHERS]
    costs = measure_costs(own, classifier(), TEXTS * 4, texts * 10, options)
    actual = speed_metrics(costs, options)
    assert 0 < actual["speedup_16x2"] < actual["speedup_16x200"]
    assert min(costs.text, costs.pair, costs.head) > 0


def test_the_vectors_are_a_universal_embedding(tmp_path, monkeypatch):
    """Checklist 18: STS by cosine and transfer tasks by a linear probe, encoder frozen."""
    module = student()
    sts = StsSet("stsb-test", TEXTS, OTHERS[:4], [1.0, 2.0, 4.0, 5.0])
    labels = [0, 1] * 10
    texts = LabelledTexts([f"{TEXTS[i % 4]} {OTHERS[i % 5]}" for i in range(20)], labels)
    monkeypatch.setattr(evaluate, "load_sts", lambda *_: sts)
    monkeypatch.setattr(
        evaluate, "load_transfer", lambda root, name: TransferTask(name, texts, texts)
    )
    before = {k: v.clone() for k, v in module.state_dict().items()}
    cfg = config("eval.sts=[stsb-test]", "eval.transfer=[TREC]")
    actual = evaluate.embedding_metrics(cfg, module, Workspace(tmp_path))
    assert {"stsb_test_spearman", "sts_average_spearman", "trec_accuracy", "mean_cosine"} <= set(
        actual
    )
    assert all(torch.equal(before[k], v) for k, v in module.state_dict().items())
    universal = config(name="paper_allnli")
    assert universal.eval.transfer
    assert universal.eval.sts


def test_ranking_the_users_own_files(tmp_path, trained, capsys):
    for name, lines in (("q.txt", TEXTS[:2]), ("c.txt", OTHERS)):
        (tmp_path / name).write_text("\ufeff" + "\r\n\n".join(lines) + "\n", encoding="utf-8")
    words = [f"runs_dir={trained.parents[2]}", f"rank.queries={tmp_path}/q.txt", "rank.k=2"]
    run_task("dse", "smoke", [*words, f"rank.candidates={tmp_path}/c.txt"], "rank")
    printed = capsys.readouterr().out
    assert printed.count("\n  ") == 4
    assert TEXTS[0] in printed
    with pytest.raises(UserError, match=r"rank\.candidates"):
        run_task("dse", "smoke", words, "rank")
    (tmp_path / "c.txt").write_bytes("one\u2028line\n".encode())
    assert _lines(str(tmp_path / "c.txt"), "candidates") == ["one\u2028line"]
    (tmp_path / "c.txt").write_bytes(b"caf\xe9\n")
    with pytest.raises(UserError, match=r"rank\.candidates"):
        _lines(str(tmp_path / "c.txt"), "candidates")


def test_ranking_holds_the_scores_of_few_queries(tmp_path, monkeypatch):
    """The scores of all queries with all candidates were held at once."""
    module = student()
    monkeypatch.setattr("common.engine.trained.trained_module", lambda *_: (module, None))
    for name, lines in (("q", TEXTS), ("c", OTHERS)):
        (tmp_path / name).write_text("\n".join(lines), encoding="utf-8")
    cfg = config(f"rank.queries={tmp_path}/q", f"rank.candidates={tmp_path}/c", "rank.k=2")
    whole, sizes, rank = tasks.rank(cfg, Workspace(tmp_path), None), [], module.scorer.rank

    def counted(queries, *others):
        sizes.append(len(queries))
        return rank(queries, *others)

    monkeypatch.setattr(module.scorer, "rank", counted)
    monkeypatch.setattr(tasks, "SCORES", len(OTHERS))
    parts = tasks.rank(cfg, Workspace(tmp_path), None)
    assert sizes == [1] * len(TEXTS)
    assert [[text for text, _ in rows] for rows in parts] == [
        [t for t, _ in rows] for rows in whole
    ]


def test_ranking_works_where_the_config_says(tmp_path, monkeypatch):
    """It stayed on the CPU beside a GPU; every pass lies within `evaluated`."""
    module = student()
    seen = passes_within_evaluated(monkeypatch, tasks, lambda part: part.encoder)

    monkeypatch.setattr("common.engine.trained.trained_module", lambda *_: (module, None))
    for name, lines in (("q", TEXTS), ("c", OTHERS)):
        (tmp_path / name).write_text("\n".join(lines), encoding="utf-8")
    words = [f"rank.queries={tmp_path}/q", f"rank.candidates={tmp_path}/c", "rank.k=2"]
    cfg = config(*words, "trainer.accelerator=auto")
    actual = tasks.rank(cfg, Workspace(tmp_path), None)
    assert [len(rows) for rows in actual] == [2] * len(TEXTS)
    assert set(seen) == {(module.scorer, "auto")}


def test_ranking_and_scoring_say_what_is_cut_or_left_out(tmp_path, trained, monkeypatch, capsys):
    """Texts were read up to the training length, and rows without a label left out, without a
    word."""
    (tmp_path / "q.txt").write_text("a cat\n", encoding="utf-8")
    (tmp_path / "c.txt").write_text("a dog\n" + "very " * 40 + "old\n", encoding="utf-8")
    words = [f"runs_dir={trained.parents[2]}", f"rank.queries={tmp_path}/q.txt"]
    run_task("dse", "smoke", [*words, f"rank.candidates={tmp_path}/c.txt"], "rank")
    said = capsys.readouterr().out.replace("\n", " ")
    assert "1 of 2 candidates are longer than 24 pieces" in said
    assert "queries are longer" not in said
    rows = ["a cat,a dog,+", "a cat,,+", "a cat,a dog,-", "a man," + "very " * 50 + "old,+"]
    (tmp_path / "p.csv").write_text("\n".join(["first,second,label", *rows]), encoding="utf-8")
    own = config(
        "data.task=file",
        f"data.train_file={tmp_path}/p.csv",
        'data.labels=["0","+"]',
        "eval.parts=[train]",
        "eval.dev=train",
        f"score.output={tmp_path}/logits",
    )
    monkeypatch.setattr(tasks, "load_teacher", lambda cfg: teacher_module(cfg).eval())
    tasks.score(own, Workspace(tmp_path / "task"))
    said = capsys.readouterr().out.replace("\n", " ")
    assert "2 rows of 'train' lack a text or a label" in said
    assert "1 of 2 pairs of 'train' are longer than 40 pieces (teacher.max_length)" in said


@pytest.mark.parametrize(
    "name",
    [
        "majority",
        "hypothesis_only",
        "overlap",
        "overlap_trees",
        "hypothesis_overlap",
        "frozen_linear",
        "whitened_cosine",
    ],
)
def test_baselines_without_training(tmp_path, name):
    cfg = config()
    actual = getattr(baselines, name)(cfg, Workspace(tmp_path))
    assert 0.1 <= actual["test_accuracy"] <= 1
    if name == "majority":
        regression = config("data.task=stsb", "eval.parts=[dev]", "data.limit=60")
        assert baselines.majority(regression, Workspace(tmp_path))["dev_pearson"] == 0


def test_trees_see_that_overlap_tells_most_in_the_middle(tmp_path, monkeypatch):
    """Pairs of one class overlap by half, the others hardly or almost wholly: no line parts
    them."""
    rng = np.random.default_rng(0)
    shared = rng.random((400, 1))
    labels = (abs(shared[:, 0] - 0.5) < 0.25).astype(np.int64)
    data = PairSet(["a b"] * 400, ["a c"] * 400, labels)
    monkeypatch.setattr(baselines, "task_pairs", lambda *_: data)
    monkeypatch.setattr(baselines, "overlap_features", lambda _: shared)
    cfg = config("data.task=same_intent")
    assert baselines.overlap_trees(cfg, Workspace(tmp_path))["test_accuracy"] > 0.95
    assert baselines.overlap(cfg, Workspace(tmp_path))["test_accuracy"] < 0.7


def test_the_students_first_weights_are_a_baseline(tmp_path):
    cfg = config("eval.speed.queries=0", "distill.alpha=0.0")
    actual = baselines.untrained_student(cfg, Workspace(tmp_path))
    module = first_student(cfg).eval()
    want = evaluate.evaluate_pairs(cfg, module, Workspace(tmp_path))
    assert actual["test_accuracy"] == want["test_accuracy"]
    assert Path(tmp_path / "items/test_accuracy.json").is_file()
