"""COSMO as a module: frozen towers, one pass, two losses."""

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.nn import functional as F

from common.distributed.collectives import all_gather_no_grad
from common.distributed.process import default_group, world_size
from common.engine.module import ContrastiveModule
from projects.cosmo.batches import CosmoBatch
from projects.cosmo.config import Config
from projects.cosmo.interleaved.labels import IGNORED
from projects.cosmo.network import CosmoNetwork, Parts
from projects.cosmo.objective import LossGuard, contrastive_loss, lm_loss
from projects.cosmo.visual_language.gated_cross_attention import GatedCrossAttention
from projects.cosmo.visual_language.patch_tokens import PatchTower

PAIRS = ("image_text", "video_text")  # kinds that are contrasted


class COSMO(ContrastiveModule):
    """Language-model loss of all batches, contrastive loss of pairs.

        L = L_LM + lambda L_c for image-text and video-text batches, L_LM for all others

    Source: Wang et al. 2024, "COSMO", arXiv 2401.00849; which batches are contrasted: the released
    code.

    Args:
        cfg: the experiment's config.
        network: trained parts and the frozen language model.
        tokenizer: of the language model, with the special tokens.
        tower: frozen image tower; None: loaded when it is needed.

    Distributed: local negatives by default, see ``method.gather``; the mean over tokens is that of
    all ranks.
    """

    def __init__(
        self, cfg: Config, network: CosmoNetwork, tokenizer: Any, tower: PatchTower | None = None
    ) -> None:
        super().__init__(cfg.optim)
        self.cfg, self.network, self.tokenizer = cfg, network, tokenizer
        self._tower = tower  # not a module: neither trained nor saved
        self.lm_guard, self.contrastive_guard = LossGuard(), LossGuard()
        self._seen = torch.zeros(2)
        self._group: dist.ProcessGroup | None = None

    @property
    def tower(self) -> PatchTower:
        """The frozen image tower, loaded when it is first asked for."""
        if self._tower is None:
            self._tower = PatchTower(self.cfg.model.vision)
        return self._tower

    # -- objective -------------------------------------------------------------------------------

    def patches(self, batch: CosmoBatch) -> Tensor:
        """Tokens of the pictures (B, T, F, N, D_v), of the batch or computed now.

        Never with a gradient.
        """
        if "patches" in batch:
            return batch["patches"].to(self.device)
        pixels = batch["pixels"].to(self.device)
        tokens = self.tower(pixels.flatten(0, 2)).to(pixels.dtype)
        return tokens.view(*pixels.shape[:3], *tokens.shape[1:])

    def parts(self, batch: CosmoBatch) -> Parts:
        """Logits, and the two vectors of pairs."""
        contrast = batch["kind"] in PAIRS
        outputs: Parts = self.network(
            self.patches(batch), batch["input_ids"], batch["attention_mask"], contrast=contrast
        )
        return outputs

    def losses(self, batch: CosmoBatch) -> dict[str, Tensor]:
        """The terms of a batch; ``contrastive`` is absent where nothing is contrasted."""
        method = self.cfg.method
        parts = self.parts(batch)
        language = lm_loss(parts.logits, batch["labels"])
        terms = {"lm": language}
        loss = self.lm_guard(language) if method.guard else language
        if parts.visual is not None and parts.text is not None:
            ids = batch["caption_ids"] if method.duplicates == "mask" else None
            scale = self.network.log_scale
            contrast = contrastive_loss(
                parts.visual, parts.text, scale, group=self.group(), ids=ids
            )
            terms |= {"contrastive": contrast, "logit_scale": scale.exp()}
            weighed = self.contrastive_guard(contrast) if method.guard else contrast
            loss = loss + method.contrastive_weight * weighed  # L_LM + lambda L_c
        else:
            loss = loss + self.network.touch_contrastive().to(loss.device)
        if method.apply_weights:
            loss = loss * self.cfg.data.weights.get(batch["kind"], 1.0)
        return {"loss": loss, **terms}

    def group(self) -> dist.ProcessGroup | None:
        """Ranks whose rows are negatives."""
        if self.cfg.method.gather == "local" or world_size() == 1:
            return None
        if self.cfg.method.gather == "all":
            return default_group()
        if self._group is None:
            size = world_size() // max(1, self.cfg.trainer.num_nodes)
            self._group = dist.new_subgroups(size)[0]  # type: ignore[no-untyped-call]
        return self._group

    def negatives_per_query(self, global_batch_size: int) -> int:
        """Other pairs that a caption meets in an image-text batch."""
        if not self.network.contrastive:
            return 0
        size = self.cfg.data.batch_of("image_text")
        ranks = {
            "local": 1,
            "node": world_size() // max(1, self.cfg.trainer.num_nodes),
            "all": world_size(),
        }
        return size * ranks[self.cfg.method.gather] - 1

    def fsdp_units(self) -> set[type[torch.nn.Module]]:
        """Cross-attention blocks."""
        return {GatedCrossAttention}

    # -- validation ------------------------------------------------------------------------------

    def validation_step(self, batch: CosmoBatch, batch_idx: int) -> None:
        """Tokens' losses, summed; ranks may have other numbers of them."""
        total, count = self.token_losses(batch)
        self._seen += torch.stack([total.sum(), count.sum()]).cpu()

    def on_validation_epoch_end(self) -> None:
        """Log the mean over the tokens of all ranks, as ``val/token_loss``."""
        total = all_gather_no_grad(self._seen[None].to(self.device)).sum(0)
        self._seen = torch.zeros(2)
        self.log("val/token_loss", total[0] / total[1].clamp(min=1))

    def token_losses(self, batch: CosmoBatch) -> tuple[Tensor, Tensor]:
        """Summed loss (B,) and number of labelled tokens (B,) of each row."""
        logits = self.network(
            self.patches(batch),
            batch["input_ids"].to(self.device),
            batch["attention_mask"].to(self.device),
            contrast=False,
        ).logits
        return row_losses(logits, batch["labels"].to(self.device))


def row_losses(logits: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """Summed loss (B,) and number of labelled tokens (B,) of each row.

    Args:
        logits: (B, L, V).
        labels: (B, L), -100 where nothing is predicted.
    """
    target = labels[:, 1:]
    nll = F.cross_entropy(
        logits[:, :-1].float().transpose(1, 2), target, ignore_index=IGNORED, reduction="none"
    )
    return nll.sum(1), target.ne(IGNORED).sum(1).float()
