"""What the two processes of the tests run; importable by name."""

import torch
from torch import Tensor
from torch.nn.parallel import DistributedDataParallel

from common.distributed import collectives, process
from projects.promptreps.answer import AnswerModule
from projects.promptreps.data import AnswerBatches, GroupBatches, questions, worded_texts
from tests.distributed.wrapped import ModuleLoss
from tests.projects.promptreps.conftest import config, module_of


def two_steps(stage: str, distributed: bool) -> dict[str, Tensor]:
    """State and losses after two SGD steps of four texts; each of two ranks has two of them."""
    words = ["method.lora_rank=null", "method.temperature=1"]
    if distributed and stage == "local":
        words.append("method.gather=false")
    cfg, module = config(*words), module_of(*words).double()
    if stage == "answer":
        data = AnswerBatches(worded_texts(cfg), module.encoder, cfg.seed)
        module = AnswerModule(cfg, module.encoder)
    else:
        data = GroupBatches(questions(cfg), module.encoder, cfg)
    step = ModuleLoss(module)
    wrapped = DistributedDataParallel(step) if distributed else step
    optimizer = torch.optim.SGD(module.parameters(), lr=0.05)
    losses = []
    for number in range(2):
        keys = [(4 * number + i, 0) for i in range(4)]
        own = keys[2 * process.rank() :][:2] if distributed else keys
        optimizer.zero_grad()
        loss = wrapped(data[own])
        loss.backward()
        optimizer.step()
        losses.append(collectives.all_gather_no_grad(loss.detach()[None]).mean())
    return {k: v.detach().clone() for k, v in module.state_dict().items()} | {
        "losses": torch.stack(losses)
    }
