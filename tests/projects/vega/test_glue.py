"""GLUE's files, metrics, averages and submissions; selection, tasks, resume, configs."""

import json
import os
import shutil

import numpy as np
import pytest
import yaml

from common.config import UserError, config_names, load, to_yaml
from common.data.text.labelled.glue import is_labelled, read_glue, read_inputs
from common.data.text.labelled.glue_tasks import GLUE
from common.engine.comparison.compare import read_comparison
from common.engine.run import run_task
from common.engine.workspace import Workspace
from common.evaluation.text.glue import (
    HUMAN,
    TASKS,
    best_tasks,
    glue_average,
    glue_metrics,
    leaderboard,
)
from common.families.classification.submission import submission_lines
from projects.vega import baselines
from projects.vega import select as selection
from projects.vega import tasks as vega_tasks
from projects.vega.config import Config
from projects.vega.evaluate import evaluate
from projects.vega.module import FineTune
from projects.vega.network import first_classifier
from projects.vega.select import chosen, combinations, grid
from projects.vega.stages import training_data, training_part
from projects.vega.table import ablation, beside_others, rows_of
from projects.vega.tasks import runs_of
from tests.cards import exported_by, run_snippet, snippets
from tests.figures import unrendered
from tests.projects.vega.conftest import FAST, PLAIN, config, run_of, weights_of


def test_metrics_by_hand():
    """Checklist 12: the metrics of every task, and the mean of two where there are two."""
    gold, told = [1, 1, 0, 0, 1], [1, 0, 0, 1, 1]
    assert glue_metrics("cola", told, gold)["matthews"] == pytest.approx(1 / 6)
    found = glue_metrics("qqp", told, gold)
    assert found["f1"] == pytest.approx(2 / 3)
    assert found["accuracy"] == pytest.approx(0.6)
    assert found["score"] == pytest.approx((2 / 3 + 0.6) / 2)
    assert glue_metrics("mnli", [0, 1, 2], [0, 2, 2]) == pytest.approx({"accuracy": 2 / 3, "score": 2 / 3})  # fmt: skip
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
    reported = {"Turing ULR v6": 91.3, "Turing NLR v5": 91.2, "DeBERTa + CLEVER": 91.1, "ERNIE": 91.1,
                "DeBERTa / TuringNLRv4": 90.8, "T5 11B": 90.3}  # fmt: skip
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


