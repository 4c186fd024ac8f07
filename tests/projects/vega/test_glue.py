"""GLUE's files, metrics, averages and submissions; selection, tasks, resume, configs."""

import json
import math
from types import SimpleNamespace

import numpy as np
import pytest

from common.config import UserError, config_names
from common.data.text.labelled.glue import read_glue
from common.data.text.labelled.glue_tasks import GLUE
from common.engine.comparison.spec import read_comparison
from common.engine.workspace import Workspace
from projects.vega import baselines
from projects.vega.evaluate import evaluate, logit_change
from projects.vega.glue.metrics import (
    HUMAN,
    TASKS,
    best_tasks,
    glue_average,
    glue_metrics,
    leaderboard,
)
from projects.vega.glue.reading import is_labelled, read_inputs, read_part
from projects.vega.glue.submission import submission_lines
from projects.vega.module import FineTune
from projects.vega.network import first_classifier
from projects.vega.stages import clean_part, labelled_part, training_data, training_part
from projects.vega.table import beside_others
from tests.projects.vega.conftest import PLAIN, config, official


def test_metrics_by_hand():
    """Checklist 12: the metrics of every task, and the mean of two where there are two."""
    gold, told = [1, 1, 0, 0, 1], [1, 0, 0, 1, 1]
    assert glue_metrics("cola", told, gold)["matthews"] == pytest.approx(1 / 6)
    actual = glue_metrics("qqp", told, gold)
    assert actual["f1"] == pytest.approx(2 / 3)
    assert actual["accuracy"] == pytest.approx(0.6)
    assert actual["score"] == pytest.approx((2 / 3 + 0.6) / 2)
    assert glue_metrics("mnli", [0, 1, 2], [0, 2, 2]) == pytest.approx(
        {"accuracy": 2 / 3, "score": 2 / 3}
    )
    scores = glue_metrics("stsb", [1.0, 2.0, 4.0], [0.0, 1.0, 2.0])
    assert scores["spearman"] == pytest.approx(1.0)
    assert scores["pearson"] == pytest.approx(np.corrcoef([1, 2, 4], [0, 1, 2])[0, 1])
    assert glue_metrics("ax", [0, 1, 2, 2], [0, 1, 2, 1])["score"] == pytest.approx(0.7, abs=0.02)
    for name in TASKS:
        assert "score" in glue_metrics(name, [0, 1, 1], [0, 1, 0])
    with pytest.raises(ValueError, match="no GLUE task"):
        glue_metrics("sst", [0], [0])


def test_the_reported_row_averages_to_91_3():
    """Checklist 12: 91.27; MNLI counts once, the diagnostic set not at all."""
    rows = leaderboard()
    assert glue_average(rows["Vega v1"]) == pytest.approx(91.27, abs=0.005)
    reported = {
        "Turing ULR v6": 91.3,
        "Turing NLR v5": 91.2,
        "DeBERTa + CLEVER": 91.1,
        "ERNIE": 91.1,
        "DeBERTa / TuringNLRv4": 90.8,
        "T5 11B": 90.3,
    }
    for name, value in reported.items():
        assert round(glue_average(rows[name]), 1) == value, name
    without = {k: v for k, v in rows["Vega v1"].items() if k != "rte"}
    with pytest.raises(ValueError, match="rte"):
        glue_average(without)
    changed = {**rows["Vega v1"], "ax": 0.0}
    assert glue_average(changed) == glue_average(rows["Vega v1"])


def test_the_report_names_humans_and_best_tasks():
    """Checklist 17: SST-2 and WNLI against 97.8 and 95.9; the tasks where a system is best."""
    rows = leaderboard()
    assert HUMAN == {"sst2": 97.8, "wnli": 95.9}
    others = {k: v for k, v in rows.items() if k != "Vega v1"}
    assert best_tasks(rows["Vega v1"], others) == ["sst2", "mrpc", "qqp", "wnli"]
    text = beside_others({"sst2": 97.85, "wnli": 60.0, "cola": 80.0})
    assert "- Vega v1, sst2: 97.9 against 97.8 of humans, above" in text
    assert "- vega-like, wnli: 60.0 against 95.9 of humans, not above" in text
    assert "vega-like is best on cola." in text
    assert "| Vega v1 | 91.27 |" in text


