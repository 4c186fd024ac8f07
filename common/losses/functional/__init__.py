"""Contrastive losses as pure functions: local tensors in, `LossOutput` or a scalar out."""

from common.losses.functional.cacr import (
    CacrTerms,
    WeightedCost,
    attraction,
    cacr,
    cacr_momentum,
    rbf_repulsion,
    repulsion,
)
from common.losses.functional.cacr_queue import cacr_queue
from common.losses.functional.geometry import (
    align_uniform,
    alignment,
    gaussian_log_sum,
    joint_entropy,
    pairwise_squared_distance,
    uniformity,
)
from common.losses.functional.info_nce import clip, info_nce
from common.losses.functional.kernel import KernelOptions, joint_log_sum
from common.losses.functional.margin import candidate_ranking, margin_ranking, triplet
from common.losses.functional.multi_positive import disparate, one_to_k, sup_con
from common.losses.functional.prototypes import prototype_softmax
from common.losses.functional.siglip import siglip
from common.losses.functional.soft import cwcl, distillation, symmetric_kl, weighted_info_nce
from common.losses.functional.teacher_student import teacher_sup_con
from common.losses.functional.two_view import (
    AnchorScores,
    anchor_scores,
    dcl,
    debiased,
    nt_xent,
    target_anchored,
    von_mises_fisher_weight,
)

__all__ = [
    "AnchorScores",
    "CacrTerms",
    "KernelOptions",
    "WeightedCost",
    "align_uniform",
    "alignment",
    "anchor_scores",
    "attraction",
    "cacr",
    "cacr_momentum",
    "cacr_queue",
    "candidate_ranking",
    "clip",
    "cwcl",
    "dcl",
    "debiased",
    "disparate",
    "distillation",
    "gaussian_log_sum",
    "info_nce",
    "joint_entropy",
    "joint_log_sum",
    "margin_ranking",
    "nt_xent",
    "one_to_k",
    "pairwise_squared_distance",
    "prototype_softmax",
    "rbf_repulsion",
    "repulsion",
    "siglip",
    "sup_con",
    "symmetric_kl",
    "target_anchored",
    "teacher_sup_con",
    "triplet",
    "uniformity",
    "von_mises_fisher_weight",
    "weighted_info_nce",
]
