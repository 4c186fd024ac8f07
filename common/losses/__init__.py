"""Contrastive losses: modules that hold options, gathering and temperature.

The equations are pure functions in `common.losses.functional`; the sums over pairs run in
`common.kernels`. `cached_encode` gives any of them a gradient cache.
"""

from common.losses.align_uniform import AlignUniformLoss
from common.losses.cacr import CACRLoss
from common.losses.functional.masks import guide_mask, hardness_bias, id_mask
from common.losses.grad_cache import cached_encode
from common.losses.image_text import ClipLoss, SigLipLoss
from common.losses.info_nce import InfoNCELoss
from common.losses.margin import MarginRankingLoss, TripletLoss
from common.losses.multi_positive import HydraLoss, OneToKLoss, SupConLoss
from common.losses.output import DistributedKind, LossOutput
from common.losses.soft import CWCLLoss, DistillationLoss
from common.losses.temperature import LogitScale
from common.losses.two_view import DCLLoss, DebiasedLoss, NTXentLoss, TargetAnchoredLoss

__all__ = [
    "AlignUniformLoss",
    "CACRLoss",
    "CWCLLoss",
    "ClipLoss",
    "DCLLoss",
    "DebiasedLoss",
    "DistillationLoss",
    "DistributedKind",
    "HydraLoss",
    "InfoNCELoss",
    "LogitScale",
    "LossOutput",
    "MarginRankingLoss",
    "NTXentLoss",
    "OneToKLoss",
    "SigLipLoss",
    "SupConLoss",
    "TargetAnchoredLoss",
    "TripletLoss",
    "cached_encode",
    "guide_mask",
    "hardness_bias",
    "id_mask",
]
