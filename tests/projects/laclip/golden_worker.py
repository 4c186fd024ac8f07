"""What each process of the golden loss test runs; imports no more than the loss."""

import torch

from common.distributed.process import rank
from common.losses.image_text import ClipLoss


def golden_matrices(place, world_size, local, dim):
    """Rows of a rank of I[i,j] = sin(1 + i d + j) and T[i,j] = sin(2 + i d + j), float64."""
    index = torch.arange(local * world_size * dim, dtype=torch.float64).reshape(-1, dim)
    rows = slice(place * local, (place + 1) * local)
    return torch.sin(1 + index)[rows].requires_grad_(), torch.sin(2 + index)[rows].requires_grad_()


def golden_run(cases):
    """Loss, share of hits and gradients of this rank for every case."""
    results = []
    for case in cases:
        image, text = golden_matrices(rank(), case["world_size"], case["local_N"], case["d"])
        scale = torch.tensor(case["logit_scale"], dtype=torch.float64, requires_grad=True)
        out = ClipLoss()(image, text, scale)
        out.loss.backward()
        results.append(
            {
                "loss": out.loss.item(),
                "clip_acc": 100 * out.hits.double().mean().item(),
                "grad_norm_image": float(image.grad.norm()),
                "grad_norm_text": float(text.grad.norm()),
                "grad_logit_scale": scale.grad.item(),
                "grad_image_first5": image.grad.flatten()[:5].tolist(),
            }
        )
    return results
