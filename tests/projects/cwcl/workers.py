"""What the two processes of the tests run; importable by name."""

from torch import Tensor

from common.distributed.process import rank
from projects.cwcl.objective import Objective
from tests.distributed.wrapped import sgd_steps
from tests.projects.cwcl.conftest import batch_of, module_of, wave


def golden_share(mode: str, local: bool = False) -> tuple[float, Tensor]:
    """Loss of this rank's half of a golden batch, and its gradient on the trained side."""
    rows = slice(4 * rank(), 4 * rank() + 4)
    frozen, features, labels = wave(1, 8, 16)[rows], wave(3, 8, 12)[rows], _labels()[rows]
    trained = wave(2, 8, 16)[rows].requires_grad_()
    out = Objective(mode, gather=not local)(frozen, trained, 1 / 0.07, features, labels)
    out.loss.backward()
    return out.loss.item(), trained.grad


def golden_whole(mode: str) -> tuple[float, Tensor]:
    """The same of the whole batch in one process."""
    trained = wave(2, 8, 16).requires_grad_()
    out = Objective(mode, gather=False)(
        wave(1, 8, 16), trained, 1 / 0.07, wave(3, 8, 12), _labels()
    )
    out.loss.backward()
    return out.loss.item(), trained.grad


def _labels() -> Tensor:
    return (wave(4, 8, 1)[:, 0] > 0).long()


def two_steps(distributed: bool) -> dict[str, Tensor]:
    """State after SGD steps of eight pairs; each of two ranks has four."""
    module = module_of().double()
    batch = batch_of(8)
    batch["images"] = batch["images"].double()
    own = slice(4 * rank(), 4 * rank() + 4) if distributed else slice(None)
    return sgd_steps(module, [{k: v[own] for k, v in batch.items()}] * 2, distributed)
