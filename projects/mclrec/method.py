"""The objective's section of the config."""

from dataclasses import dataclass, fields
from typing import Literal

from common.ranges import NonNegative, Positive


@dataclass
class MethodConfig:
    """The objective; cl1_weight = cl2_weight = 0 is SASRec with a full softmax."""

    cl1_weight: NonNegative = 0.0  # lambda, of the contrast of the augmented sequences
    cl2_weight: NonNegative = (
        0.05  # beta, of the contrasts with augmenter outputs; 0: no augmenters
    )
    cl2: bool = True  # False: beta weighs the regulariser alone (ablation)
    reg_weight: NonNegative = 0.1  # of R within the beta term: gamma = reg_weight * beta
    regulariser: Literal["rowwise", "batchwise"] = (
        "rowwise"  # thresholds of R: released code; paper
    )
    reg_pairs: Literal[3, 1] = 3  # 3: released code; 1: (z1, z2) alone, the paper
    temperature: Positive = 1.0  # of L_cl1; the terms with augmenters have none
    similarity: Literal["dot", "cosine"] = "dot"  # of L_cl1 alone, as in the release
    update: Literal["meta", "joint"] = "meta"  # joint: one optimiser for all (MCLRec-J)
    steps: Literal[3, 2] = (
        3  # meta: encoder, augmenters, encoder; 2: without the last (Algorithm 1)
    )
    gather: bool = True  # in-batch negatives of all ranks
    loss_backend: Literal["auto", "dense", "blocked", "triton"] = "auto"

    def __post_init__(self) -> None:
        if self.augments and not (self.cl2 or self.reg_weight):
            raise ValueError(
                "method.cl2=false and method.reg_weight=0 leave cl2_weight nothing to weigh"
            )
        default = {field.name: field.default for field in fields(self)}
        for name, (used, need) in self._needs().items():
            if not used and getattr(self, name) != default[name]:
                raise ValueError(
                    f"method.{name}={getattr(self, name)} changes nothing without {need}: set that,"
                    " or leave it as it is"
                )

    @property
    def contrasts(self) -> bool:
        """Whether augmented sequences are needed."""
        return self.cl1_weight > 0 or self.augments

    @property
    def augments(self) -> bool:
        """Whether there are augmenters."""
        return self.cl2_weight > 0

    @property
    def alternates(self) -> bool:
        """Whether a batch has several optimiser steps."""
        return self.augments and self.update == "meta"

    def _needs(self) -> dict[str, tuple[bool, str]]:
        """For settings that can be idle: whether they are used, and what they need to be."""
        first = (self.cl1_weight > 0, "method.cl1_weight > 0")
        meta = (self.augments, "method.cl2_weight > 0")
        reg = (self.augments and self.reg_weight > 0, f"method.reg_weight > 0 and {meta[1]}")
        return {
            "temperature": first,
            "similarity": first,
            "cl2": meta,
            "reg_weight": (self.augments or not self.reg_weight, meta[1]),  # 0 is what it says
            "update": meta,
            "steps": (self.alternates, f"method.update=meta and {meta[1]}"),
            "regulariser": reg,
            "reg_pairs": reg,
        }
