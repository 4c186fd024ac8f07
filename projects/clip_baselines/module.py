"""The grid's module: CL2L, and the term that a *LIP adds to it."""

import torch
from torch import Tensor, nn

from common.config import UserError
from common.encoders.image_text.open_clip_dual import OpenClipDualEncoder
from common.encoders.momentum import MomentumEncoder
from common.encoders.sync_norm import synchronise_batch_norm
from common.evaluation.image_text.zeroshot import LACLIP_TEMPLATES, OPENAI_TEMPLATES
from common.families.image_text.module import Encoder, ImageTextModule
from common.losses.temperature import LogitScale
from projects.clip_baselines import lips, network
from projects.clip_baselines import open_clip_parts as parts
from projects.clip_baselines.config import Config
from projects.clip_baselines.multi_view import MultiViewPair
from projects.clip_baselines.objective import cl2l


class Rocket(ImageTextModule):
    """Two towers with linear heads for the clean pair and MLP heads for its augmented views.

        L = CL2L + {0, SiamLIP, BYOLIP, BarLIP, w SwALIP}

    Source: Fini et al. 2023 (arXiv 2305.08675).

    Attributes:
        heads: what is trained alongside the towers.
        local_scale: multiplier of the views' cosines; None without separate heads, where the views
            take that of the clean pair.
        average: momentum copy of towers and heads (BYOLIP), in training mode.

    Args:
        cfg: the experiment's config.
        encoder: towers; None builds those of the config.

    Distributed: gathers negatives; batch norms are synchronised.
    """

    def __init__(self, cfg: Config, encoder: Encoder | None = None) -> None:
        openai = cfg.eval.templates == "openai"  # of the validation's classes
        super().__init__(cfg, encoder, OPENAI_TEMPLATES if openai else LACLIP_TEMPLATES)
        self.method, self.num_views = cfg.method, cfg.data.num_augs
        if not isinstance(self.encoder, OpenClipDualEncoder):
            raise UserError("set model.open_clip; this project trains open_clip's towers")
        parts.check_parts(self.encoder)
        if encoder is None and cfg.model.pretrained == "random":
            network.start_linear_heads(self.encoder)
        self.heads = network.Heads(parts.feature_dims(self.encoder), self.encoder.embed_dim, cfg)
        start, largest = cfg.method.local_scale_init, cfg.model.max_logit_scale
        self.local_scale = LogitScale(start, largest) if cfg.method.separate_heads else None
        if cfg.method.sync_batchnorm:
            synchronise_batch_norm(self)
        self.average: MomentumEncoder | None = None
        if cfg.method.name == "byolip":
            self.average = MomentumEncoder(self._online(), cfg.method.momentum)

    def losses(self, batch: MultiViewPair) -> dict[str, Tensor]:
        """Loss with its parts and the multipliers."""
        encoder: OpenClipDualEncoder = self.encoder  # type: ignore[assignment]
        out = network.encode(encoder, self.heads, batch, self.method)
        scale = self.logit_scale()
        local = scale if self.local_scale is None else self.local_scale()
        terms = cl2l(
            out.z["image"],
            out.z["text"],
            out.h["image"],
            out.h["text"],
            scale,
            local,
            label_smoothing=self.method.label_smoothing,
            reduction=self.method.reduction,
            gather_grad=self.method.gather_grad,
        )
        if self.method.name != "clip":
            terms["lip"] = self._lip(out, batch, local)
            terms["loss"] = terms["loss"] + terms["lip"]
        return terms | {"logit_scale": scale.detach(), "local_scale": local.detach()}

    def _lip(self, out: network.Encoded, batch: MultiViewPair, local: Tensor) -> Tensor:
        """The weighted term of the config's *LIP."""
        m = self.method
        options = {"epsilon": m.sinkhorn_epsilon, "iterations": m.sinkhorn_iterations}
        if m.name == "barlip":
            factors = {"off_diagonal": m.barlow_lambda, "weight": m.barlow_weight}
            return lips.barlip(out.v["image"], out.v["text"], **factors)
        if m.name == "swalip" and self.num_views:
            h = out.h["image"], out.h["text"]
            term = lips.swalip(*h, local, gather_grad=m.gather_grad, **options)  # type: ignore[arg-type]
            return m.swalip_weight * term
        if m.name == "swalip":
            p = (network.prototype_scores(self.heads, out.v[side][0]) for side in ("image", "text"))
            return m.swalip_weight * lips.swalip_v1(*p, **options)  # type: ignore[arg-type]
        target = out
        if self.average is not None:  # BYOLIP: the codes of the momentum copy
            copy = self.average.network
            with torch.no_grad():
                target = network.encode(copy["encoder"], copy["heads"], batch, m)  # type: ignore[index]
        return lips.siamlip(out.p["image"], out.p["text"], target.v["image"], target.v["text"])

    def _online(self) -> nn.ModuleDict:
        return nn.ModuleDict({"encoder": self.encoder, "heads": self.heads})

    def on_before_optimizer_step(self, optimizer: torch.optim.Optimizer) -> None:
        """Prototypes rest during the first steps, as in SwAV."""
        super().on_before_optimizer_step(optimizer)
        resting = self.global_step < self.method.freeze_prototypes_steps
        if self.heads.prototypes is not None and resting:
            for parameter in self.heads.prototypes.parameters():
                parameter.grad = None

    def after_optimizer_step(self) -> None:
        """Keep both logit scales in [0, ln 100], then move the momentum copy."""
        super().after_optimizer_step()
        if self.local_scale is not None:
            self.local_scale.clamp_()
        if self.average is not None:
            self.average.update(self._online())

    def embed_images(self, images: Tensor) -> dict[str, Tensor]:
        """``z`` and, with separate heads, ``h`` of images (B, 3, S, S), not normalised."""
        return self._both("image", self.encoder.image_features(images))

    def embed_texts(self, texts: list[str]) -> dict[str, Tensor]:
        """``z`` and, with separate heads, ``h`` of sentences."""
        assert self.encoder.tokenizer is not None
        tokens = self.encoder.tokenizer(texts).to(self.logit_scale.log_scale.device)
        return self._both("text", parts.text_features(self.encoder, tokens))  # type: ignore[arg-type]

    def _both(self, side: str, features: Tensor) -> dict[str, Tensor]:
        vectors = {"z": network.LINEAR[side](self.encoder, features).float()}  # type: ignore[arg-type]
        if side in self.heads.local:
            vectors["h"] = self.heads.local[side](features).float()
        return vectors
