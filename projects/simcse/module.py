"""Contrastive learning of sentence embeddings with dropout or NLI pairs as positives."""

from collections.abc import Mapping

from torch import Tensor, nn
from torch.nn import functional as F

from common.distributed.process import world_size
from common.encoders.text.mlm_head import masked_lm_head
from common.encoders.text.sentence import SentenceEncoder
from common.families.sentences.module import SentenceModule
from common.losses.auxiliary.tokens import masked_lm_loss
from common.losses.info_nce import InfoNCELoss
from common.losses.output import LossOutput
from projects.simcse.config import Config, MethodConfig
from projects.simcse.data import num_views


class Objective(nn.Module):
    """InfoNCE from the first view to the second, with hard negatives as further columns.

    Source: Gao et al. 2021, equations 4 and 5, arXiv 2104.08821.

    Args:
        method: temperature, hard-negative logit and gathering.
    """

    def __init__(self, method: MethodConfig) -> None:
        super().__init__()
        self.scale = 1 / method.temperature
        self.local = method.gather and method.gather_grad == "local"
        self.loss = InfoNCELoss(
            hard_logit=method.hard_negative_logit,
            gather=method.gather,
            backend=method.loss_backend,
        )

    def forward(self, z_1: Tensor, z_2: Tensor, z_3: Tensor | None = None) -> LossOutput:
        """Loss of raw embeddings (B, D): anchors, positives and hard negatives."""
        # Eq. 4; with hard negatives Eq. 5
        out: LossOutput = self.loss(z_1, z_2, self.scale, hard_negatives=z_3)
        if self.local and world_size() > 1:
            # the released code differentiates the global loss by a rank's own rows only; DDP's mean
            # over ranks then gives the global batch's gradient divided by the number of ranks
            local_loss = out.loss / world_size()
            out = out._replace(loss=local_loss + (out.loss - local_loss).detach())
        return out


class SimCSE(SentenceModule):
    """SimCSE, unsupervised or supervised, with an optional masked language modelling term.

    Args:
        cfg: the experiment's config.
        encoder: encoder that is trained.

    Distributed: gathers negatives.
    """

    def __init__(self, cfg: Config, encoder: SentenceEncoder) -> None:
        super().__init__(cfg.optim, encoder)
        self.method = cfg.method
        self.objective = Objective(cfg.method)
        self.num_hard = int(num_views(cfg.data) == 3)  # hard negatives of each row
        self.mlm_head: nn.Module | None = None
        if cfg.method.mlm_weight:
            model = encoder.tower.model
            self.mlm_head = masked_lm_head(cfg.model.pretrained, model, config=cfg.model.config)

    def losses(self, batch: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Loss, in-batch top-1 and mean cosines; batches come from `TextViews`."""
        z_1, z_2, *hard = self.embed(batch)
        out = self.objective(z_1, z_2, *hard)
        positive = F.cosine_similarity(z_1.detach(), z_2.detach()).mean()
        negative = F.cosine_similarity(z_1.detach(), z_2.detach().roll(1, 0)).mean()
        terms = {
            "loss": out.loss,
            "top1": out.hits.float().mean(),
            "positive_cosine": positive,
            "negative_cosine": negative,
        }
        if self.mlm_head is not None:
            states = self.encoder.tower.model(
                input_ids=batch["mlm_input_ids"], attention_mask=batch["attention_mask"]
            ).last_hidden_state
            terms["mlm_loss"] = masked_lm_loss(self.mlm_head, states, batch["mlm_labels"])
            terms["loss"] = out.loss + self.method.mlm_weight * terms["mlm_loss"]
        return terms

    def embed(self, batch: Mapping[str, Tensor]) -> tuple[Tensor, ...]:
        """Embeddings of the two or three views."""
        count = len(batch["input_ids"]) // len(batch["ids"])
        if not self.method.same_dropout_mask:
            return self.views(batch, count)
        # equal rows under equal masks have equal embeddings: one pass gives both
        half = len(batch["ids"])
        z = self.encoder(batch["input_ids"][:half], batch["attention_mask"][:half])
        return z, z

    def negatives_per_query(self, global_batch_size: int) -> int:
        """The other rows' positives; with hard negatives those of all rows too."""
        return max(0, global_batch_size - 1) + self.num_hard * global_batch_size
