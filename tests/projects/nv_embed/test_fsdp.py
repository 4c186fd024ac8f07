"""FSDP through the engine, on two CPU processes."""

import json
import os

import pytest
import torch
from lightning.pytorch.strategies import FSDPStrategy
from torch.distributed.fsdp import FullyShardedDataParallel

from common.config import UserError
from common.distributed import rank
from common.engine import checkpoint as ckpt
from common.engine import trainer as engine
from common.engine.run import train
from projects.nv_embed.module import NvEmbed
from tests.projects.nv_embed.conftest import config

WORDS = ["tracking.wandb=disabled", "eval.tasks=[retrieval]", "eval.primary=[retrieval]",
         "model.lora_dropout=0", "optim.name=sgd", "optim.lr=0.5", "method.stage_2_lr=0.5",
         "optim.weight_decay=0.1", "trainer.gradient_clip_val=1.0"]  # fmt: skip


class CpuFSDP(FSDPStrategy):
    """Lightning refuses the class itself without a GPU; torch shards on the CPU as well."""


def train_as_rank(folder: str, words: list[str]) -> tuple[str, int]:
    """Runs on every rank of the pool, as torchrun would start it: run folder, sharded modules seen."""
    place = {"RANK": rank(), "LOCAL_RANK": rank(), "WORLD_SIZE": 2, "LOCAL_WORLD_SIZE": 2}
    external = {"TORCHELASTIC_RUN_ID": "test", "MASTER_ADDR": "localhost", "MASTER_PORT": 1}
    os.environ.update({name: str(value) for name, value in {**place, **external}.items()})
    two = ["trainer.accelerator=cpu", "trainer.devices=2", "trainer.strategy=fsdp"]
    plain, losses, seen = engine.FSDPStrategy, NvEmbed.losses, []

    def watched(self, batch):
        root = self.trainer.strategy.model
        seen.append(sum(isinstance(m, FullyShardedDataParallel) for m in root.modules()))
        return losses(self, batch)

    engine.FSDPStrategy, NvEmbed.losses = CpuFSDP, watched
    try:
        run = train("nv_embed", "smoke", [f"runs_dir={folder}", *two, *WORDS, *words])
        return str(run), max(seen, default=0)
    finally:
        engine.FSDPStrategy, NvEmbed.losses = plain, losses
        for name in (*place, *external):
            os.environ.pop(name)


def weights(run, stage):
    path = ckpt.finished(run / "checkpoints" / stage)
    assert path is not None
    return ckpt.load(path)["state_dict"]


@pytest.fixture(scope="module")
def one_process(tmp_path_factory):
    folder = tmp_path_factory.mktemp("one")
    return train("nv_embed", "smoke", [f"runs_dir={folder}", "run_id=one", *WORDS])


def test_two_sharded_processes_equal_one(one_process, tmp_path, pool):
    """Both stages, 2 x B/2: weights, gradient norm, weight decay; then evaluation of whole weights."""
    found = pool(2).run(train_as_rank, folder=str(tmp_path), words=["data.batch_size=4"])
    (first, wrapped), (second, _) = found
    assert first == second
    assert wrapped == 3  # two blocks and the rest
    (run,) = (p.parent for p in tmp_path.glob("nv_embed/smoke/*/meta.json"))
    for stage in ("retrieval", "blended"):
        wanted, sharded = weights(one_process, stage), weights(run, stage)
        assert list(sharded) == list(wanted)
        for name, value in wanted.items():
            torch.testing.assert_close(sharded[name], value, rtol=1e-4, atol=1e-5, msg=name)
    moved = weights(one_process, "retrieval"), weights(one_process, "blended")
    name = "encoder.pooler.layer.latents"
    assert not torch.allclose(moved[0][name], moved[1][name], rtol=1e-4, atol=1e-5)
    curves = [(path / "metrics.csv").read_text() for path in (one_process, run)]
    norms = [[float(r.split(",")[-1]) for r in c.splitlines() if ",train/grad_norm," in r] for c in curves]  # fmt: skip
    assert norms[1] == pytest.approx(norms[0], rel=1e-3)
    scores = [json.loads((path / "metrics.json").read_text()) for path in (one_process, run)]
    key = "retrieval_ndcg_at_10"
    assert scores[1][key] == pytest.approx(scores[0][key], abs=1e-3)


def test_a_sharded_run_goes_on_where_it_was_stopped(tmp_path, pool):
    """From its own checkpoint in the second stage, optimiser state included."""
    words = ["data.batch_size=4", "optim.name=adamw", "optim.lr=1e-3"]
    pool(2).run(train_as_rank, folder=str(tmp_path), words=[*words, "run_id=r"])
    run = tmp_path / "nv_embed/smoke/r"
    whole = weights(run, "blended")
    (run / "checkpoints/blended/finished.json").unlink()
    last = sorted((run / "checkpoints/blended").glob("step-*.ckpt"))
    last[-1].unlink()
    pool(2).run(train_as_rank, folder=str(tmp_path), words=[*words, "resume=r"])
    again = weights(run, "blended")
    for name, value in whole.items():
        torch.testing.assert_close(again[name], value, rtol=1e-6, atol=1e-7, msg=name)


def test_averaged_weights_are_refused():
    cfg = config("trainer.strategy=fsdp", "trainer.ema_decay=0.9")
    with pytest.raises(UserError, match=r"trainer\.ema_decay needs whole weights"):
        engine._strategy(cfg.trainer, set())
