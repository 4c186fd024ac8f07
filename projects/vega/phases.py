"""Pre-training in two phases: its losses, and generator with discriminator.

# N texts, L tokens, M masked places, D dim, V vocabulary
"""

from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from common.distributed.differentiable import rank_mean_of_sums
from common.engine.module import AlternatingModule
from common.losses.info_nce import InfoNCELoss
from projects.vega.config import Config
from projects.vega.encoders.replaced_token_detection import ReplacedTokenModel
from projects.vega.replaced_token_loss import replaced_token_loss


class PretrainObjective(nn.Module):
    """L_1 = L_MLM + lambda L_RTD; L_2 = L_1 + gamma L_CL.

    Source: Zhong et al. 2023, abstract, arXiv 2302.09268; Clark et al. 2020, section 2, arXiv
    2003.10555; Gao et al. 2021, equation 4, arXiv 2104.08821.

    Args:
        rtd_lambda: lambda, >= 0.
        cl_gamma: gamma, >= 0; 0 leaves the term out.
        cl_tau: tau, > 0.

    Distributed: reduces statistics (numbers of tokens); the contrast gathers negatives.
    """

    def __init__(
        self, rtd_lambda: float = 50.0, cl_gamma: float = 0.1, cl_tau: float = 0.05
    ) -> None:
        super().__init__()
        self.rtd_lambda, self.cl_gamma, self.cl_tau = rtd_lambda, cl_gamma, cl_tau
        self.info_nce = InfoNCELoss()  # cosine, positive in the denominator, one direction

    def generator(self, logits: Tensor, original: Tensor) -> Tensor:
        """L_MLM: cross-entropy at the masked places, mean over those of all ranks.

        Args:
            logits: (M, V).
            original: (M,) tokens.
        """
        wide = torch.promote_types(logits.dtype, torch.float32)
        total = F.cross_entropy(logits.to(wide), original, reduction="sum")  # Eq. 1
        return rank_mean_of_sums(total, torch.tensor(len(original), device=logits.device))

    def detector(self, logits: Tensor, replaced: Tensor, counted: Tensor) -> Tensor:
        """L_RTD, see `replaced_token_loss`."""
        return replaced_token_loss(logits, replaced, counted)  # Eq. 2

    def contrast(self, first: Tensor, second: Tensor) -> Tensor:
        """L_CL of two dropout passes (N, D) over the same clean sentences."""
        loss: Tensor = self.info_nce(first, second, 1 / self.cl_tau).loss  # Eq. 4
        return loss

    def forward(self, terms: dict[str, Tensor]) -> Tensor:
        """The weighted sum of the terms "mlm", "rtd" and perhaps "contrast"."""
        loss = terms["mlm"] + self.rtd_lambda * terms["rtd"]  # Eq. 3
        if "contrast" in terms:
            loss = loss + self.cl_gamma * terms["contrast"]  # Eq. 5
        return loss


class Pretrain(AlternatingModule):
    """One phase of pre-training: replaced tokens, in the second phase with a contrast of sentences.

    Source: Zhong et al. 2023, abstract, arXiv 2302.09268.

    Args:
        cfg: the experiment's config.
        model: generator and discriminator, which both phases train.
        tokenizer: theirs.
        phase: 1 or 2.

    Distributed: see `PretrainObjective`.
    """

    def __init__(self, cfg: Config, model: ReplacedTokenModel, tokenizer: Any, phase: int) -> None:
        settings = cfg.pretrain
        lr, warmup = settings.phase2_lr or cfg.optim.lr, settings.phase2_warmup
        optim = (
            cfg.optim
            if phase == 1
            else replace(
                cfg.optim, lr=lr, warmup_steps=cfg.optim.warmup_steps if warmup is None else warmup
            )
        )
        super().__init__(optim, alternating=settings.decoupled)
        self.model, self.tokenizer, self.phase = model, tokenizer, phase
        self.pooling = settings.pooling
        gamma = settings.cl_gamma if phase == 2 else 0.0
        self.objective = PretrainObjective(settings.rtd_lambda, gamma, settings.cl_tau)
        self.in_batch_negatives = gamma > 0
        # the sentence vector: first token, dense layer, tanh; neither evaluated nor exported
        dim = model.discriminator.config.hidden_size
        self.cl_head = nn.Sequential(nn.Linear(dim, dim), nn.Tanh()) if gamma else None

    def losses(self, batch: Mapping[str, Any]) -> dict[str, Tensor]:
        """All terms, jointly."""
        generated, terms = self._generator(batch)
        terms |= self._discriminator(batch, generated)
        return {"loss": self.objective(terms), **terms}

    def parts(self) -> Mapping[str, nn.Module]:
        """Generator; discriminator with its heads."""
        detector = [self.model.discriminator, self.model.head]
        return {
            "generator": self.model.generator,
            "discriminator": nn.ModuleList(
                [*detector, *([] if self.cl_head is None else [self.cl_head])]
            ),
        }

    def updates(self, batch: Mapping[str, Any]) -> Iterator[tuple[str, dict[str, Tensor]]]:
        """A step of the generator, then one of the discriminator on what it had sampled."""
        generated, terms = self._generator(batch)
        yield "generator", {"loss": terms["mlm"], **terms}
        terms = self._discriminator(batch, generated)
        yield "discriminator", {"loss": self.objective({"mlm": torch.zeros(()), **terms}), **terms}

    def _generator(self, batch: Mapping[str, Any]) -> tuple[Any, dict[str, Tensor]]:
        rows = batch["rows"]
        generated = self.model.generate(
            rows["masked"],
            rows["attention_mask"],
            rows["labels"],
            rows["input_ids"],
            rows["uniform"],
        )
        original = rows["input_ids"][rows["labels"] >= 0]
        return generated, {"mlm": self.objective.generator(generated.logits, original)}

    def _discriminator(self, batch: Mapping[str, Any], generated: Any) -> dict[str, Tensor]:
        rows = batch["rows"]
        logits = self.model.detect(generated.ids, rows["attention_mask"])
        counted = rows["counted"]
        terms = {"rtd": self.objective.detector(logits, generated.replaced, counted)}
        right = logits.gt(0).eq(generated.replaced)[counted]
        terms["rtd_accuracy"] = right.float().mean()
        terms["replaced"] = generated.replaced[counted].float().mean()
        if self.cl_head is not None:  # clean sentences, twice: dropout makes the two views
            views = [self.cl_head(self.model.states(**batch["sentences"])[:, 0]) for _ in range(2)]
            terms["contrast"] = self.objective.contrast(*views)
        return terms