def official(root):
    """GLUE's folders with two rows a part, in the layout of each file."""
    pair = "index\tsentence1\tsentence2\tlabel"
    layout = {
        "CoLA": (None, "gj04\t1\t\tIt is so.\ngj04\t0\t*\tIt so is.", "index\tsentence", "0\tIt.\n1\tSo."),
        "SST-2": ("sentence\tlabel", 'a "fine" film \t1\ndull\t0', "index\tsentence", "0\tgood\n1\tbad"),
        "MRPC": ("Quality\t#1 ID\t#2 ID\t#1 String\t#2 String", "1\t5\t6\ta b\tb a\n0\t7\t8\tc\td",
                 "index\t#1 ID\t#2 ID\t#1 String\t#2 String", "0\t1\t2\ta\tb\n1\t3\t4\tc\td"),
        "STS-B": ("index\tgenre\tsentence1\tsentence2\tscore", "0\tx\ta\tb\t2.5\n1\tx\tc\td\t5.000",
                  "index\tgenre\tsentence1\tsentence2", "0\tx\ta\tb\n1\tx\tc\td"),
        "QQP": ("id\tqid1\tqid2\tquestion1\tquestion2\tis_duplicate", "7\t1\t2\ta\tb\t1\n8\t3\t4\tc\td\t0",
                "id\tquestion1\tquestion2", "0\ta\tb\n1\tc\td"),
        "QNLI": ("index\tquestion\tsentence\tlabel", "0\ta\tb\tentailment\n1\tc\td\tnot_entailment",
                 "index\tquestion\tsentence", "0\ta\tb\n1\tc\td"),
        "RTE": (pair, "0\ta\tb\tentailment\n1\tc\td\tnot_entailment", "index\tsentence1\tsentence2", "0\ta\tb\n1\tc\td"),
        "WNLI": (pair, "0\ta\tb\t1\n1\tc\td\t0", "index\tsentence1\tsentence2", "0\ta\tb\n1\tc\td"),
    }  # fmt: skip
    for name, (header, rows, test_header, test) in layout.items():
        folder = root / "glue_data" / name
        folder.mkdir(parents=True)
        for part in ("train", "dev"):
            (folder / f"{part}.tsv").write_text(f"{header}\n{rows}\n" if header else f"{rows}\n")
        (folder / "test.tsv").write_text(f"{test_header}\n{test}\n")
    folder = root / "glue_data/MNLI"
    folder.mkdir()
    labelled = "index\tsentence1\tsentence2\tgold_label\n0\ta\tb\tneutral\n1\tc\td\tcontradiction\n2\tx\ty\t-\n"
    for name in ("train", "dev_matched", "dev_mismatched"):
        (folder / f"{name}.tsv").write_text(labelled)
    for name in ("test_matched", "test_mismatched"):
        (folder / f"{name}.tsv").write_text("index\tsentence1\tsentence2\n0\ta\tb\n1\tc\td\n")
    return str(root)


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
    (tmp_path / "glue_data/RTE/dev.tsv").write_text("index\tsentence1\tsentence2\tlabel\n0\ta\tb\tperhaps\n")  # fmt: skip
    with pytest.raises(UserError, match="perhaps"):
        read_glue(GLUE["rte"], "dev", root)
    with pytest.raises(UserError, match="not bundled"):
        read_glue(GLUE["rte"], "dev", source="bundled")
    own = tmp_path / "own.jsonl"
    own.write_text('{"sentence1": "a", "sentence2": "b", "label": "entailment", "idx": 7}\n')
    assert read_glue(GLUE["rte"], "train", source="file", file=str(own)).labels.tolist() == [0]
    assert read_inputs(GLUE["rte"], "test", source="file", file=str(own)).index == ["7"]


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


def task(folder, name, *words):
    with unrendered():
        run_task("vega", "smoke", [f"runs_dir={folder}", *words], name)


def test_one_command_writes_all_files(tmp_path):
    """Checklist 13: nine tasks, ten files (AX is told to be missing), absent tasks are named or trained."""
    root = official(tmp_path / "data")
    words = ["data.source=official", f"data.root={root}", "trainer.max_steps=1", "data.batch_size=2", *PLAIN, *FAST]  # fmt: skip
    with pytest.raises(UserError, match="no finished run of cola, sst2"):
        task(tmp_path, "submit", *words)
    # a run for each kind of task; tasks of the same kind get a copy
    kinds = {"cola": ["sst2"], "mrpc": ["qqp", "qnli", "rte", "wnli"], "mnli": [], "stsb": []}
    for name, others in kinds.items():
        run = run_of(tmp_path, f"run_id={name}", f"data.task={name}", *words)
        for other in others:
            copy = run.with_name(other)
            shutil.copytree(run, copy)
            for file in ("config.yaml", "meta.json"):
                (copy / file).write_text((copy / file).read_text().replace(name, other))
    task(tmp_path, "submit", *words)
    folder = tmp_path / "vega/smoke/task-submit/submission-test"
    files = {path.name for path in folder.iterdir()}
    assert files == {"CoLA.tsv", "SST-2.tsv", "MRPC.tsv", "STS-B.tsv", "QQP.tsv", "MNLI-m.tsv",
                     "MNLI-mm.tsv", "QNLI.tsv", "RTE.tsv", "WNLI.tsv"}  # fmt: skip
    rte = (folder / "RTE.tsv").read_text().splitlines()
    assert rte[0] == "index\tprediction"
    assert rte[1].split("\t")[1] in GLUE["rte"].labels
    task(tmp_path, "submit", *words, "submit.parts=dev")
    told = json.loads((folder.with_name("submission-dev") / "scores.json").read_text())
    own = told["vega-like"]
    assert own["average"] == pytest.approx(glue_average({k: v for k, v in own.items() if k != "average"}))  # fmt: skip
    task(tmp_path, "table")
    text = (tmp_path / "vega/smoke/task-table/table.md").read_text()
    assert "| vega-like |" in text
    with pytest.raises(UserError, match="no GLUE task 'sst'"):
        task(tmp_path, "submit", *words, "submit.runs={sst: x}")


