"""Two small towers, a batch, and every loss as one line: what the equality tests train."""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from common.kernels.sharded.plan import Sharding
from common.losses import image_text
from common.losses.align_uniform import AlignUniformLoss
from common.losses.cacr import CACRLoss
from common.losses.functional.info_nce import clip
from common.losses.image_text import SigLipLoss
from common.losses.info_nce import InfoNCELoss
from common.losses.multi_positive import HydraLoss, OneToKLoss, SupConLoss
from common.losses.soft import CWCLLoss, DistillationLoss
from common.losses.soft_itc import SoftItcLoss
from common.losses.temperature import LogitScale
from common.losses.two_view import DCLLoss, DebiasedLoss, NTXentLoss, TargetAnchoredLoss

Batch = dict[str, Tensor]
IN, HIDDEN, OUT, CLASSES, QUEUE = 7, 9, 6, 4, 5


class Towers(nn.Module):
    """Embeddings x, y (image and text, or two views), a learnable scale and bias; float64."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.x = nn.Sequential(nn.Linear(IN, HIDDEN), nn.Tanh(), nn.Linear(HIDDEN, OUT))
        self.y = nn.Sequential(nn.Linear(IN, HIDDEN), nn.Tanh(), nn.Linear(HIDDEN, OUT))
        self.scale = LogitScale(init=5.0)
        self.bias = nn.Parameter(torch.tensor(-2.0))
        self.double()

    def forward(self, case: str, batch: Batch, gather: bool = True) -> Tensor:
        """The loss of a case; every step happens inside the module, as under a trainer."""
        return CASES[case](self, batch, gather)


def make_batch(sizes: tuple[int, ...]) -> Batch:
    """The batch of all ranks."""
    generator = torch.Generator().manual_seed(1)
    rows = sum(sizes)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, dtype=torch.float64, generator=generator)

    labels = torch.arange(rows) % CLASSES
    return {
        "x": normal(rows, IN),
        "y": normal(rows, IN),
        "hard": normal(rows, 2, IN),
        "labels": labels,
        "partner": (labels + 1) % CLASSES,
        "ids": torch.arange(rows) // 2,
        "gate": torch.rand(rows, OUT, dtype=torch.float64, generator=generator),
        "teacher": normal(rows, 3),
    }


def local_rows(batch: Batch, sizes: tuple[int, ...], rank: int) -> Batch:
    """The rows of one rank."""
    start = sum(sizes[:rank])
    return {name: x[start : start + sizes[rank]] for name, x in batch.items()}


def queue() -> Tensor:
    """Earlier keys, the same on all ranks."""
    return torch.randn(QUEUE, OUT, generator=torch.Generator().manual_seed(2)).double()


def ring_clip(m: Towers, b: Batch, gather: bool) -> Tensor:
    """ClipLoss with keys that travel."""
    group = Sharding(mode="ring") if gather else None
    x, y = (F.normalize(tower, dim=1) for tower in (m.x(b["x"]), m.y(b["y"])))
    return clip(x, y, m.scale(), group=group).loss


# One line per loss: (model, batch, gather) -> loss of the own rows.
CASES: dict[str, Callable[[Towers, Batch, bool], Tensor]] = {
    "clip": lambda m, b, g: image_text.ClipLoss(g)(m.x(b["x"]), m.y(b["y"]), m.scale()).loss,
    "clip_blocked": lambda m, b, g: (
        image_text.ClipLoss(g, backend="blocked")(m.x(b["x"]), m.y(b["y"]), m.scale()).loss
    ),
    "clip_ring": ring_clip,
    "clip_smooth": lambda m, b, g: (
        image_text.ClipLoss(g, label_smoothing=0.1)(m.x(b["x"]), m.y(b["y"]), m.scale()).loss
    ),
    "clip_ids": lambda m, b, g: (
        image_text.ClipLoss(g)(m.x(b["x"]), m.y(b["y"]), m.scale(), ids=b["ids"]).loss
    ),
    "siglip": lambda m, b, g: (
        SigLipLoss(gather=g)(m.x(b["x"]), m.y(b["y"]), m.scale(), m.bias).loss
    ),
    "info_nce": lambda m, b, g: InfoNCELoss(gather=g)(m.x(b["x"]), m.y(b["y"]), m.scale()).loss,
    "info_nce_symmetric": lambda m, b, g: (
        InfoNCELoss(True, gather=g, margin=0.1)(m.x(b["x"]), m.y(b["y"]), m.scale()).loss
    ),
    "info_nce_hard": lambda m, b, g: (
        InfoNCELoss(gather=g)(
            m.x(b["x"]), m.y(b["y"]), m.scale(), hard_negatives=m.y(b["hard"])
        ).loss
    ),
    "info_nce_queue": lambda m, b, g: (
        InfoNCELoss(gather=g)(m.x(b["x"]), m.y(b["y"]), m.scale(), queue=queue()).loss
    ),
    "info_nce_smooth": lambda m, b, g: (
        InfoNCELoss(gather=g, label_smoothing=0.1)(
            m.x(b["x"]), m.y(b["y"]), m.scale(), queue=queue(), hard_negatives=m.y(b["hard"])
        ).loss
    ),
    "info_nce_hardness": lambda m, b, g: (
        InfoNCELoss(gather=g, hardness=2.0)(m.x(b["x"]), m.y(b["y"]), m.scale()).loss
    ),
    "nt_xent": lambda m, b, g: NTXentLoss(gather=g)(m.x(b["x"]), m.x(b["y"]), m.scale()).loss,
    "dcl": lambda m, b, g: DCLLoss(gather=g)(m.x(b["x"]), m.x(b["y"]), m.scale()).loss,
    "dclw": lambda m, b, g: (
        DCLLoss(gather=g, weighted=True, detach_weight=False)(
            m.x(b["x"]), m.x(b["y"]), m.scale()
        ).loss
    ),
    "debiased": lambda m, b, g: (
        DebiasedLoss(gather=g, beta=0.5)(m.x(b["x"]), m.x(b["y"]), m.scale()).loss
    ),
    "target_anchored": lambda m, b, g: (
        TargetAnchoredLoss(gather=g)(m.x(b["x"]), m.y(b["y"]), m.scale()).loss
    ),
    "sup_con": lambda m, b, g: SupConLoss(gather=g)(m.x(b["x"]), b["labels"], m.scale()).loss,
    "sup_con_in": lambda m, b, g: (
        SupConLoss(gather=g, mode="in")(m.x(b["x"]), b["labels"], m.scale()).loss
    ),
    "one_to_k": lambda m, b, g: (
        OneToKLoss(2, gather=g)(m.x(b["x"]), m.y(b["hard"]), m.scale()).loss
    ),
    "hydra": lambda m, b, g: (
        HydraLoss(gather=g)(m.x(b["x"]), b["gate"], b["labels"], b["partner"], m.scale()).loss
    ),
    "soft_itc": lambda m, b, g: (
        SoftItcLoss(gather=g)(m.x(b["x"]), m.y(b["y"]), m.scale(), b["labels"]).loss
    ),
    "cwcl": lambda m, b, g: CWCLLoss(gather=g)(m.x(b["x"]), m.y(b["y"]), m.scale()).loss,
    "distillation": lambda m, b, g: (
        DistillationLoss(gather=g)(
            m.x(b["x"]), m.y(b["y"]), b["teacher"], b["teacher"], m.scale(), 3.0
        ).loss
    ),
    "align_uniform": lambda m, b, g: (
        AlignUniformLoss(2.0, 0.5, gather=g)(m.x(b["x"]), m.x(b["y"])).loss
    ),
    "cacr": lambda m, b, g: CACRLoss(gather=g)(torch.stack([m.x(b["x"]), m.x(b["y"])])).loss,
}
