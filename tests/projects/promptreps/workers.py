"""What the two processes of the tests run; importable by name."""

from torch import Tensor

from projects.promptreps.answer import AnswerModule
from projects.promptreps.data import AnswerBatches, GroupBatches, questions, worded_texts
from tests.distributed.wrapped import own_share, sgd_steps
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
    own = own_share(distributed, rows=2)
    batches = [data[[(4 * number + i, 0) for i in range(4)][own]] for number in range(2)]
    return sgd_steps(module, batches, distributed, lr=0.05, momentum=0.0, record=True)
