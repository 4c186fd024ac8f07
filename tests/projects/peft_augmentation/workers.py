"""What the two processes of the tests run; importable by name."""

from torch import Tensor

from common.distributed.process import rank
from projects.peft_augmentation.stages import training_data
from tests.distributed.wrapped import sgd_steps
from tests.projects.peft_augmentation.conftest import STILL, config, module_of

ROWS = 8


def three_steps(distributed: bool) -> dict[str, Tensor]:
    """Weights after three steps of P-tuning on eight examples with their copies, contrast
    included."""
    words = ["contrast.weight=0.5", *STILL]
    module, cfg = module_of(*words).double(), config(*words)
    data = training_data(cfg, module).train_set
    half = ROWS // 2
    own = range(half * rank(), half * rank() + half) if distributed else range(ROWS)
    batches = [data[[(ROWS * step + i, 0) for i in own]] for step in range(3)]
    return sgd_steps(module, batches, distributed)