def finished_run(folder, run_id, *words, age=0, **metrics):
    """What a finished run leaves behind, without its training."""
    path = folder / "vega/smoke" / run_id
    path.mkdir(parents=True)
    (path / "config.yaml").write_text(to_yaml(config(*words)))
    (path / "metrics.json").write_text(json.dumps(metrics))
    os.utime(path / "metrics.json", (10**9 - age, 10**9 - age))
    return path


def test_a_part_without_labels_is_predicted_and_not_scored(tmp_path):
    """Inference: a run that is adapted to test inputs is finished, whichever part it is evaluated on."""
    root = official(tmp_path)
    words = ["data.task=mnli", "data.source=official", f"data.root={root}", *PLAIN]
    for part, scored in (("dev", True), ("test", False)):
        cfg = config(*words, f"eval.part={part}", "transductive.part=test")
        workspace = Workspace(tmp_path / part)
        found = evaluate(cfg, FineTune(cfg, first_classifier(cfg)), workspace)
        assert any(name.endswith("_score") for name in found) == scored
        assert found["test_predicted"] == 2  # a run without any metric could not be finished
        assert "logit_change" in found
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


def test_submissions_take_runs_that_were_adapted_to_test_inputs(tmp_path):
    """Checklist 13, 14: of runs with rounds those of the submitted part; seeds of one strategy are
    averaged, other strategies are not."""
    on = "transductive.enabled=true"
    finished_run(tmp_path, "vanilla-0", "seed=0", *PLAIN, age=9)
    finished_run(tmp_path, "test-0", "seed=0", on, "transductive.part=test", age=8)
    finished_run(tmp_path, "test-1-slow", "seed=1", on, "transductive.part=test", "optim.lr=1e-5", age=7)  # fmt: skip
    finished_run(tmp_path, "test-1", "seed=1", on, "transductive.part=test", "eval.part=test", age=6)  # fmt: skip
    finished_run(tmp_path, "test-2", "seed=2", on, "transductive.part=test", age=5)
    finished_run(tmp_path, "dev-0", "seed=0", on, age=1)

    def chosen_runs(*words):
        cfg = config(f"runs_dir={tmp_path}", *words)
        return [path.rsplit("/", 1)[1] for path in runs_of(cfg, Workspace(tmp_path, "vega", "smoke"), "sst2")]  # fmt: skip

    assert chosen_runs() == ["test-2"]
    assert chosen_runs("submit.average=true") == ["test-0", "test-2"]
    assert chosen_runs("submit.parts=dev") == ["dev-0"]
    with pytest.raises(UserError, match=r"transductive\.part=test"):
        task(tmp_path, "submit")


def test_logits_are_averaged_over_all_runs(tmp_path, monkeypatch):
    """Recipe: the mean of the logits, in which a run can be outvoted."""
    logits = {"a": [3.0, 0.0], "b": [0.0, 2.0], "c": [0.0, 2.0]}
    monkeypatch.setattr(vega_tasks, "_module_of", lambda cfg, workspace, run, name: run)
    monkeypatch.setattr(vega_tasks, "logits_of", lambda cfg, run, texts: np.array([logits[run]] * len(texts)))  # fmt: skip
    for runs, answer in (("a", "0"), ("ab", "0"), ("abc", "1"), ("cba", "1")):
        vega_tasks._write_task(config(), Workspace(tmp_path), None, "sst2", list(runs), tmp_path)
        assert (tmp_path / "SST-2.tsv").read_text().splitlines()[1] == f"0\t{answer}", runs


