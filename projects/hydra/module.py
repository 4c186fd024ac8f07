"""Hydra's training objective: arbitrary class pairs in gated subspaces, with its baselines."""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.transforms import v2

from common.families.images.validation import ImageModule
from common.losses.functional.gated_pairs import dense_pair_loss
from common.losses.multi_positive import HydraLoss, SupConLoss
from common.losses.temperature import LogitScale
from common.losses.two_view import NTXentLoss
from projects.hydra.class_pairs import ClassPairBatch
from projects.hydra.config import Config
from projects.hydra.gates import bernoulli_entropy
from projects.hydra.networks import HydraNet, build_net, layered_groups


class Hydra(ImageModule[HydraNet]):
    """Encoder, projector and gate under the gated pair loss; or one of the baselines.

    With unit projections z, query class y, drawn partner class y' and gate g = g(y, y'):
    ``l_ij = 1/tau sum_k z_ik g_ik^2 z_jk``; keys of class y' are positives, each contrasted alone
    with the keys of neither class. An online linear classifier reads the detached features.

    Source: Wu et al. 2024, "Rethinking Positive Pairs in Contrastive Learning", arXiv 2410.18200,
    and its released code.

    Args:
        cfg: the experiment's config.
        network: None builds that of the config.

    Distributed: gathers negatives.
    """

    def __init__(self, cfg: Config, network: HydraNet | None = None) -> None:
        super().__init__(cfg.optim)
        self.cfg = cfg
        self.network = network or build_net(cfg)
        method, alpha = cfg.method, cfg.method.alpha
        self.logit_scale = LogitScale(1 / method.temperature, learnable=method.learn_temperature)
        self.alpha = None if alpha is None else nn.Parameter(torch.tensor(alpha))
        self.pair_loss = HydraLoss(method.exclude_self)
        self.sup_con, self.nt_xent = SupConLoss(), NTXentLoss()
        self.frozen = method.frozen_simclr
        if self.frozen:
            self.network.encoder.requires_grad_(False)
            self.network.projector.requires_grad_(False)
            self.train()  # modules start in training mode without a call of this method

    def train(self, mode: bool = True) -> "Hydra":
        """Training mode, in which a frozen encoder stays in evaluation mode."""
        super().train(mode)
        if self.frozen:
            self.network.encoder.eval()
            self.network.projector.eval()
        return self

    def losses(self, batch: ClassPairBatch) -> dict[str, Tensor]:
        """The objective plus the online classifier's cross entropy."""
        images, targets = self._mixed(batch["view_1"], batch["labels"])
        with torch.set_grad_enabled(torch.is_grad_enabled() and not self.frozen):
            features, query = self.network(images)
            key = self.network(batch["view_2"])[1] if "view_2" in batch else None
        terms = self.objective(query, key, batch)
        loss = terms.pop("objective")
        terms["objective"] = loss.detach()
        terms["z_std"] = query.detach().float().std(dim=0).mean()
        if self.network.head is not None:
            head = self.cfg.online_head
            predicted = self.network.head(features if head.sup_loss else features.detach())
            smoothing = head.label_smoothing
            cross_entropy = F.cross_entropy(predicted, targets, label_smoothing=smoothing)
            loss = loss + head.weight * cross_entropy
            terms["online_loss"] = cross_entropy.detach()
            terms["online_top1"] = (predicted.argmax(dim=1) == batch["labels"]).float().mean()
        return {"loss": loss, **terms}

    def _mixed(self, images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """Images with their labels (B,), or mixtures with shares of the classes (B, C)."""
        head, count = self.cfg.online_head, self.cfg.data.num_classes
        kinds: list[Any] = [v2.MixUp(alpha=head.mixup, num_classes=count)] if head.mixup else []
        kinds += [v2.CutMix(alpha=head.cutmix, num_classes=count)] if head.cutmix else []
        if not kinds or not self.training:
            return images, labels
        mixed: tuple[Tensor, Tensor] = v2.RandomChoice(kinds)(images, labels)
        return mixed

    def objective(
        self, query: Tensor, key: Tensor | None, batch: ClassPairBatch
    ) -> dict[str, Tensor]:
        """The configured contrastive loss under "objective", and what is logged about it.

        Args:
            query: (B, D) raw projections of view 1.
            key: (B, D) of view 2; None contrasts the batch with itself.
            batch: labels and partner labels.
        """
        kind, scale = self.cfg.method.objective, self.logit_scale()
        if kind == "pairs":
            return self.gated_pairs(query, key, batch, scale) | {"logit_scale": scale.detach()}
        if kind == "cross_entropy":
            return {"objective": query.new_zeros(())}
        if kind == "simclr":
            assert key is not None
            loss = self.nt_xent(query, key, scale).loss
        else:
            views = query if key is None else torch.stack([query, key], dim=1)
            loss = self.sup_con(views, batch["labels"], scale).loss
        return {"objective": loss, "logit_scale": scale.detach()}

    def gated_pairs(
        self, query: Tensor, key: Tensor | None, batch: ClassPairBatch, scale: Tensor
    ) -> dict[str, Tensor]:
        """Gates of the batch's class pairs and the pair loss in their subspaces."""
        labels, partners = batch["labels"], batch["partner_labels"]
        gate, method = self.network.gate(labels, partners), self.cfg.method
        gate = gate.to(torch.promote_types(gate.dtype, torch.float32))  # autocast halves it
        if method.renormalise_after_gate or self.alpha is not None or method.row_mean:
            loss = dense_pair_loss(
                query,
                query if key is None else key,
                gate,
                labels,
                partners,
                scale,
                exclude_self=method.exclude_self and key is None,
                renormalise=method.renormalise_after_gate,
                alpha=self.alpha,
                row_mean=method.row_mean,
            )
        else:
            loss = self.pair_loss(query, gate, labels, partners, scale, keys=key).loss
        positives = (partners[:, None] == labels).sum(dim=1)
        gate_ = gate.detach().float()
        return {
            "objective": loss + self.network.gate.penalty(gate),
            "gate_activation": gate_.sum(dim=1).mean(),
            "gate_entropy": bernoulli_entropy(gate_).mean(),
            "positives_per_query": positives.float().mean(),
        }

    def after_optimizer_step(self) -> None:
        """Keep 1 / temperature in [1, 100]."""
        self.logit_scale.clamp_()

    def negatives_per_query(self, global_batch_size: int) -> int:
        """Expected number: keys of neither class, for balanced classes."""
        classes = self.cfg.data.num_classes
        if self.cfg.method.objective == "cross_entropy":
            return 0
        if self.cfg.method.objective != "pairs":
            return super().negatives_per_query(global_batch_size)
        share = {"identical": 1 / classes, "distinct": 2 / classes}
        excluded = share.get(self.cfg.pairs.type, 2 / classes - 1 / classes**2)
        return round(global_batch_size * (1 - excluded))

    def parameter_groups(self) -> list[dict[str, Any]]:
        """Optimiser groups; with `layer_decay` the encoder learns slower towards its input."""
        if self.cfg.layer_decay == 1.0:
            return super().parameter_groups()
        encoder, decay = self.network.encoder, self.optim.weight_decay
        return layered_groups(self, encoder, decay, self.cfg.layer_decay)
