"""The distillation baselines (A-KD, S-KD, T-KD), which COCONUT is compared with."""

from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor

from common.distributed.differentiable import all_reduce_sum, rank_mean_of_sums
from common.encoders.pooling import mean_pool
from common.encoders.speech.special_tokens import PAD
from common.losses.auxiliary.distillation import rehearsal_weight, softened_divergence
from projects.coconut.data import SpeechBatch

if TYPE_CHECKING:
    from projects.coconut.module import Coconut


class Heard(NamedTuple):
    """What the network makes of a batch.

    Attributes:
        states: (B, S, D).
        mask: (B, S) bool, real states.
        logits: (B, L - 1, V) of the next tokens.
    """

    states: Tensor
    mask: Tensor
    logits: Tensor


def distillation(
    module: "Coconut", batch: SpeechBatch, heard: Heard
) -> tuple[Tensor, float] | None:
    """L_KD and its share alpha in ``alpha L_KD + (1 - alpha) L_CE``; None without a teacher.

    alpha is sqrt(memory rows / rows) of the global batch, 0 without memory in it, and k / (k + 1)
    in task k + 1 for distillation on all rows.

    Source: Cappellazzo et al. 2023, arXiv 2305.13899.
    """
    kind, is_memory = module.method.distillation, batch["is_memory"]
    if module.teacher is None or kind == "none":
        return None
    rows = torch.ones_like(is_memory) if kind == "token_all" else is_memory
    loss = rank_mean_of_sums(*_sums(module, batch, heard, rows))
    if kind == "token_all":
        return loss, module.task / (module.task + 1)
    sizes = torch.stack([is_memory.sum(), torch.tensor(len(is_memory)).to(is_memory.device)])
    num_memory, num_rows = all_reduce_sum(sizes.double()).tolist()
    return loss, rehearsal_weight(num_memory, num_rows)


def _sums(
    module: "Coconut", batch: SpeechBatch, heard: Heard, rows: Tensor
) -> tuple[Tensor, Tensor]:
    """Sum of the distillation term over its local items, and their number."""
    kind, network = module.method.distillation, module.network
    states, mask, logits = heard
    if not bool(rows.any()):
        return 0.0 * logits.sum(), torch.zeros((), device=logits.device)
    if kind == "sequence":  # S-KD: the teacher's hypothesis instead of the transcript
        tokens = module.hypotheses[batch["slots"][rows]]
        return module.ce_sums(network.logits(tokens, states[rows], mask[rows]), tokens)
    assert module.teacher is not None
    teacher = module.teacher.network
    with torch.no_grad():
        old_states, old_mask = teacher.encode(batch["waveforms"][rows], batch["lengths"][rows])
    if kind == "audio":  # A-KD
        old = mean_pool(old_states, old_mask)
        distance = (mean_pool(states[rows], mask[rows]) - old).square()
        return distance.sum(), torch.tensor(float(distance.numel()), device=distance.device)
    tokens = batch["tokens"][rows]  # T-KD
    with torch.no_grad():
        old_logits = teacher.logits(tokens, old_states, old_mask)
    real = tokens[:, 1:] != PAD
    divergence = softened_divergence(
        logits[rows][real].float(), old_logits[real].float(), module.method.kd_temperature
    )
    return divergence.sum(), torch.tensor(float(len(divergence)), device=divergence.device)