def test_submissions_train_what_is_missing_with_the_user_s_settings(tmp_path, monkeypatch):
    """Checklist 13: the rate of the command line, test inputs for the rounds, no classes for scores."""
    asked = {}

    def fake(project, name, words):
        cfg = load(Config, project, name, words)
        asked[cfg.data.task] = cfg
        return tmp_path

    monkeypatch.setattr(vega_tasks, "train", fake)
    monkeypatch.setattr(vega_tasks, "_write_task", lambda *given: {})
    task(tmp_path, "submit", "submit.train=true", "optim.lr=3e-4", "data.limit=5", "model.config.vocab_size=280")  # fmt: skip
    assert asked.keys() == set(TASKS)
    for name, cfg in asked.items():
        assert (cfg.optim.lr, cfg.data.limit, cfg.model.config["vocab_size"]) == (3e-4, 5, 280)
        assert cfg.transductive.part == "test"
        assert cfg.self_calibration.enabled == (name != "stsb")
    with pytest.raises(UserError, match=r"data\.source=official"):
        task(tmp_path, "submit", "data.source=file", "data.train_file=x.tsv", "data.dev_file=y.tsv")


def test_rows_of_the_table_hold_runs_that_can_be_compared(tmp_path):
    """Checklist 14, 17: config, part, noise and limit name a row; other settings split it."""
    runs = [
        finished_run(tmp_path, "a", "seed=0", *PLAIN, dev_score=0.5),
        finished_run(tmp_path, "b", "seed=1", *PLAIN, dev_score=0.7),
        finished_run(tmp_path, "c", "seed=0", *PLAIN, "eval.part=test", test_score=0.9),
        finished_run(tmp_path, "d", "seed=0", *PLAIN, "data.noise=0.3", dev_score=0.1),
        finished_run(tmp_path, "e", "seed=0", *PLAIN, "data.task=rte", "optim.lr=1e-5", dev_score=0.6),
        finished_run(tmp_path, "f", "seed=0", *PLAIN, "eval.part=test"),  # without labels
    ]  # fmt: skip
    scores = rows_of(runs, Workspace(tmp_path, "vega", "smoke"))
    assert scores["smoke dev: random"] == {"sst2": {0: 50.0, 1: 70.0}, "rte": {0: 60.0}}
    assert scores["smoke test: random"] == {"sst2": {0: 90.0}}
    assert scores["smoke dev: random, noise 0.3"] == {"sst2": {0: 10.0}}
    assert "f is left out" in (tmp_path / "notes.txt").read_text()
    assert "| smoke dev: random | 60.0 (2) |" in ablation(scores)
    runs.append(finished_run(tmp_path, "g", "seed=0", *PLAIN, "optim.lr=1e-5", dev_score=0.8))
    split = rows_of(runs, Workspace(tmp_path, "vega", "smoke"))
    own = {name: row["sst2"] for name, row in split.items() if name.startswith("smoke dev: random #")}  # fmt: skip
    assert sorted(map(dict, own.values()), key=len) == [{0: 80.0}, {0: 50.0, 1: 70.0}]


