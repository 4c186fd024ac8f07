"""What the two processes of the tests run; importable by name."""

from typing import Any

import torch
from torch import Tensor

from common.distributed import process
from projects.clip_baselines.lips import swalip
from projects.clip_baselines.objective import cl2l
from tests.distributed.wrapped import own_share, sgd_steps
from tests.projects.clip_baselines.conftest import batch, matrix, module_of, share_of


def golden_rank(gather_grad: bool = False) -> dict[str, dict[str, Any]]:
    """Losses and gradient norms of this rank: 4 of 8 golden rows, d = 8."""
    own = slice(4 * process.rank(), 4 * process.rank() + 4)
    actual = {}
    for name, smoothing in (("CL2LLoss(sum, ls 0.1)", 0.1), ("SwALIPLoss(sum, ls 0)", 0.0)):
        m = [matrix(phase, 8, 8).detach()[own].clone().requires_grad_() for phase in range(1, 7)]
        h = [m[2], m[3]], [m[4], m[5]]
        options = {"label_smoothing": smoothing, "reduction": "sum", "gather_grad": gather_grad}
        loss = cl2l(m[0], m[1], *h, 1 / 0.07, 10.0, **options)["loss"]
        if smoothing == 0:
            extra = swalip(*h, 10.0, gather_grad=gather_grad)
            loss = loss + 0.2 * extra
        loss.backward()
        actual[name] = {
            "rank": process.rank(),
            "loss": loss.item(),
            "grad_norm_z_image_global": m[0].grad.norm().item(),
            "grad_norm_h_image_local0": m[2].grad.norm().item(),
            "grad_norm_h_text_local1": m[5].grad.norm().item(),
        }
        if smoothing == 0:
            actual[name]["swalip_loss"] = extra.item()
    return actual


def two_steps(words: list[str], distributed: bool) -> dict[str, Tensor]:
    """State and gradients after two SGD steps of eight pairs; each of two ranks has four.

    Of the token embeddings those that occur: the others would fill the pipes between processes.
    """
    module = module_of(*words, "method.text_dropout=0").double()
    batches, tokens = [], []
    for number in range(2):
        whole = batch(8, module.num_views, seed=number)
        tokens.append(whole["tokens"].flatten())
        rows = share_of(whole, own_share(distributed))
        rows["images"], rows["views"] = rows["images"].double(), rows["views"].double()
        batches.append(rows)
    actual = sgd_steps(
        module, batches, distributed, lr=0.05, momentum=0.0, broadcast_buffers=False, record=True
    )
    used = torch.cat(tokens).unique()
    return {k: v[used] if k.endswith("token_embedding.weight") else v for k, v in actual.items()}