@pytest.mark.parametrize("name", TASKS)
def test_every_task_loads_and_trains(name):
    """Checklist 13: a step of each, with a finite loss that reaches the head."""
    words = ["self_calibration.enabled=false"] if name == "stsb" else []
    cfg = config(f"data.task={name}", *words)
    module = FineTune(cfg, first_classifier(cfg))
    data = training_data(cfg, module, training_part(cfg)).train_set
    loss = module.losses(data[[(i, 0) for i in range(4)]])["loss"]
    loss.backward()
    assert module.classifier.head.weight.shape[0] == len(GLUE[name].classes)
    assert module.classifier.head.weight.grad.any()


def test_official_files_are_read(tmp_path):
    """Checklist 13: labels, scores, hidden test parts, rows without agreement, quotation marks."""
    root = official(tmp_path)
    for name, task in GLUE.items():
        data = read_glue(task, "train", root)
        assert len(data) == 2, name
        assert read_inputs(task, "test", root).index == ["0", "1"]
        with pytest.raises(UserError, match=r"eval\.part=dev"):
            read_glue(task, "test", root)
    assert read_glue(GLUE["sst2"], "dev", root).texts[0] == ('a "fine" film',)
    assert read_glue(GLUE["cola"], "dev", root).labels.tolist() == [1, 0]
    assert read_glue(GLUE["stsb"], "dev", root).labels.tolist() == [2.5, 5.0]
    assert read_glue(GLUE["mnli"], "dev_mm", root).labels.tolist() == [2, 0]
    assert read_inputs(GLUE["cola"], "test", root).texts == [("It.",), ("So.",)]
    (tmp_path / "glue_data/RTE/dev.tsv").write_text(
        "index\tsentence1\tsentence2\tlabel\n0\ta\tb\tperhaps\n"
    )
    with pytest.raises(UserError, match="perhaps"):
        read_glue(GLUE["rte"], "dev", root)
    with pytest.raises(UserError, match="not bundled"):
        read_glue(GLUE["rte"], "dev", source="bundled")
    own = tmp_path / "own.jsonl"
    own.write_text('{"sentence1": "a", "sentence2": "b", "label": "entailment", "idx": 7}\n')
    assert read_part(GLUE["rte"], "train", source="file", file=str(own)).labels.tolist() == [0]
    assert read_inputs(GLUE["rte"], "test", source="file", file=str(own)).index == ["7"]


def test_rows_of_own_files_without_a_text_or_score(tmp_path):
    """Null was the text "None"; labelled rows without a text vanished; nan was a score."""
    own = tmp_path / "own.jsonl"
    rows = [("a", "b", 2.0), ("c", None, 1.0), (" ", "f", 3), ("g", "h", None)]

    def write():
        own.write_text(
            "\n".join(
                json.dumps(dict(zip(("sentence1", "sentence2", "label"), row, strict=True)))
                for row in rows
            )
        )

    write()
    with pytest.warns(UserWarning, match=r"own\.jsonl: 2 of 3 rows with a label lack a text"):
        actual = read_part(GLUE["stsb"], "train", None, "file", str(own))
    assert (actual.texts, actual.labels.tolist()) == ([("a", "b")], [2.0])
    inputs = read_inputs(GLUE["stsb"], "test", None, "file", str(own))
    assert inputs.texts == [("a", "b"), ("c", ""), (" ", "f"), ("g", "h")]
    for score in (math.nan, math.inf):
        rows.append(("i", "j", score))
        write()
        with pytest.raises(UserError, match=r"own\.jsonl, row 5: '(nan|inf)' is not a score"):
            read_part(GLUE["stsb"], "train", None, "file", str(own))
        rows.pop()
    rows[:] = rows[1:2]
    write()
    with pytest.raises(UserError, match="all 1 rows with a label lack a text"):
        read_part(GLUE["stsb"], "train", None, "file", str(own))


