"""What the two processes of the tests run; importable by name."""

import torch
from torch import Tensor

from common.distributed.process import rank
from projects.space2.data import training_data
from projects.space2.finetune import task_batches, whole_loss, words_alone
from tests.distributed.wrapped import sgd_steps
from tests.projects.space2.conftest import STILL, config, finetune_of, module_of

ROWS = 8


def three_steps(distributed: bool) -> dict[str, Tensor]:
    """Weights after three steps on labelled and unlabelled batches; the contrast sees those of all
    ranks.
    """
    words = ["method.gather=true", f"data.batch_size={ROWS}", *STILL]
    module = module_of(*words).double()
    data = training_data(config(*words), module.network.texts).train_set
    half = ROWS // 2
    own = range(half * rank(), half * rank() + half) if distributed else range(ROWS)
    # six steps are an epoch of a corpus, so that the last of these has the other corpus
    batches = [data[[(ROWS * step + i, 0) for i in own]] for step in (0, 1, 7)]
    return sgd_steps(module, batches, distributed)


def words_then_task(distributed: bool) -> list[bool]:
    """Whether two steps of masked prediction alone, then two of the task without it, move the
    words' head.
    """
    words = ["task.mlm_weight=0.0", "task.mlm_pre_epochs=1.0"]
    module, cfg = finetune_of(*words), config("train=finetune", *words)
    data = task_batches(cfg, module).train_set
    moved = []
    for begin in (words_alone, whole_loss):
        begin(module, cfg)
        before = [p.detach().clone() for p in module.network.words.parameters()]
        sgd_steps(module, [data[[(i, 0) for i in range(4)]]] * 2, distributed)
        after = module.network.words.parameters()
        moved.append(not all(torch.equal(a, b) for a, b in zip(before, after, strict=True)))
    return moved
