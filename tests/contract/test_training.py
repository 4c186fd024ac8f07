"""Every project trains, exports, reloads and is evaluated from its export, with equal outputs."""

import math
import re

import pytest
import torch

from common.engine import checkpoint as ckpt
from common.engine.run import prepare
from common.engine.trained import evaluate, module_of_run
from tests import cards
from tests.contract.projects import PROJECTS, project_param
from tests.smoke import losses_of, metrics_of

TIMED = re.compile("seconds|speedup|break_even|per_second")
PRINTED = {  # by the examples of a card, whatever a model has learnt
    "cocosoda": "lines.py:1",
    "mofi": "lark",
    "vacancysbert": "technical director",
    "wikides": "town in Algeria",
}
# the head is not a part of the export, and the evaluation has a new one in its place
NOT_EXPORTED = {("whitenedcse", "head_stsb_test_spearman")}


@pytest.mark.parametrize("project", PROJECTS)
def test_training_moves_the_loss_and_measures(project, smoke_runs):
    path = smoke_runs(project)
    for losses in losses_of(path).values():
        assert all(map(math.isfinite, losses.values()))
        assert len(set(losses.values())) == len(losses) > 1
    assert metrics_of(path)


@pytest.mark.parametrize("project", PROJECTS)
def test_an_export_gives_the_outputs_of_its_run(project, smoke_runs):
    path, exported = smoke_runs(project), smoke_runs.export(project)
    _, experiment = prepare(project, "smoke", [f"runs_dir={path.parents[2]}"])
    with torch.inference_mode():
        trained = experiment.embed(module_of_run(experiment, path).eval())
        reloaded = experiment.embed(experiment.load_export(exported).eval())
    assert trained.keys() == reloaded.keys()
    for name, value in trained.items():
        torch.testing.assert_close(reloaded[name], value, rtol=0, atol=1e-5, msg=name)


@pytest.mark.parametrize("project", PROJECTS)
def test_no_two_files_differ_in_case_alone(project, smoke_runs):
    """One would replace the other where a file system ignores case."""
    smoke_runs.export(project)
    names = [str(path).lower() for path in smoke_runs(project).rglob("*")]
    assert len(set(names)) == len(names)


@pytest.mark.parametrize("project", map(project_param, PROJECTS))
def test_an_export_is_measured_as_its_run(project, smoke_runs, tmp_path):
    """What both measure is equal; an export leaves out what it has no part for."""
    trained = metrics_of(smoke_runs(project))
    exported = str(smoke_runs.export(project))
    _, measured = evaluate(project, "smoke", [f"runs_dir={tmp_path}"], None, exported)
    both = {
        name
        for name in trained.keys() & measured.keys()
        if not TIMED.search(name) and (project, name) not in NOT_EXPORTED
    }
    assert both
    for name in both:
        assert measured[name] == pytest.approx(trained[name], rel=1e-3, abs=1e-5, nan_ok=True), name


@pytest.mark.parametrize("project", PROJECTS)
def test_examples_of_the_card_run_on_the_export(project, smoke_runs, tmp_path, monkeypatch, capsys):
    exported = smoke_runs.export(project)
    monkeypatch.chdir(tmp_path)
    cards.at_hand(tmp_path)
    examples = cards.snippets(project)
    assert examples
    for code in examples:
        cards.run_snippet(code, project, exported)
    assert PRINTED.get(project, "") in capsys.readouterr().out


def test_every_example_of_a_card_is_run_somewhere():
    for (project, number), where in cards.ELSEWHERE.items():
        card = (cards.ROOT / "projects" / project / "README.md").read_text(encoding="utf-8")
        assert len(cards.BLOCK.findall(card)) > number
        path = where.partition(":")[0]
        if path != "nowhere":
            assert "python" in (cards.ROOT / path).read_text(encoding="utf-8")


def test_an_example_that_names_another_folder_is_not_taken(tmp_path):
    with pytest.raises(AssertionError, match="runs/dcl"):
        cards.run_snippet("load('somewhere')", "dcl", tmp_path)
    with pytest.raises(AssertionError):
        cards.run_snippet("load('runs/cacr/mini/<id>/export')", "dcl", tmp_path)


# project, stage -> parameters that this stage has no use for
STILL = {("video_qa", "pretrain"): "network.span_head."}


@pytest.mark.parametrize("project", PROJECTS)
def test_training_moves_every_trainable_parameter(project, smoke_runs, tmp_path):
    """Between the first and the last step of each stage, but for those of `STILL`."""
    path = smoke_runs(project)
    _, experiment = prepare(project, "smoke", [f"runs_dir={tmp_path}"])  # its stages are not fitted
    trained = {  # read before the next stage changes the module
        stage.name: [n for n, p in stage.module.named_parameters() if p.requires_grad]
        for stage in experiment.stages()
    }
    assert trained
    for stage, names in trained.items():
        first, *_, last = ckpt.saved_checkpoints(path / "checkpoints" / stage)
        before, after = (ckpt.load(p)["state_dict"] for p in (first, last))
        moving = [n for n in names if not n.startswith(STILL.get((project, stage), "-"))]
        assert moving
        still = [n for n in moving if n in before and torch.equal(before[n], after[n])]
        assert not still, f"{stage}: {still}"
