"""FSDP through the engine, on two CPU processes."""

import json

import pytest
import torch

from common.config import UserError
from common.engine import checkpoint as ckpt
from common.engine import trainer as engine
from common.engine.run import train
from tests.figures import unrendered
from tests.projects.nv_embed.conftest import config
from tests.projects.nv_embed.workers import SHARDED, train_sharded


def weights(run, stage):
    path = ckpt.finished(run / "checkpoints" / stage)
    assert path is not None
    return ckpt.load(path)["state_dict"]


@pytest.fixture(scope="module")
def one_process(tmp_path_factory):
    folder = tmp_path_factory.mktemp("one")
    with unrendered():
        return train("nv_embed", "smoke", [f"runs_dir={folder}", "run_id=one", *SHARDED])


@pytest.fixture(scope="module")
def sharded(tmp_path_factory, pool):
    """Folder of a run of two sharded processes."""
    folder = tmp_path_factory.mktemp("two")
    actual = pool(2).run(train_sharded, folder=str(folder), words=["data.batch_size=4"])
    (first, wrapped), (second, _) = actual
    assert first == second
    assert wrapped == 3  # two blocks and the rest
    (run,) = (p.parent for p in folder.glob("nv_embed/smoke/*/meta.json"))
    return run


@pytest.mark.slow
def test_two_sharded_processes_equal_one(one_process, sharded):
    """Both stages, 2 x B/2: weights, gradient norm, weight decay; then evaluation of whole weights.

    Checklist 5: in-batch negatives of the first stage cross ranks, or its weights would differ.
    """
    run = sharded
    for stage in ("retrieval", "blended"):
        expected, sharded = weights(one_process, stage), weights(run, stage)
        assert list(sharded) == list(expected)
        for name, value in expected.items():
            torch.testing.assert_close(sharded[name], value, rtol=1e-4, atol=1e-5, msg=name)
    moved = weights(one_process, "retrieval"), weights(one_process, "blended")
    name = "encoder.pooler.layer.latents"
    assert not torch.allclose(moved[0][name], moved[1][name], rtol=1e-4, atol=1e-5)
    curves = [(path / "metrics.csv").read_text() for path in (one_process, run)]
    norms = [
        [float(r.split(",")[-1]) for r in c.splitlines() if ",train/grad_norm," in r]
        for c in curves
    ]
    assert norms[1] == pytest.approx(norms[0], rel=1e-3)
    scores = [json.loads((path / "metrics.json").read_text()) for path in (one_process, run)]
    key = "retrieval_ndcg_at_10"
    assert scores[1][key] == pytest.approx(scores[0][key], abs=1e-3)


def test_averaged_weights_are_refused():
    cfg = config("trainer.strategy=fsdp", "trainer.ema_decay=0.9")
    with pytest.raises(UserError, match=r"trainer\.ema_decay needs whole weights"):
        engine._strategy(cfg.trainer)
