"""What two processes compute."""

from torch import Tensor

from tests.distributed.wrapped import own_share, sgd_steps
from tests.projects.rtd.conftest import batch_of, module_of


def three_steps(distributed: bool) -> dict[str, Tensor]:
    """Weights after three steps on six triplets, with the negatives of all ranks."""
    module = module_of("rtd.gather_negatives=true")
    module.double()
    whole = batch_of(module)
    own = {k: v.double() if k == "noise" else v for k, v in whole.items()}
    share = own_share(distributed, 3)
    return sgd_steps(module, [{k: v[share] for k, v in own.items()}] * 3, distributed)
