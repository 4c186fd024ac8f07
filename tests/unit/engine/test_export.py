"""Where exports go, what they say of themselves, and what they never touch."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from common.config import UserError
from common.engine import run, trained, workspace
from common.engine.experiment import Requirement
from common.export.files import write_json
from common.export.open_clip import final
from common.models import ABOUT, about
from tests.toy.command import use_toy


@pytest.fixture
def weights(tmp_path, monkeypatch) -> Path:
    """A checkpoint of the toy, in a folder of the user's own."""
    use_toy(monkeypatch)
    module = run.prepare("toy", "smoke", [])[1].plan().module()
    torch.save({"state_dict": module.state_dict()}, tmp_path / "a.ckpt")
    return tmp_path / "a.ckpt"


def export(path: Path, *words: str, config: str = "smoke") -> Path:
    return trained.export("toy", config, list(words), None, str(path))


def test_a_checkpoint_is_exported_beside_it_under_its_own_name(weights):
    """Any ``export`` there was deleted, be it of another checkpoint or of no export at all."""
    (weights.parent / "export").mkdir()
    (weights.parent / "export/notes.txt").write_text("mine")
    other = shutil.copy(weights, weights.parent / "b.ckpt")
    folders = [export(p, "model.dropout=0.3", "tracking.wandb=disabled") for p in (weights, other)]
    assert [f.name for f in folders] == ["a-export", "b-export"]
    assert (weights.parent / "export/notes.txt").read_text() == "mine"
    assert json.loads((folders[0] / ABOUT).read_text())["source"] == str(weights)
    assert about(folders[0]).overrides == ("model.dropout=0.3",)
    assert export(weights) == folders[0]  # an export of ours is replaced
    assert not list(weights.parent.glob("*.tmp"))


@pytest.mark.parametrize(
    ("name", "present", "refused"),
    [
        ("weights: bert-base-uncased", False, True),
        ("weights: bert-base-uncased", True, False),
        ("weights: open_clip:ViT-B-32/openai", False, False),  # all that it needs is in the library
        ("data: NLI", False, False),
    ],
)
def test_a_run_whose_tokenizer_is_not_here_is_not_opened_with_another(
    weights, monkeypatch, name, present, refused
):
    """A plan builds a stand-in for absent weights, whose sizes fit and whose tokenizer is made
    up."""
    experiment = run.prepare("toy", "smoke", [])[1]
    needs = Requirement(name, "there", present, "download it once")
    planned = replace(experiment, plan=lambda: replace(experiment.plan(), requirements=(needs,)))
    if refused:
        with pytest.raises(
            UserError, match=r"with the files of bert-base-uncased, .* download it once \(there\)"
        ):
            trained.load_module(planned, weights)
    else:
        assert trained.load_module(planned, weights) is not None


def test_what_is_no_export_is_in_the_way(weights, monkeypatch):
    """Refused before the model is loaded, as is a folder where nothing can be written."""
    monkeypatch.setattr(trained, "load_module", None)
    notes = weights.parent / "a-export/notes.txt"
    notes.parent.mkdir()
    notes.write_text("mine")
    with pytest.raises(UserError, match="a-export is in the way"):
        export(weights)
    assert notes.read_text() == "mine"
    shutil.rmtree(notes.parent)
    monkeypatch.setattr(workspace.os, "access", lambda *_: False)
    with pytest.raises(UserError, match="not writable; .* or copy .*a.ckpt to a folder"):
        export(weights)
    with pytest.raises(UserError, match="no checkpoint or exported folder at nowhere/a.ckpt"):
        export(Path("nowhere/a.ckpt"))


def test_an_export_of_an_export_keeps_its_config_and_itself(weights, monkeypatch):
    """It replaced its source, and the config was that of the command, which is mini by default."""
    first = export(weights, "model.dropout=0.3")
    before = (first / "model.safetensors").read_bytes()
    second = export(first, "data.batch_size=8", config="mini")  # the toy has no such config
    assert second == weights.parent / "a-export-export"
    assert (second / "model.safetensors").read_bytes() == before
    assert (first / "model.safetensors").read_bytes() == before
    known = about(second)
    assert (known.config, known.overrides) == ("smoke", ("model.dropout=0.3", "data.batch_size=8"))
    write_json(first / ABOUT, {"project": "dcl", "config": "smoke", "version": "0"})
    with pytest.raises(UserError, match="is an export of dcl, not of toy"):
        export(first)


def test_files_that_name_their_folder_name_the_place_where_it_lies(weights, monkeypatch):
    """open_clip finds some image towers by an absolute path, which it can only guess for
    ``export``.
    """
    prepare = run.prepare

    def writes_paths(*words):
        cfg, experiment = prepare(*words)
        object.__setattr__(
            experiment,
            "export",
            lambda module, folder: write_json(
                folder / "sub/x.json", {"trunk": f"local-dir:{final(folder) / 'trunk'}"}
            ),
        )
        return cfg, experiment

    monkeypatch.setattr(trained, "prepare", writes_paths)
    folder = export(weights)
    assert json.loads((folder / "sub/x.json").read_text()) == {"trunk": f"local-dir:{folder}/trunk"}
