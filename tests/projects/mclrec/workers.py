"""What the two processes of the tests run; importable by name."""

import os
from pathlib import Path

from torch import Tensor

from common.distributed.process import rank
from common.engine import checkpoint as ckpt
from common.engine.run import train
from tests.projects.mclrec.conftest import STILL


def train_ranks(
    folder: Path, devices: int, batch_size: int, gather: bool = True, further: tuple[str, ...] = ()
) -> dict[str, Tensor]:
    """Weights after two batches in double precision, each rank as torchrun would start it."""
    words = [
        f"runs_dir={folder}",
        "run_id=r",
        f"trainer.devices={devices}",
        *STILL,
        f"data.batch_size={batch_size}",
        "trainer.max_steps=2",
        "trainer.precision=64-true",
        "trainer.val_every_n_steps=null",
        "eval.reference=false",
        f"method.gather={gather}",
        *further,
    ]
    place = {
        "RANK": rank(),
        "LOCAL_RANK": rank(),
        "WORLD_SIZE": 2,
        "LOCAL_WORLD_SIZE": 2,
        "TORCHELASTIC_RUN_ID": "test",
        "MASTER_ADDR": "localhost",
        "MASTER_PORT": 1,
    }
    if devices == 2:
        os.environ.update({name: str(value) for name, value in place.items()})
    try:
        run = train("mclrec", "smoke", words)
    finally:
        for name in place if devices == 2 else ():
            os.environ.pop(name)
    path = ckpt.newest_intact(run / "checkpoints/train")[0]
    assert path is not None
    state: dict[str, Tensor] = ckpt.load(path)["state_dict"]
    return state
