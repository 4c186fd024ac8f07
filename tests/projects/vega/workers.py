"""What the two processes of the tests run; importable by name."""

import torch
from torch import Tensor

from projects.vega.network import first_pretraining, tokenizer_of
from projects.vega.phases import Pretrain
from projects.vega.pretraining import training_data
from tests.distributed.wrapped import own_share, sgd_steps
from tests.projects.vega.conftest import config


def two_steps(distributed: bool) -> dict[str, Tensor]:
    """Weights after two SGD steps of phase 2 on eight rows; each of two ranks has four."""
    cfg = config(
        "model.dropout=0.0", "pretrain.rtd_lambda=5", "pretrain.cl_gamma=1", name="smoke_pretrain"
    )
    torch.manual_seed(0)
    module = Pretrain(cfg, first_pretraining(cfg), tokenizer_of(cfg.model), 2).double()
    data = training_data(cfg, module).train_set
    batches = [
        data[[(i, 0) for i in range(8 * step, 8 * step + 8)][own_share(distributed)]]
        for step in range(2)
    ]
    return sgd_steps(module, batches, distributed, lr=0.01, momentum=0.0, record=True)
