"""`eval.own`: every project judges a user's file, or says in one sentence what it can judge."""

import dataclasses
import json

import pytest

from common.cli import main
from common.config import UserError, load, settings_of_own
from common.data.layouts import Layout
from common.engine import trained
from common.engine.run import prepare, train
from common.evaluation.own_data import OWN, OwnData
from common.registry import config_class
from tests.contract.projects import PROJECTS

TURNS = {"turns": ["hello", "hi"]}  # a layout that no project judges


def section(project: str) -> type[OwnData]:
    fields = dataclasses.fields(config_class(project))
    (schema,) = (field.type for field in fields if field.name == "eval")
    assert isinstance(schema, type)
    assert issubclass(schema, OwnData)
    return schema


@pytest.mark.parametrize("project", PROJECTS)
def test_a_layout_that_a_project_does_not_judge_is_refused_in_one_sentence(
    project, tmp_path, capsys
):
    (tmp_path / "own.jsonl").write_text(json.dumps(TURNS) + "\n", encoding="utf-8")
    assert main(["eval", project, "smoke", f"eval.own={tmp_path / 'own.jsonl'}"]) == 2
    message = capsys.readouterr().err.strip()
    assert "\n" not in message
    judges = section(project).judges
    assert all(layout.value in message for layout in judges)
    assert f"{project} judges" in message
    assert judges or "no data of your own" in message


@pytest.mark.parametrize("project", PROJECTS)
def test_the_settings_of_a_layout_are_of_the_config_and_hold_the_file(project):
    cfg = load(config_class(project), project, "smoke")
    for layout, judge in section(project).judges.items():
        for key in judge.settings:
            node: object = cfg
            for name in key.split("."):
                assert hasattr(node, name) or isinstance(node, dict), f"{layout}: {key}"
                node = node.get(name) if isinstance(node, dict) else getattr(node, name)
        assert not judge.settings or OWN in repr(judge.settings)
        assert judge.settings or not judge.baselines  # they would read other data


def test_typed_settings_come_before_those_of_the_file(tmp_path):
    file = tmp_path / "pairs.csv"
    file.write_text("a,b,score\nx,y,1\nx,z,2\n", encoding="utf-8")
    schema, words = config_class("simcse"), [f"eval.own={file}"]
    cfg = load(schema, "simcse", "mini", words)
    assert (cfg.eval.sets, cfg.eval.transfer) == ([str(file)], [])
    assert settings_of_own(cfg, "simcse")["eval.sets"] == [str(file)]
    cfg = load(schema, "simcse", "mini", [*words, "eval.transfer=[MR]"])
    assert (cfg.eval.sets, cfg.eval.transfer) == ([str(file)], ["MR"])


def test_the_working_folder_comes_before_the_data_root(tmp_path, monkeypatch):
    here, below = tmp_path / "here", tmp_path / "data"
    for folder, score in ((here, 1), (below, 2)):
        folder.mkdir()
        (folder / "p.csv").write_text(f"a,b,score\nx,y,{score}\nx,z,3\n", encoding="utf-8")
    monkeypatch.chdir(here)
    words = ["eval.own=p.csv", f"data.root={below}"]
    schema = config_class("simcse")
    assert load(schema, "simcse", "mini", words).eval.sets == [str(here / "p.csv")]
    (here / "p.csv").unlink()
    assert load(schema, "simcse", "mini", words).eval.sets == [str(below / "p.csv")]
    (below / "p.csv").unlink()
    with pytest.raises(UserError, match=r"eval\.own=p\.csv does not exist, here or below"):
        load(schema, "simcse", "mini", words)


def test_a_config_whose_model_cannot_judge_a_layout_is_refused(tmp_path):
    (tmp_path / "own.jsonl").write_text('{"audio": "a.wav", "text": "a"}\n', encoding="utf-8")
    with pytest.raises(UserError, match=r"cwcl/smoke has no model that can judge a manifest"):
        prepare("cwcl", "smoke", [f"eval.own={tmp_path / 'own.jsonl'}"])
    _, experiment = prepare("cwcl", "smoke_speech", [f"eval.own={tmp_path / 'own.jsonl'}"])
    assert Layout.RECORDINGS in experiment.judges


@pytest.mark.parametrize("verb", ["train", "export"])
def test_only_eval_takes_it(verb, capsys):
    assert main([verb, "simcse", "smoke", "eval.own=pairs.csv"]) == 2
    assert "make eval PROJECT=simcse RUN=latest eval.own=pairs.csv" in capsys.readouterr().err


def test_two_files_of_one_name_are_refused_before_anything_is_read():
    with pytest.raises(UserError, match=r"'a/p\.csv' and 'b/p\.csv' would both be called 'p'"):
        load(config_class("simcse"), "simcse", "mini", ["eval.sets=[a/p.csv,stsb-test,b/p.csv]"])


@pytest.mark.slow
def test_ckpt_takes_a_run_and_an_export_brings_its_settings(tmp_path):
    """The run has eval.sets of its own, which give way; attention and config are the export's."""
    file = tmp_path / "own.csv"
    file.write_text("a,b,score\nred,blue,1\nred,red,2\ngreen,blue,3\n", encoding="utf-8")
    words = [f"runs_dir={tmp_path / 'runs'}"]
    trained_by = [
        *words,
        "model.attention=eager",
        "eval.sets=[stsb-test]",
        "tracking.wandb=disabled",
    ]
    run = train("simcse", "smoke", trained_by)
    export = trained.export("simcse", "smoke", words, str(run), None)
    own = [*words, f"eval.own={file}"]
    scores = []
    for path in (run, export):
        folder, metrics = trained.evaluate("simcse", None, own, None, str(path))
        assert folder.is_relative_to(tmp_path / "runs" / "simcse" / "smoke")
        assert "stsb_test_spearman" not in metrics
        scores.append(metrics["own_spearman"])
    assert scores[0] == pytest.approx(scores[1])
    settings = json.loads((folder / trained.EVALUATION).read_text("utf-8"))["overrides"]
    assert "model.attention=eager" in settings
    assert "eval.sets=[stsb-test]" not in settings
