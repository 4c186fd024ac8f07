"""What the two processes of the tests run; importable by name."""

from typing import Any

from torch import Tensor

from tests.distributed.wrapped import own_share, sgd_steps
from tests.projects.dito.conftest import batch_of, module_of


def three_steps(stage: str, words: list[str], distributed: bool) -> dict[str, Tensor]:
    """Weights after three steps of eight images; each of two ranks has four."""
    module = module_of(stage, "method.boxes=3", *words).double()
    own, batches = own_share(distributed), []
    for number in range(3):
        batch = batch_of(module, count=8, epoch=number)
        rows: Any = {k: v[own] for k, v in batch.items() if k != "skipped"}
        rows["images"] = rows["images"].double()
        if "boxes" in rows:
            rows["boxes"] = [b.double() for b in rows["boxes"]]
        batches.append(rows)
    return sgd_steps(module, batches, distributed, lr=0.02)
