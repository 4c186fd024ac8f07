"""What the two processes of the tests run; importable by name."""

from torch import Tensor

from common.distributed.process import rank
from projects.space2.data import training_data
from tests.distributed.wrapped import sgd_steps
from tests.projects.space2.conftest import STILL, config, module_of

ROWS = 8


def three_steps(distributed: bool) -> dict[str, Tensor]:
    """Weights after three steps on labelled and unlabelled batches; the contrast sees those of all ranks."""
    words = ["method.gather=true", f"data.batch_size={ROWS}", *STILL]
    module = module_of(*words).double()
    data = training_data(config(*words), module.network.texts).train_set
    half = ROWS // 2
    own = range(half * rank(), half * rank() + half) if distributed else range(ROWS)
    # six steps are an epoch of a corpus, so that the last of these has the other corpus
    batches = [data[[(ROWS * step + i, 0) for i in own]] for step in (0, 1, 7)]
    return sgd_steps(module, batches, distributed)
