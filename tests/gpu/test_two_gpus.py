"""Two CUDA devices train the weights that one trains: copies and shards, over NCCL."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch

from common.config import ROOT
from common.engine import checkpoint as ckpt

needs_two = pytest.mark.skipif(torch.cuda.device_count() < 2, reason="fewer than two CUDA devices")
pytestmark = pytest.mark.gpu
PAIRS = 16  # of a step, over all devices
WORDS = [
    "tracking.wandb=disabled",
    "trainer.gradient_clip_val=1.0",
    "run_id=r",
    "optim.lr=0.1",
    "optim.weight_decay=0",
]
# else AdamW turns rounding of small gradients into whole steps
WORDS += ["optim.eps=0.1"]


def weights(folder: Path, devices: int, strategy: str, steps: int = 3) -> dict[str, torch.Tensor]:
    """Train laclip by the command line, on so many GPUs of this machine."""
    runs = folder / f"{strategy}-{devices}-{steps}"
    own = [
        f"runs_dir={runs}",
        "trainer.accelerator=gpu",
        f"trainer.devices={devices}",
        f"trainer.strategy={strategy}",
        f"data.batch_size={PAIRS // devices}",
        f"trainer.max_steps={steps}",
    ]
    words = [sys.executable, "-m", "common.cli", "train", "laclip", "smoke", *WORDS, *own]
    done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, timeout=140)
    assert done.returncode == 0, done.stderr[-3000:]
    (stage,) = (runs / "laclip/smoke/r/checkpoints").iterdir()
    path = ckpt.finished(stage)
    assert path is not None
    return ckpt.load(path)["state_dict"]


def same(left: dict[str, torch.Tensor], right: dict[str, torch.Tensor]) -> bool:
    assert left.keys() == right.keys()
    return all(torch.allclose(left[n], right[n], rtol=1e-3, atol=1e-4) for n in left)


@needs_two
@pytest.mark.parametrize("strategy", ["ddp", "fsdp"])
def test_two_gpus_train_the_weights_of_one(tmp_path, strategy):
    together = weights(tmp_path, 2, strategy)
    assert same(together, weights(tmp_path, 1, "auto"))
    assert not same(together, weights(tmp_path, 1, "auto", steps=2))
