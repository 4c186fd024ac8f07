"""FSDP2 against DDP on two processes: one project of every family trains the same weights;
resume, on other numbers of processes too."""

import csv
import json
import shutil
import threading

import pytest
import torch
from torch.distributed.checkpoint.filesystem import FileSystemWriter

from common.engine import checkpoint as ckpt
from tests.distributed.launched import train_on_ranks
from tests.distributed.pool import Pool
from tests.interrupted import die

PROJECTS = {  # of each family one, at its smoke config
    "images": ("dcl",),
    "image_text": ("laclip",),
    "retrieval": ("contriever", "data.batch_size=4", "finetune.batch_size=2"),
    "sentences": ("simcse",),
    "classification": ("peft_augmentation",),
    "speech": ("coconut",),
    "lidar": ("trend",),
}
WORDS = ["trainer.max_steps=3", "optim.eps=0.1", "trainer.gradient_clip_val=1.0"]  # eps: else AdamW
# turns rounding of small gradients into whole steps


def run_in(folder):
    (run,) = (p.parent for p in folder.glob("*/smoke/*/meta.json"))
    return run


def weights(run):
    stage, *_ = sorted((run / "checkpoints").iterdir())
    path = ckpt.finished(stage)
    assert path is not None
    return ckpt.load(path)["state_dict"]


QUICK = "classification"


@pytest.mark.parametrize(
    "family", [f if f == QUICK else pytest.param(f, marks=pytest.mark.slow) for f in PROJECTS]
)
@pytest.mark.slow
def test_shards_train_the_weights_of_copies(family, tmp_path, pool):
    slug, *own = PROJECTS[family]
    for strategy in ("ddp", "fsdp"):
        words = [f"runs_dir={tmp_path / strategy}", f"trainer.strategy={strategy}", *WORDS, *own]
        shares = pool(2).run(train_on_ranks, slug=slug, words=words)
        assert all((share < 0.75) == (strategy == "fsdp") for share in shares)
    copies, shards = (weights(run_in(tmp_path / strategy)) for strategy in ("ddp", "fsdp"))
    assert list(copies) == list(shards)
    for name, value in copies.items():
        torch.testing.assert_close(
            shards[name], value, rtol=1e-4, atol=1e-5, equal_nan=True, msg=name
        )


@pytest.mark.slow
def test_a_sharded_run_goes_on_where_it_was_stopped(tmp_path, pool):
    """Trained weights beside frozen ones; AdamW's state comes from the checkpoint."""
    words = ["trainer.strategy=fsdp", *WORDS, "trainer.checkpoint_every_n_steps=1"]
    words += ["trainer.keep_checkpoints=3"]

    def train(folder, *more):
        pool(2).run(
            train_on_ranks, slug="peft_augmentation", words=[f"runs_dir={folder}", *words, *more]
        )
        return run_in(folder)

    whole = train(tmp_path / "whole")
    shutil.copytree(tmp_path / "whole", tmp_path / "part")
    run = run_in(tmp_path / "part")
    (stage,) = (run / "checkpoints").iterdir()
    (stage / "finished.json").unlink()
    first, *later = sorted(stage.glob("step-*.ckpt"))
    assert len(later) == 2
    for path in later:
        path.unlink()
    start = ckpt.load(first)["state_dict"]
    assert train(tmp_path / "part", f"resume={run.name}") == run
    again, moved = weights(run), 0
    for name, value in weights(whole).items():
        torch.testing.assert_close(again[name], value, rtol=1e-6, atol=1e-7, msg=name)
        moved += not torch.allclose(start[name], value, rtol=1e-5, atol=1e-6)
    assert moved


def cut_back(run, step):
    """Make a finished run one that was stopped after a step."""
    (stage,) = (run / "checkpoints").iterdir()
    (stage / "finished.json").unlink()
    for path in stage.glob("step-*.ckpt"):
        if ckpt.step_of(path) > step:
            ckpt.remove(path)
    ckpt.load(stage / f"step-{step:08d}.ckpt")


def losses(run):
    rows = csv.DictReader((run / "metrics.csv").open())
    return [float(row["value"]) for row in rows if row["name"] == "train/loss"]


@pytest.mark.parametrize("strategy", ["ddp", "fsdp", "fsdp trainer.shard_checkpoints=true"])
@pytest.mark.slow
def test_a_run_goes_on_with_other_numbers_of_processes(strategy, tmp_path, pool):
    """Two, then four, then one: the same global batches, so the same losses and weights."""
    words = [*f"trainer.strategy={strategy}".split(), "trainer.max_steps=6", "optim.eps=0.1"]
    words += ["trainer.checkpoint_every_n_steps=1", "trainer.keep_checkpoints=6"]

    def train(folder, ranks, *more):
        pool(ranks).run(train_on_ranks, slug="laclip", words=[f"runs_dir={folder}", *words, *more])
        return run_in(folder)

    whole = train(tmp_path / "whole", 2)
    shutil.copytree(tmp_path / "whole", tmp_path / "part")
    run = run_in(tmp_path / "part")
    for ranks, step in ((4, 2), (1, 4)):
        cut_back(run, step)
        assert train(tmp_path / "part", ranks, f"resume={run.name}") == run
        settings = json.loads((run / "meta.json").read_text())
        assert settings["world_size"] == ranks
        assert settings["global_batch_size"] == 32
    assert losses(run) == pytest.approx(losses(whole), rel=1e-5)
    for name, value in weights(whole).items():
        torch.testing.assert_close(weights(run)[name], value, rtol=1e-4, atol=1e-5, msg=name)


def train_and_die(words: list[str], at: int) -> None:
    """The first rank dies by SIGKILL when all shards of a step are written, and their list is
    not; training has gone on meanwhile."""
    step, finish = threading.Event(), FileSystemWriter.finish
    after = ckpt.RunCheckpoint.on_train_batch_end

    def counted(self, trainer, module, *more):
        if trainer.global_step > at:
            step.set()
        after(self, trainer, module, *more)

    def finished(self, *more, **options):
        if str(self.path).endswith(f"step-{at:08d}.ckpt.tmp"):
            assert step.wait(100)
            die()
        return finish(self, *more, **options)

    ckpt.RunCheckpoint.on_train_batch_end, FileSystemWriter.finish = counted, finished
    train_on_ranks("laclip", words)


@pytest.mark.slow
def test_a_kill_while_shards_are_written_leaves_the_checkpoint_before(tmp_path, pool):
    words = ["trainer.strategy=fsdp", "trainer.max_steps=5", "trainer.checkpoint_every_n_steps=1"]
    pool(2).run(train_on_ranks, slug="laclip", words=[f"runs_dir={tmp_path / 'whole'}", *words])
    words += [f"runs_dir={tmp_path / 'part'}", "trainer.shard_checkpoints=true"]
    with pytest.raises(AssertionError, match="rank 0 died|closed by peer"):
        Pool(2).run(train_and_die, words=words, at=3)
    run = run_in(tmp_path / "part")
    (stage,) = (run / "checkpoints").iterdir()
    assert (stage / "step-00000003.ckpt.tmp").is_dir()
    start, damaged = ckpt.newest_intact(stage)
    assert (start, damaged) == (stage / "step-00000002.ckpt", {})
    pool(2).run(train_on_ranks, slug="laclip", words=[*words, f"resume={run.name}"])
    assert sorted(p.name for p in stage.glob("step*")) == [f"step-0000000{i}.ckpt" for i in (4, 5)]
    for name, value in weights(run_in(tmp_path / "whole")).items():
        assert torch.equal(weights(run)[name], value), name
