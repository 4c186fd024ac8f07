"""What a machine, a run or a folder cannot do is refused before anything is built."""

import errno
import json
import os
import shutil
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from common import config
from common.config import TrainerConfig, UserError, load, most_processes
from common.engine import checkpoint as ckpt
from common.engine.report.contents import _gallery
from common.engine.trained import _whole_or_none, load_module
from common.engine.trainer import check_validation, check_warmup
from common.models import ABOUT, check_unchanged, checksums
from projects.laclip.config import Config

TOO_MANY = most_processes() + 1


@pytest.mark.parametrize(
    "word", [f"data.num_workers={TOO_MANY}", f"trainer.num_threads={TOO_MANY}"]
)
def test_counts_far_beyond_the_machine_are_refused(command, word):
    code, said, folder = command("train", "laclip", "smoke", word)
    assert (code, folder) == (2, False)
    assert word in said
    assert f"give at most {TOO_MANY - 1}" in said


def test_more_processes_than_cores_and_memory_bear_are_refused(command, monkeypatch):
    code, said, folder = command(
        "train", "laclip", "smoke", f"trainer.devices={TOO_MANY}", "trainer.accelerator=cpu"
    )
    assert (code, folder) == (2, False)
    assert f"trainer.devices={TOO_MANY}: this machine has the cores and the memory for" in said


def test_jobs_beyond_the_machine_are_refused(command):
    code, said, _ = command("compare", "laclip", "--jobs", str(TOO_MANY), "--plan")
    assert code == 2
    assert f"JOBS={TOO_MANY}: give 1 to {TOO_MANY - 1}" in said


@pytest.mark.parametrize(
    ("variable", "value", "said"),
    [
        ("WANDB_MODE", "nonsense", "mode: Input should be 'online'"),
        ("WANDB_BASE_URL", "not a url", "base_url: Input should be a valid URL"),
        ("WANDB_INIT_TIMEOUT", "soon", "init_timeout"),
    ],
)
def test_what_wandb_would_refuse_is_refused_at_once(command, monkeypatch, variable, value, said):
    monkeypatch.setenv(variable, value)
    code, err, folder = command("train", "laclip", "smoke", "tracking.wandb=offline")
    assert (code, folder) == (2, False)
    assert said in err
    assert "tracking.wandb=disabled" in err


def test_a_brace_at_the_beginning_of_a_value_is_a_pattern():
    cfg = load(Config, "laclip", "smoke", ["data.shards={00000..00001}.tar"])
    assert cfg.data.shards == "{00000..00001}.tar"
    with pytest.raises(UserError, match="cannot read the override "):
        load(Config, "laclip", "smoke", ["data.num_workers={0..1"])


class Planned:
    """A stage of which only the warm-up is looked at."""

    name = "fit"

    def __init__(self, **optim):
        words = [f"optim.{name}={value}" for name, value in optim.items()]
        self.module = nn.Module()
        self.module.optim = load(Config, "laclip", "smoke", words).optim


def test_a_warm_up_that_never_reaches_the_rate_is_refused_and_a_long_one_is_reported(recwarn):
    check_warmup(Planned(warmup_steps=3), 3, 1)
    assert not recwarn.list
    with pytest.raises(UserError, match="ends after 3 steps, in its warm-up of 1000000"):
        check_warmup(Planned(warmup_steps=1_000_000), 3, 1)
    with pytest.raises(UserError, match="optim.warmup_epochs"):
        check_warmup(Planned(warmup_epochs=1000), 3, 1)
    with pytest.warns(UserWarning, match="ends after 3 steps, in its warm-up of 9"):
        check_warmup(Planned(warmup_steps=9), 3, 1)


# -- files that are no files -----------------------------------------------------------------------


def test_a_checkpoint_that_is_a_pipe_or_a_device_is_refused(tmp_path):
    """/dev/zero was read without end."""
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path / "pipe", Path("/dev/zero")):
        with pytest.raises(UserError, match="give a regular file"):
            load_module(None, path)
        with pytest.raises(UserError, match="give a regular file"):
            ckpt.load(path)


def test_a_config_in_another_encoding_is_refused(tmp_path, monkeypatch):
    (tmp_path / "laclip").mkdir()
    (tmp_path / "laclip/own.yaml").write_bytes("# caf\u00e9\nseed: 1".encode("latin-1"))
    monkeypatch.setattr(config, "CONFIG_DIR", tmp_path)
    with pytest.raises(UserError, match=r"own\.yaml is not valid YAML in UTF-8"):
        load(Config, "laclip", "own")


