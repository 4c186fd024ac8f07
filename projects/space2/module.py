"""The method: two dropout copies of dialogues, contrasted in ten sub-spaces."""

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from common.engine.module import ContrastiveModule
from projects.space2.config import Config
from projects.space2.data import TreeBatch
from projects.space2.network import Space2Network
from projects.space2.objective import multi_view_contrast


class Space2(ContrastiveModule):
    """L = [L_sup + 0.1 L_mlm] of the labelled batch + [L_self + 0.1 L_mlm] of the unlabelled one.

    Source: He et al. 2022, section 3.3, arXiv 2209.06638; released `PretrainUnifiedTransformer`.

    Args:
        cfg: the experiment's config.
        network: what is trained, evaluated and exported.

    Distributed: local, as released (the contrast is per replica); gathers negatives with
    ``method.gather``.
    """

    def __init__(self, cfg: Config, network: Space2Network) -> None:
        super().__init__(cfg.optim)
        self.network, self.method, self.batch_size = network, cfg.method, cfg.data.batch_size
        if not cfg.method.mlm_weight:
            network.words.requires_grad_(False)  # DDP wants a gradient of all that is trained
        if cfg.method.score == "combined":
            network.projection.requires_grad_(False)

    def negatives_per_query(self, global_batch_size: int) -> int:
        """Other examples' vectors in a denominator: of this device, unless they are gathered."""
        return 2 * (global_batch_size if self.method.gather else self.batch_size) - 2

    def losses(self, batch: Mapping[str, TreeBatch]) -> dict[str, Tensor]:
        """Loss and terms of a labelled batch, an unlabelled one, or both."""
        terms: dict[str, Tensor] = {}
        for name, part in batch.items():
            for term, value in self.part(part).items():
                terms[f"{name}_{term}"] = value
        total = sum(v for k, v in terms.items() if k.endswith("_total"))
        return {"loss": total, **terms}  # type: ignore[dict-item]

    def part(self, batch: TreeBatch) -> dict[str, Tensor]:
        """Contrast and masked prediction of one batch; their weighted sum is ``total``."""
        method = self.method
        inputs: Any = batch["inputs"]
        sentence, combined = self.network.twice(inputs), method.score == "combined"
        vectors = (
            sentence[:, None] if combined else self.network.view_vectors(sentence, method.views)
        )
        sets = list(zip(batch["set_ids"], batch["set_counts"], strict=True))
        contrast = multi_view_contrast(
            vectors, sets, method.tau, method.base_tau, gather=method.gather, combined=combined
        )
        terms = {"contrast": contrast["loss"], "total": contrast["loss"]}
        if not combined:
            terms |= {f"view_{method.views[int(k)]}": v for k, v in contrast.items() if k != "loss"}
        if method.mlm_weight:
            mlm = self.network.masked_lm(inputs, batch["masked"], batch["labels"])
            terms |= {"mlm": mlm, "total": contrast["loss"] + method.mlm_weight * mlm}
        return terms
