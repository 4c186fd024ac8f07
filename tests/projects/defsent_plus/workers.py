"""What the two processes of the tests run; importable by name."""

from torch import Tensor

from common.distributed.process import rank
from tests.distributed.wrapped import sgd_steps, share_of
from tests.projects.defsent_plus.conftest import batch, module_of


def three_steps(distributed: bool, folder: str) -> dict[str, Tensor]:
    """State after three steps of eight definitions; each of two ranks holds four."""
    words = ("model.dropout=0.0", "model.length_groups=2", "data.limit=60")
    module = module_of(*words, folder=folder).double()
    whole = batch()
    own = share_of(whole, slice(4 * rank(), 4 * rank() + 4), 1) if distributed else whole
    return sgd_steps(module, [own] * 3, distributed, lr=0.01)
