"""What other processes of the tests run; importable by name."""

import torch
from torch import Tensor

from common.data.speech.transcripts import SpokenTarget
from common.distributed.process import rank
from projects.coconut.speech.error_rates import IntentErrors
from tests.distributed.wrapped import sgd_steps
from tests.projects.coconut.conftest import batch, module_of

FAST = ("trainer.val_every_n_steps=null", "trainer.log_every_n_steps=3")


def two_steps(overrides: list[str], distributed: bool, task: int = 1) -> dict[str, Tensor]:
    """State after two SGD steps of eight utterances; the ranks hold four, memory on one of them."""
    module = module_of(*overrides, task=task).double()
    if len(module.hypotheses):
        module.hypotheses.copy_(torch.tensor([2, 6, 4, 7, 3, 0, 0, 0, 0]))
    own = slice(4 * rank(), 4 * rank() + 4) if distributed else slice(None)
    parts = []
    for number in range(2):
        whole = batch(8, 3, seed=number)
        whole["waveforms"] = whole["waveforms"].double()
        whole["tokens"][0, 3:] = torch.tensor([3, 0])  # rows of unequal length
        parts.append({k: v[own] for k, v in whole.items() if k != "skipped"})
    return sgd_steps(module, parts, distributed, lr=0.05)


def intent_errors_of_two_ranks(number: int) -> tuple[float, float]:
    """Accuracy and word error rate over all ranks; rank 1 has one utterance more, all right."""
    errors = IntentErrors()
    for _ in range(number + rank()):
        spoken = SpokenTarget("a" if rank() else "b", (), "x")
        errors.add(spoken, SpokenTarget("a", (), "x"))
    return errors.over_ranks()
