"""What the two processes of the tests run; importable by name."""

import torch
from torch import Tensor

from common.distributed.process import rank
from projects.lol.data import Answers, Hallucination
from projects.lol.prompts import Prompts
from projects.lol.stages import build_original, with_amateur
from tests.distributed.wrapped import sgd_steps
from tests.projects.lol.conftest import config

ROWS = ["a man", "the people of this world are men", "it", "little good time", "old", "of all the"]


def three_steps(kind: str, distributed: bool) -> dict[str, Tensor]:
    """Weights after three steps on six answers of uneven lengths; the first of two ranks has
    four."""
    cfg = config(
        "base.steps=0",
        f"amateur.kind={kind}",
        "data.source=file",
        "data.file=none.json",
        "eval.source=truthfulqa",
    )
    torch.manual_seed(0)
    module = with_amateur(cfg, *build_original(cfg)).double()
    prompts = Prompts(cfg, module.tokenizer)
    rows = [Hallucination("what", text) for text in ROWS]
    data = Answers(rows, module.models().lm, lambda q: prompts(q).neutral, 60)
    module.train()
    own = (range(0, 4) if rank() == 0 else range(4, 6)) if distributed else range(6)
    batches = [data[[(i, 0) for i in own]] for _ in range(3)]
    return sgd_steps(module, batches, distributed)