def test_damaged_official_files_are_told(tmp_path):
    """Tracebacks before: an empty file, one of another encoding."""
    (tmp_path / "RTE").mkdir()
    for content, told in (
        (b"", "is empty"),
        (b"sentence1\tsentence2\tlabel\ncaf\xe9\tb\tentailment\n", "in UTF-8"),
    ):
        (tmp_path / "RTE/dev.tsv").write_bytes(content)
        with pytest.raises(UserError, match=told):
            read_glue(GLUE["rte"], "dev", str(tmp_path))


def test_bundled_sentences_share_no_text_between_parts():
    """Data: 6,920, 872 and 1,821 full sentences of SST-2."""
    parts = {p: read_glue(GLUE["sst2"], p, source="bundled") for p in ("train", "dev", "test")}
    assert [len(x) for x in parts.values()] == [6920, 872, 1821]
    assert len(set(parts["train"].texts) & set(parts["test"].texts)) <= 2
    assert parts["test"].labels.mean() == pytest.approx(0.5, abs=0.01)


def test_lines_of_a_submission():
    """Checklist 13: names of classes, scores clamped to 0 and 5."""
    lines = submission_lines(GLUE["mnli"], ["0", "1"], np.array([[0.1, 2, 0], [3, 0, 1]]))
    assert lines == ["index\tprediction", "0\tentailment", "1\tcontradiction"]
    assert submission_lines(GLUE["cola"], ["4"], np.array([[0.1, 2]]))[1] == "4\t1"
    scores = submission_lines(GLUE["stsb"], ["0", "1"], np.array([[5.7], [-1.0]]))
    assert scores[1:] == ["0\t5.000", "1\t0.000"]
    with pytest.raises(ValueError, match="logits"):
        submission_lines(GLUE["cola"], ["4"], np.zeros((1, 3)))


def test_a_part_without_labels_is_predicted_and_not_scored(tmp_path):
    """Inference: a run that is adapted to test inputs is finished, whichever part it is evaluated
    on.
    """
    root = official(tmp_path)
    words = ["data.task=mnli", "data.source=official", f"data.root={root}", *PLAIN]
    for part, scored in (("dev", True), ("test", False)):
        cfg = config(*words, f"eval.part={part}", "transductive.part=test")
        workspace = Workspace(tmp_path / part)
        actual = evaluate(cfg, FineTune(cfg, first_classifier(cfg)), workspace)
        assert any(name.endswith("_score") for name in actual) == scored
        assert actual["test_predicted"] == 2  # a run without any metric could not be finished
        assert "logit_change" in actual
        for name in ("test", "test_mm"):
            lines = (workspace.path / f"predictions-{name}.tsv").read_text().splitlines()
            assert lines[0] == "index\tprediction"
            assert [line.split("\t")[0] for line in lines[1:]] == ["0", "1"]
    with pytest.raises(UserError, match=r"eval\.part=dev"):
        baselines.majority(cfg, workspace)
    assert not list((tmp_path / "dev").glob("predictions-dev*"))
    assert "no labels" in (tmp_path / "test/notes.txt").read_text()
    own = tmp_path / "own.tsv"
    for text, labelled in (("sentence\na\n", False), ("sentence\tlabel\na\t1\n", True)):
        own.write_text(text)
        assert is_labelled(GLUE["sst2"], "test", None, "file", str(own)) == labelled


