import pickle
import shutil
from types import SimpleNamespace

import pytest
import torch

from common.config import TrainerConfig, UserError
from common.engine import checkpoint as ckpt
from common.engine import sharded_files
from common.engine.trained import load_module
from tests.interrupted import flip

CONTENT = {"global_step": 3, "callbacks": {"note": "some words"}}


@pytest.fixture(scope="module")
def written(tmp_path_factory, two_ranks):
    folder = tmp_path_factory.mktemp("shards")
    two_ranks.run(write_twice, folder=folder)
    return folder


def write_twice(folder):
    """A file of one name replaces the other; what changes after the start is not written."""
    writer = sharded_files.ShardWriter()
    for value in (1.0, 2.0):
        weight = torch.full((3, 2), value)
        state = {"step": torch.tensor(7.0)}
        writer.start(
            {
                **CONTENT,
                "state_dict": {"weight": weight},
                "optimizer_states": [{"state": {"weight": state}, "param_groups": [{"lr": 0.1}]}],
            },
            folder / "best.ckpt",
        )
        weight.zero_()
        state["step"].zero_()
    writer.wait()
    assert (folder / "best.ckpt").is_dir()


@pytest.fixture
def folder(written, tmp_path):
    """A copy of the checkpoint."""
    shutil.copytree(written / "best.ckpt", tmp_path / "best.ckpt")
    return tmp_path / "best.ckpt"


def test_the_last_content_is_there_and_nothing_else(written):
    content = ckpt.load(written / "best.ckpt")
    assert torch.equal(content["state_dict"]["weight"], torch.full((3, 2), 2.0))
    assert {key: content[key] for key in CONTENT} == CONTENT
    assert [path.name for path in written.iterdir()] == ["best.ckpt"]
    (weight,) = ckpt.load(written / "best.ckpt", values=False)["state_dict"].values()
    assert (weight.shape, weight.is_meta) == ((3, 2), True)


def test_evaluation_and_export_take_a_folder_of_shards_for_a_checkpoint(folder):
    module = torch.nn.Linear(2, 3, bias=False)
    plan = SimpleNamespace(requirements=(), module=lambda: module)
    experiment = SimpleNamespace(plan=lambda: plan, load_export=pytest.fail)
    assert load_module(experiment, folder) is module
    assert torch.equal(module.weight, torch.full((3, 2), 2.0))


def test_damage_is_named(folder):
    assert ckpt.damage(folder) is None
    shard = max(folder.glob("*.distcp"), key=lambda path: path.stat().st_size)
    content = shard.read_bytes()
    start = content.index(torch.full((3, 2), 2.0).numpy().tobytes())
    shard.write_bytes(content[:start] + b"\1" + content[start + 1 :])
    assert ckpt.damage(folder) == "does not match its checksum"
    shard.write_bytes(content[:-100])
    assert ckpt.damage(folder) == "is cut off"
    shard.unlink()
    assert ckpt.damage(folder) == f"has no {shard.name}"
    flip(folder / ".metadata")
    with pytest.raises(ckpt.Damaged, match="cannot be read"):
        ckpt.load(folder)


class Attack:
    def __reduce__(self):
        return (print, ("run",))


def test_no_code_of_the_list_of_tensors_is_run(folder, capsys):
    (folder / ".metadata").write_bytes(pickle.dumps(Attack()))
    assert "builtins.print is no part of a checkpoint" in str(ckpt.damage(folder))
    assert capsys.readouterr().out == ""


def test_an_older_checkpoint_comes_back_if_its_successor_has_no_name(folder):
    former = folder.replace(folder.with_name("best.ckpt.former"))
    ckpt.bring_back(former)
    assert ckpt.damage(folder) is None
    shutil.copytree(folder, former)
    ckpt.bring_back(former)
    assert not former.exists()
    assert folder.is_dir()


def test_only_sharded_runs_read_and_write_shards(folder):
    with pytest.raises(UserError, match="resume the run with trainer.strategy=fsdp"):
        ckpt.WholeFiles().load_checkpoint(folder)
    with pytest.raises(ValueError, match="needs trainer.strategy=fsdp"):
        TrainerConfig(shard_checkpoints=True)


def fail(folder):
    writer = sharded_files.ShardWriter()
    (folder / "blocked").write_text("")
    writer.start({"state_dict": {"a": torch.zeros(1)}}, folder / "blocked/step-1.ckpt")
    with pytest.raises(UserError, match=r"cannot write .*step-1\.ckpt: Not a directory\. Earlier"):
        writer.wait()


def test_a_failed_write_is_reported_on_every_rank(tmp_path, two_ranks):
    two_ranks.run(fail, folder=tmp_path)