@pytest.mark.parametrize(("rows", "every"), [(3, 2), (2, None)])
def test_more_processes_than_validation_rows_are_refused(rows, every):
    """The run hung at its first validation."""
    stage = SimpleNamespace(name="fit", data=SimpleNamespace(val_sets={"dev": [0] * rows}))
    check_validation(TrainerConfig(devices=3, val_every_n_steps=every), stage)
    with pytest.raises(UserError, match=r"'dev' of stage 'fit' has \d rows for 4 processes"):
        check_validation(TrainerConfig(devices=4, val_every_n_steps=2), stage)


# -- weights and exports ---------------------------------------------------------------------------


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_weights_that_are_not_finite_are_refused(tmp_path, value):
    module = nn.Linear(2, 2)
    ckpt.write({"state_dict": module.state_dict()}, tmp_path / "a.ckpt")
    ckpt.load_weights(module, tmp_path / "a.ckpt")
    with torch.no_grad():
        module.bias[1] = value
    ckpt.write({"state_dict": module.state_dict()}, tmp_path / "a.ckpt")
    with pytest.raises(UserError, match=r"a\.ckpt: parameter 'bias' is nan or infinite"):
        ckpt.load_weights(nn.Linear(2, 2), tmp_path / "a.ckpt")


@pytest.fixture
def exported(tmp_path):
    (tmp_path / "sub").mkdir()
    for name in ("tokenizer.json", "config.json", "sub/model.safetensors"):
        (tmp_path / name).write_text(name)
    about = {"project": "p", "config": "c", "version": "v", "files": checksums(tmp_path)}
    (tmp_path / ABOUT).write_text(json.dumps(about))
    return tmp_path


@pytest.mark.parametrize("name", ["tokenizer.json", "config.json", "sub/model.safetensors"])
def test_a_file_that_was_swapped_in_an_export_is_named(exported, name):
    """A tokenizer of another model moved STS from 0.72 to 0.75, without a word."""
    check_unchanged(exported)
    (exported / name).write_text("of another model")
    with pytest.raises(UserError, match=f"{name} is not the file that was exported"):
        check_unchanged(exported)
    (exported / name).unlink()
    with pytest.raises(UserError, match=f"{name} is missing"):
        check_unchanged(exported)


def test_an_export_of_an_earlier_version_opens_and_a_moved_one_too(exported, tmp_path_factory):
    moved = tmp_path_factory.mktemp("new") / "model"
    shutil.copytree(exported, moved)
    check_unchanged(moved)
    (moved / ABOUT).write_text('{"project": "p", "config": "c", "version": "0.1.0"}')
    (moved / "config.json").write_text("changed")
    check_unchanged(moved)


def test_what_a_full_disk_cut_off_does_not_stay(tmp_path):
    (tmp_path / "export.tmp").mkdir()
    (tmp_path / "export.tmp/old").touch()

    def write(folder):
        assert list(folder.iterdir()) == []
        (folder / "half").touch()
        raise OSError(errno.ENOSPC, "No space left on device")

    with (
        pytest.raises(OSError, match="No space"),
        _whole_or_none(tmp_path / "export.tmp") as folder,
    ):
        write(folder)
    assert list(tmp_path.iterdir()) == []


# -- the report ------------------------------------------------------------------------------------


def gallery(run, image):
    path = run / "gallery/neighbours/gallery.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    row = {"query": {"image": image}, "results": [{"item": {"text": "a"}, "score": 1.0}]}
    path.write_text(json.dumps([row]))
    return path


def test_the_report_shows_images_of_the_run_and_no_other_file(tmp_path):
    """A gallery that names /etc/passwd published it."""
    run, secret = tmp_path / "run", tmp_path / "secret.txt"
    secret.write_text("secret")
    path = gallery(run, "own.png")
    (path.parent / "own.png").write_bytes(b"png")
    assert "cG5n" in str(_gallery(path, "a", run))
    (path.parent / "link.png").symlink_to(secret)
    os.mkfifo(path.parent / "pipe.png")
    for image in (str(secret), "../../../secret.txt", "link.png", "pipe.png", "missing.png"):
        with pytest.raises(UserError, match="is not an image inside the run"):
            _gallery(gallery(run, image), "a", run)


@pytest.mark.parametrize("content", ["[]]", '["row"]', '[{"query": 5}]', "5", '[{"results": []}]'])
def test_a_damaged_gallery_is_one_sentence(tmp_path, content):
    path = gallery(tmp_path / "run", "x.png")
    path.write_text(content)
    with pytest.raises(UserError, match=r"gallery\.json"):
        _gallery(path, "a", tmp_path / "run")
