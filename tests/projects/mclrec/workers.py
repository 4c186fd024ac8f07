"""What the two processes of the tests run; importable by name."""

from contextlib import nullcontext
from pathlib import Path

from torch import Tensor

from common.engine import checkpoint as ckpt
from common.engine.run import train
from tests.distributed.launched import as_torchrun
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
    with as_torchrun() if devices == 2 else nullcontext():
        run = train("mclrec", "smoke", words)
    path = ckpt.newest_intact(run / "checkpoints/train")[0]
    assert path is not None
    state: dict[str, Tensor] = ckpt.load(path)["state_dict"]
    return state
