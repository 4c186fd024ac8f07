"""The linear probe of the small-scale release: Adam on random crops through the frozen encoder.

# N labelled images, M test images, F features, C classes
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from common.data.image.parts import ImagePart
from common.data.image.sources import TrainTransform
from common.data.samplers import sample_rng
from common.families.images.data import moments
from common.families.images.evaluation import Frozen
from projects.cacr.config import Config

BATCH, RATE, BETAS = 128, 1e-3, (0.5, 0.999)
MILESTONES, FACTOR = (0.6, 0.8), 0.2  # fractions of the epochs after which the rate falls
_STREAM = 26


def adam_probe(
    cfg: Config, encoder: nn.Module, bank: ImagePart, test: Frozen
) -> tuple[dict[str, float], Tensor]:
    """Train a linear classifier on crops and flips of the bank; the encoder is left as it is.

    The classifier starts at zero, so it draws no random numbers; the last batch is kept.

    Source: Zheng et al. 2023, released code of the small-scale experiments, arXiv 2105.03746.

    Args:
        cfg: the experiment's config; ``eval.adam_probe_epochs`` passes.
        encoder: images (B, 3, S, S) -> (B, F), in evaluation mode.
        bank: labelled images.
        test: features (M, F) and labels of the images that are classified.

    Returns:
        ``adam_probe_top1`` after the last epoch; ``adam_probe_best_top1`` of the epoch that is best
        on the test images, as released; (M,) bool, what the last one finds.
    """
    data, total = cfg.data, cfg.eval.adam_probe_epochs
    mean, std = moments(data)
    scale = data.crop_scale[0], data.crop_scale[1]
    crops = TrainTransform(data.image_size, scale, flip_prob=0.5, mean=mean, std=std)
    source, device = bank.source(crops), next(encoder.parameters()).device
    with torch.inference_mode(False):
        features, labels = test.features.clone().to(device), test.labels.to(device)
        weight = torch.zeros(len(bank.class_names), features.shape[1], device=device)
        head = weight.requires_grad_(), torch.zeros(len(weight), device=device, requires_grad=True)
        optimizer = torch.optim.Adam(head, lr=RATE, betas=BETAS)
        best, right = 0.0, torch.zeros(len(labels), dtype=torch.bool)
        for epoch in range(total):
            passed = sum(epoch >= round(share * total) for share in MILESTONES)
            optimizer.param_groups[0]["lr"] = RATE * FACTOR**passed
            order = sample_rng(cfg.seed, epoch, 0, _STREAM).permutation(len(bank.labels))
            for rows in torch.split(torch.from_numpy(order), BATCH):
                rngs = [sample_rng(cfg.seed, epoch, 1 + int(row), _STREAM) for row in rows]
                images, kept = source.load(rows.tolist(), rngs)
                with torch.no_grad():
                    seen = encoder(images.to(device)).float()
                with torch.enable_grad():
                    loss = F.cross_entropy(
                        F.linear(seen, *head), bank.labels[rows[kept]].to(device)
                    )
                    optimizer.zero_grad()
                    torch.autograd.backward(loss)
                optimizer.step()
            with torch.no_grad():
                right = (F.linear(features, *head).argmax(1) == labels).cpu()
            best = max(best, float(right.double().mean()))
    last = float(right.double().mean())
    return {"adam_probe_top1": last, "adam_probe_best_top1": best}, right
