"""What the two processes of the tests run; importable by name."""

from torch import Tensor

from common.distributed.process import rank
from projects.demo_retrieval.stages import rows_of
from tests.distributed.wrapped import sgd_steps
from tests.projects.demo_retrieval.conftest import module_of


def three_steps(distributed: bool) -> dict[str, Tensor]:
    """Weights after three steps on six examples of three tasks; the first of two ranks has four."""
    module, tasks = module_of("data.mixing=uniform")
    rows = rows_of(module.cfg, module, tasks.targets, 6)
    own = (slice(0, 4) if rank() == 0 else slice(4, 6)) if distributed else slice(0, 6)
    batches = [rows[[(i, 0) for i in range(6 * step, 6 * step + 6)][own]] for step in range(3)]
    return sgd_steps(module, batches, distributed)