def test_own_texts_are_classified(plain_run, tmp_path, monkeypatch):
    """Inference: one text a line; the card's example runs on an export."""
    folder, lines = plain_run.parents[2], tmp_path / "texts.txt"
    lines.write_text("the cat and the dog\nrain again\n")
    task(folder, "classify", f"classify.input={lines}", "classify.run=plain")
    rows = [line.split("\t") for line in (folder / "vega/smoke/task-classify/predictions.tsv").read_text().splitlines()]  # fmt: skip
    assert [row[2] for row in rows] == ["the cat and the dog", "rain again"]
    assert all(row[0] in ("0", "1") and 0.5 <= float(row[1]) <= 1 for row in rows)
    with pytest.raises(UserError, match=r"classify\.input"):
        task(folder, "classify", "classify.run=plain")
    from common.engine.run import export

    place = export("vega", "smoke", [f"runs_dir={folder}"], "plain", None)
    exported_by("vega", place)
    monkeypatch.chdir(tmp_path)
    for code in snippets("vega"):
        run_snippet(code, "vega", place)


def test_strategies_are_chosen_on_development_data_by_the_median():
    """Checklist 14: sixteen combinations of two starts and three tricks; fewer tricks win ties."""
    names = [c.name for c in combinations(["rtd", "rtd_cl"], ["sift", "self_calibration", "transductive"], False)]  # fmt: skip
    assert len(set(names)) == 16
    assert {"rtd", "rtd_cl+sift+self_calibration+transductive"} <= set(names)
    assert len(list(combinations(["rtd"], ["sift", "self_calibration"], True))) == 2
    scores = {"sst2": {"rtd": [0.7, 0.9, 0.8], "rtd_cl": [0.99, 0.1, 0.2], "rtd+sift": [0.8, 0.8, 0.8]}}  # fmt: skip
    found = chosen(scores)["sst2"]
    assert found["chosen"] == "rtd"
    assert found["medians"]["rtd_cl"] == 0.2
    assert "| rtd | **0.8000** |" in grid(scores)


def test_selection_trains_every_combination_and_reads_no_test_labels(tmp_path, monkeypatch):
    """Checklist 14: eval.part=dev in all runs whatever the config says; finished runs are kept."""
    asked = []

    def fake(project, name, words):
        if not len(asked) % 8:  # they are of one mind
            load(Config, project, name, words)
        given = {key: yaml.safe_load(value) for key, _, value in (w.partition("=") for w in words)}
        asked.append(given)
        folder = tmp_path / project / name / given["run_id"]
        folder.mkdir(parents=True)
        value = 0.9 if given["sift.enabled"] and given["model.pretrained"] == "b" else 0.5
        metrics = {"dev_score": value, "test_score": 1.0}
        if given["data.task"] == "mnli":  # matched and mismatched
            metrics["dev_mm_score"] = value - 0.2
        (folder / "metrics.json").write_text(json.dumps(metrics))

    monkeypatch.setattr(selection, "train", fake)
    words = ["eval.part=test", "select.starts={rtd: a, rtd_cl: b}", "select.tricks=[sift, transductive]",
             "select.seeds=[3, 4]", "optim.lr=3e-4", "data.limit=50", "transductive.threshold=0.6",
             "transductive.part=test"]  # fmt: skip
    task(tmp_path, "select", *words)
    assert len(asked) == 2 * 4 * 2
    assert {given[f"{key}.part"] for given in asked for key in ("eval", "transductive")} == {"dev"}
    assert {given["self_calibration.enabled"] for given in asked} == {False}
    kept = {(float(given["optim.lr"]), given["data.limit"], given["transductive.threshold"]) for given in asked}  # fmt: skip
    assert kept == {(3e-4, 50, 0.6)}
    found = json.loads((tmp_path / "vega/smoke/task-select/selection.json").read_text())
    assert found["tasks"]["sst2"]["chosen"] == "rtd_cl+sift"
    assert "test_score" not in json.dumps(found)
    task(tmp_path, "select", *words)
    assert len(asked) == 16
    # other weights under the same name, or another rate: other runs
    few = [*words, "select.tricks=[sift]", "select.seeds=[3]"]
    task(tmp_path, "select", *few, "select.starts={rtd: a, rtd_cl: c}")
    assert len(asked) == 18
    task(tmp_path, "select", *few, "optim.lr=1e-3")
    assert len(asked) == 22
    task(tmp_path, "select", *few, "select.tasks=[mnli]")
    assert len(asked) == 26
    found = json.loads((tmp_path / "vega/smoke/task-select/selection.json").read_text())
    assert found["tasks"]["mnli"]["medians"]["rtd_cl+sift"] == pytest.approx(0.8)
    with pytest.raises(UserError, match="did you mean 'sst2'"):
        task(tmp_path, "select", "select.tasks=[sst]")
    own = ["data.source=file", "data.train_file=x.tsv", "data.dev_file=y.tsv", "select.seeds=[3]"]
    task(tmp_path, "select", *own, "select.tricks=[]")
    assert asked[-1]["data.train_file"] == "x.tsv"
    with pytest.raises(UserError, match="one task"):
        task(tmp_path, "select", *own, "select.tasks=[rte]")


