"""What the two processes of the tests run; importable by name."""

from torch import Tensor

from common.distributed.process import rank
from projects.contrastive_search.data import Lines, training_lines
from tests.distributed.wrapped import sgd_steps
from tests.projects.contrastive_search.conftest import config, module_of


def three_steps(distributed: bool) -> dict[str, Tensor]:
    """Weights after three steps on six lines of uneven lengths; the first of two ranks has four."""
    module, cfg = module_of(), config()
    lines = Lines(training_lines(cfg), module.tokenizer, 60, 0, shuffled=False)
    own = (slice(0, 4) if rank() == 0 else slice(4, 6)) if distributed else slice(0, 6)
    batches = []
    for step in range(3):
        batch = lines[[(i, 0) for i in range(6 * step, 6 * step + 6)]]
        batches.append({name: value[own] for name, value in batch.items()})
    return sgd_steps(module, batches, distributed)