def test_logits_change_with_the_noise_on_the_embeddings():
    """The sheet's small check: nothing at vanishing noise, tenfold for ten times the noise."""
    cfg = config()
    module, actual = FineTune(cfg, first_classifier(cfg)), {}
    for noise in (0.0, 1e-8, 1e-3, 1e-2, 0.1, 1.0):
        cfg.eval.noise = noise
        actual[noise] = logit_change(cfg, module)
    assert actual[0.0] == 0
    assert actual[1e-8] < 1e-5
    assert actual[1e-2] == pytest.approx(10 * actual[1e-3], rel=0.05)
    assert 1e-4 < actual[1e-3] < actual[1e-2] < actual[0.1] < actual[1.0]
    cfg.eval.noise = 0.1
    assert logit_change(cfg, module) == actual[0.1]  # the same noise for all strategies


def test_configs_of_the_paper():
    """Every main setting has a config; values of the sheet's table."""
    names = set(config_names("vega"))
    assert {
        "paper",
        "paper_pretrain",
        "paper_sift",
        "paper_calibrated",
        "paper_transductive",
        "paper_vanilla",
    } <= names
    cfg = config(name="paper_pretrain")
    own = cfg.pretrain
    assert (own.rtd_lambda, own.cl_gamma, own.cl_tau, own.generator_depth_ratio) == (
        50,
        0.1,
        0.05,
        0.5,
    )
    assert cfg.optim.betas == (0.9, 0.98)
    whole = config(name="paper")
    assert whole.select.seeds == [0, 1, 2, 3, 4]  # medians of five
    assert whole.sift.enabled
    assert (
        whole.self_calibration.k,
        whole.self_calibration.threshold,
        whole.self_calibration.mu,
    ) == (5, 0.9, 0.5)
    assert (
        whole.transductive.rounds,
        whole.transductive.threshold,
        whole.transductive.lr_scale,
    ) == (1, 0.9, 0.3)
    assert (whole.sift.lr, whole.sift.init, whole.sift.alpha) == (1e-4, 1e-2, 1)
    for cfg in (whole, config(name="paper_1b")):
        rows = cfg.data.batch_size * cfg.trainer.devices
        assert 32 <= rows <= 64
        # of each task, however many steps its epochs have
        assert cfg.eval.every_epoch
        assert cfg.trainer.val_every_n_steps is None
    one = config(
        "model.pretrained=folder", "model.size=null", "model.tokenizer=null", name="paper_1b"
    )
    assert one.model.pretrained == "folder"


def test_comparison_is_read():
    read_comparison("vega")


def test_baselines_learn_the_noisy_labels_of_the_training_part(tmp_path):
    """As every arm does: flipped labels, and no example of the part that is scored."""
    cfg, seen = config("data.noise=0.4"), []

    def fit(train):
        seen.append(train)
        return lambda texts: [0] * len(texts)

    assert baselines._fitted(cfg, Workspace(tmp_path), fit)
    clean = clean_part(cfg)
    assert list(seen[0].texts) == list(clean.texts) != list(labelled_part(cfg, cfg.eval.part).texts)
    assert 0.2 < np.mean(np.asarray(seen[0].labels) != np.asarray(clean.labels)) < 0.6
    assert len(seen) == 1


def test_similarities_without_a_model_by_hand(tmp_path, monkeypatch):
    """Pre-training: words in common over all words; cosine of TF-IDF with the frequencies of both
    sides.
    """
    pairs = SimpleNamespace(first=["a red fox", "a"], second=["a blue fox ran", "a"])
    short = SimpleNamespace(first=["a b", "a"], second=["a c", "a"])
    told = []
    monkeypatch.setattr(baselines, "save_sts_items", lambda *args: None)
    monkeypatch.setattr(baselines, "score_sts", lambda sets, actual: told.extend(actual.values()))
    for baseline, data in ((baselines.jaccard, pairs), (baselines.tfidf, short)):
        monkeypatch.setattr(baselines.pre, "sts_set", lambda cfg, name, data=data: data)
        cfg = config(name="smoke_pretrain")
        cfg.eval.sets = ["one"]
        baseline(cfg, Workspace(tmp_path))
    idf = 1 + math.log(5 / 2)
    assert told == [pytest.approx([0.4, 1]), pytest.approx([1 / (1 + idf**2), 1])]