def test_a_run_that_was_broken_off_ends_as_one_that_was_not(tmp_path):
    """Exact resume: folds, calibration and a round; the last two stages are made anew."""
    words = [
        "trainer.max_steps=2",
        "trainer.checkpoint_every_n_steps=1",
        *FAST,
        "sift.enabled=true",
    ]
    whole = run_of(tmp_path, "run_id=whole", *words)
    part = tmp_path / "vega/smoke/part"
    shutil.copytree(whole, part)
    shutil.rmtree(part / "checkpoints/transductive_1")
    folder = part / "checkpoints/calibrated"
    from common.engine import checkpoint as ckpt

    for path in ckpt.saved_checkpoints(folder)[1:]:
        path.unlink()
    for name in ("finished.json", "final.json", "finished"):
        (folder / name).unlink(missing_ok=True)
    (part / "metrics.json").unlink()
    meta = json.loads((part / "meta.json").read_text())
    meta = {k: v for k, v in meta.items() if k not in ("fitted", "finished")}
    (part / "meta.json").write_text(json.dumps({**meta, "run_id": "part"}))
    again = run_of(tmp_path, "run_id=part", "resume=part")
    for stage in ("calibrated", "transductive_1"):
        wanted, found = weights_of(whole, stage), weights_of(again, stage)
        assert all(np.array_equal(found[n], wanted[n], equal_nan=True) for n in wanted), stage


def test_configs_of_the_paper():
    """Every main setting has a config; values of the sheet's table."""
    names = set(config_names("vega"))
    assert {"paper", "paper_pretrain", "paper_sift", "paper_calibrated", "paper_transductive", "paper_vanilla"} <= names  # fmt: skip
    cfg = config(name="paper_pretrain")
    own = cfg.pretrain
    assert (own.rtd_lambda, own.cl_gamma, own.cl_tau, own.generator_depth_ratio) == (50, 0.1, 0.05, 0.5)  # fmt: skip
    assert cfg.optim.betas == (0.9, 0.98)
    whole = config(name="paper")
    assert whole.sift.enabled
    assert (whole.self_calibration.k, whole.self_calibration.threshold, whole.self_calibration.mu) == (5, 0.9, 0.5)  # fmt: skip
    assert (whole.transductive.rounds, whole.transductive.threshold, whole.transductive.lr_scale) == (1, 0.9, 0.3)  # fmt: skip
    assert (whole.sift.lr, whole.sift.init, whole.sift.alpha) == (1e-4, 1e-2, 1)
    for cfg in (whole, config(name="paper_1b")):
        rows = cfg.data.batch_size * cfg.trainer.devices
        assert 32 <= rows <= 64
        assert cfg.trainer.val_every_n_steps <= 2490 // rows  # an epoch of RTE is validated
    one = config("model.pretrained=folder", "model.size=null", "model.tokenizer=null", name="paper_1b")  # fmt: skip
    assert one.model.pretrained == "folder"


def test_comparison_is_read():
    read_comparison("vega")
