"""CCR^k: 1-to-K contrast, image-text matching and masked language modelling on fused states."""

from typing import Any

import torch
from torch import Tensor

from common.encoders.text.mlm_head import masked_lm_head
from common.engine.module import ContrastiveModule
from common.engine.optim import decay_groups
from common.losses.auxiliary.tokens import masked_lm_loss
from common.losses.auxiliary.vicreg import vicreg_terms
from common.losses.output import LossOutput
from common.losses.temperature import Temperature
from projects.one_to_k import objective
from projects.one_to_k.config import Config
from projects.one_to_k.matching import choose_positive, hard_negatives, matching_loss
from projects.one_to_k.multilingual import MultilingualBatch
from projects.one_to_k.network import CrossLingualNetwork, build_network, network_options

# parameters that no pretrained model has
NEW = (
    "network.image_projection",
    "network.text_projection",
    "network.matching",
    "network.text_encoder.cross",
    "temperature",
)


class OneToK(ContrastiveModule):
    """Two towers with a fusion encoder on top of the text tower.

        L = L_contrast + itm_weight * L_itm + mlm_weight * L_mlm

    Source: Nie et al. 2024, section 3, arXiv 2406.18254.

    Args:
        cfg: the experiment's config.
        network: a trained or exported network; None builds the one of the config.

    Distributed: the contrast gathers negatives, masked words count alike on all ranks; matching is
    local.
    """

    def __init__(self, cfg: Config, network: CrossLingualNetwork | None = None) -> None:
        super().__init__(cfg.optim)
        self.method = cfg.method
        self.network = network or build_network(**network_options(cfg))
        self.temperature = Temperature(cfg.model.temperature)
        self.lm_head = None
        if cfg.method.mlm_weight > 0:
            encoder: Any = self.network.text_encoder
            text = self.network.options["text"] if network else network_options(cfg)["text"]
            self.lm_head = masked_lm_head(text["pretrained"], encoder, config=text["config"])

    def parameter_groups(self) -> list[dict[str, Any]]:
        """New parameters learn faster; no weight decay on biases and norms."""
        groups: list[dict[str, Any]] = []
        for new in (False, True):
            named = [(n, p) for n, p in self.named_parameters() if n.startswith(NEW) == new]
            for group in decay_groups(named, self.optim.weight_decay):
                groups.append({**group, "lr_scale": self.method.lr_mult if new else 1.0})
        return groups

    def losses(self, batch: MultilingualBatch) -> dict[str, Tensor]:
        """Terms of a batch of B images with K texts each."""
        net, num_texts = self.network, batch["tokens"].shape[1]
        tokens = net.image_encoder(batch["images"])
        states, mask = net.text_encoder.text(batch["tokens"].flatten(0, 1))  # image-major
        image, text = net.image_embeddings(tokens), net.text_embeddings(states)
        tau = self.temperature()  # clamped to [0.001, 0.5] first
        contrast = self.contrast(image, text, tau, num_texts, batch["ids"])
        terms = {"itc": contrast.loss, "temperature": tau.detach()}
        terms["batch_top1"] = contrast.hits.float().mean()  # type: ignore[union-attr]
        loss = contrast.loss
        if self.method.fusion:
            scores = (image @ text.T).detach() / tau.detach()
            chosen = choose_positive(scores, num_texts, self.method.positive)
            rows = torch.arange(len(image), device=chosen.device) * num_texts + chosen
        if self.method.itm_weight > 0:
            ids = batch["ids"].to(rows.device)
            wrong_image = hard_negatives(scores[:, rows].T, ids, ids)
            wrong_text = hard_negatives(scores, ids, ids.repeat_interleave(num_texts))
            terms["itm"] = matching_loss(
                net.match(states[rows], mask[rows], tokens),
                net.match(states[rows], mask[rows], tokens[wrong_image]),
                net.match(states[wrong_text], mask[wrong_text], tokens),
            )
            loss = loss + self.method.itm_weight * terms["itm"]
        if self.lm_head is not None:  # the same text as in matching
            masked, labels = (batch[x].flatten(0, 1)[rows] for x in ("masked", "labels"))
            fused = net.fuse(*net.text_encoder.text(masked), tokens)
            terms["mlm"] = masked_lm_loss(self.lm_head, fused, labels)
            loss = loss + self.method.mlm_weight * terms["mlm"]
        if self.method.vicreg:  # looked at, never added
            looked = vicreg_terms(image.detach(), text.detach(), num_texts)
            terms |= {f"vicreg_{name}": value for name, value in looked.items()}
        return {"loss": loss, **terms}

    def contrast(
        self, image: Tensor, text: Tensor, tau: Tensor, num_texts: int, ids: Tensor
    ) -> LossOutput:
        """The contrastive term of the config's objective."""
        method, backend = self.method, self.method.loss_backend
        if method.objective == "one_to_k":
            return objective.one_to_k_loss(
                image,
                text,
                tau,
                num_texts,
                need_divm=method.need_divm,
                t2i_scale=method.t2i_scale,
                backend=backend,
            )
        if method.objective == "pivot":
            return objective.pivot_loss(image, text, tau, backend)
        if method.objective == "finetune":
            return objective.finetune_loss(image, text, tau, ids, backend)
        return objective.random_language_loss(image, text, tau, backend)
