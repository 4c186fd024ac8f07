"""Common and salient codes of a background and a target set, and the baselines."""

import torch
from torch import Tensor, nn

from common.distributed.differentiable import all_gather_with_grad
from common.distributed.process import default_group
from common.evaluation.search import SearchResult, search
from common.families.images.validation import ImageModule
from common.losses.functional.geometry import alignment, uniformity
from common.losses.output import unit
from common.losses.two_view import NTXentLoss
from projects.sepclr.club import ClubEstimator
from projects.sepclr.config import Config
from projects.sepclr.independence import gaussian_kl
from projects.sepclr.networks import Codes, ContrastiveVAE, Network, build_network, network_options
from projects.sepclr.objective import attribute_loss, dependence, masked, sepclr_terms
from projects.sepclr.paired_sets.pairs import SetPairBatch

CLUB_HIDDEN = 64


class SepCLR(ImageModule[Network]):
    """Separates what two sets share from what only the target set has.

    - sepclr: two encoders, alignment and uniformity of both codes, information-less salient codes
      of the background, and a penalty on the dependence of the codes.
    - supervised: each salient dimension follows one attribute.
    - simclr: one encoder that does not know the sets.
    - vae: contrastive VAE.

    Source: Louiset et al. 2024, "Separating common from salient patterns with contrastive
    representation learning", section 3, arXiv 2402.11928.

    Args:
        cfg: the experiment's config.
        network: None builds that of the config.

    Distributed: gathers the codes of all ranks; every rank computes the terms of the whole batch.
    """

    def __init__(self, cfg: Config, network: Network | None = None) -> None:
        super().__init__(cfg.optim)
        self.method = cfg.method
        pretrained = cfg.model.pretrained
        self.network = network or build_network(**network_options(cfg), pretrained=pretrained)
        self.in_batch_negatives = cfg.method.objective != "vae"
        self.discrete = [name in cfg.method.discrete for name in cfg.method.attributes]
        self.nt_xent = NTXentLoss(gather=cfg.method.gather)
        if self._penalised and cfg.method.leakage == "vclub":
            self.club = ClubEstimator(cfg.model.common_dim, cfg.model.salient_dim, CLUB_HIDDEN)
        if cfg.model.sync_batchnorm:
            nn.SyncBatchNorm.convert_sync_batchnorm(self)  # type: ignore[no-untyped-call]

    @property
    def _penalised(self) -> bool:
        separates = self.method.objective in ("sepclr", "supervised")
        return separates and self.method.leakage != "none"

    def losses(self, batch: SetPairBatch) -> dict[str, Tensor]:
        """Weighted sum, its terms, and the salient norms of both sets."""
        if isinstance(self.network, ContrastiveVAE):
            return self._vae(self.network, batch)
        codes = [self.network(batch[view]) for view in ("view_1", "view_2")]
        if self.method.objective == "simclr":
            scale = 1 / self.method.temperature
            out = self.nt_xent(codes[0].common_head, codes[1].common_head, scale)
            return {"loss": out.loss, "top1": out.hits.float().mean()}
        common = [self._gathered(x.common_head) for x in codes]
        salient = [self._gathered(x.salient_head) for x in codes]
        target = self._gathered(batch["target"].float()) > 0
        if self.method.objective == "supervised":
            factors = self._gathered(batch["factors"])
            terms = self._supervised(common, salient[0], target, factors)
        else:
            terms = self._separated(common, salient, target)
        return terms | _salient_norms(salient[0], target)

    def _separated(
        self, common: list[Tensor], salient: list[Tensor], target: Tensor
    ) -> dict[str, Tensor]:
        method = self.method
        terms = sepclr_terms(common, salient, target, method.bandwidth)
        loss = (
            terms.common_align
            + method.common_uniformity * terms.common_uniform
            + method.salient_weight * (terms.salient_align + 2 * terms.salient_uniform)
            + method.background_weight * terms.salient_reg
        )
        return self._with_penalty(loss, terms._asdict(), common, salient, target)

    def _supervised(
        self, common: list[Tensor], salient: Tensor, target: Tensor, factors: Tensor
    ) -> dict[str, Tensor]:
        """View 1 is un-augmented: its salient code is the only one that fits the attributes."""
        method = self.method
        c = [unit(x) for x in common]
        terms = {
            "common_align": alignment(c[0], c[1], method.bandwidth),
            "common_uniform": (
                uniformity(c[0], method.bandwidth) + uniformity(c[1], method.bandwidth)
            )
            / 2,
            "attributes": attribute_loss(
                salient,
                target,
                factors,
                self.discrete,
                attribute_tau=method.attribute_bandwidth,
                tau=method.bandwidth,
            ),
        }
        loss = (
            terms["common_align"]
            + method.common_uniformity * terms["common_uniform"]
            + method.salient_weight * terms["attributes"]
        )
        return self._with_penalty(loss, terms, common[:1], [salient], target)

    def _with_penalty(
        self,
        loss: Tensor,
        terms: dict[str, Tensor],
        common: list[Tensor],
        salient: list[Tensor],
        target: Tensor,
    ) -> dict[str, Tensor]:
        """Add lambda times the leakage penalty."""
        method = self.method
        if not self._penalised:
            return {"loss": loss, **terms}
        if method.leakage == "vclub":
            pairs = zip(common, salient, strict=True)
            bounds = [self.club(unit(c), masked(s, target)) for c, s in pairs]
            penalty, nll = (torch.stack(x).mean() for x in zip(*bounds, strict=True))
            loss, terms = loss + nll, {**terms, "club_nll": nll}
        else:
            penalty = dependence(method.leakage, common, salient, target, method.bandwidth)
        return {"loss": loss + method.leakage_weight * penalty, **terms, method.leakage: penalty}

    def _vae(self, network: ContrastiveVAE, batch: SetPairBatch) -> dict[str, Tensor]:
        """Minus the evidence lower bound, both views as samples of their own."""
        images = torch.cat([batch["view_1"], batch["view_2"]])
        target = batch["target"].repeat(2)
        (c, c_log), (s, s_log) = network.common(images), network.salient(images)
        decoded = network.decode(_sample(c, c_log), masked(_sample(s, s_log), target))
        reconstruction = (decoded - images).square().flatten(1).sum(1).mean()
        kl = gaussian_kl(c, c_log) + gaussian_kl(s, s_log) * target
        loss = reconstruction + self.method.kl_weight * kl.mean()
        return {"loss": loss, "reconstruction": reconstruction, "kl": kl.mean()}

    def _gathered(self, x: Tensor) -> Tensor:
        return all_gather_with_grad(x, default_group()) if self.method.gather else x

    # -- use -------------------------------------------------------------------------------------

    def encode(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Images (B, 3, H, W) in [0, 1] -> common and salient representations (B, R)."""
        codes: Codes = self.network(images)
        return codes.common_rep, codes.salient_rep

    def salient_norm(self, images: Tensor) -> Tensor:
        """||s|| (B,) of the projected salient code: near 0 for background, large for targets."""
        codes: Codes = self.network(images)
        norms: Tensor = codes.salient_head.norm(dim=1)
        return norms

    def rank(self, query: Tensor, gallery: Tensor, space: str, k: int = 10) -> SearchResult:
        """The k gallery images of largest cosine for each query image.

        Args:
            query: (Q, 3, H, W).
            gallery: (G, 3, H, W).
            space: common or salient.
            k: at most G.
        """
        position = ("common", "salient").index(space)
        with torch.no_grad():
            codes = [self.encode(images)[position] for images in (query, gallery)]
        return search(codes[0], codes[1], k)


def _sample(mean: Tensor, log_variance: Tensor) -> Tensor:
    return mean + torch.randn_like(mean) * (0.5 * log_variance).exp()


def _salient_norms(salient: Tensor, target: Tensor) -> dict[str, Tensor]:
    """Mean ||s|| of both sets, of those that occur."""
    norms = salient.detach().norm(dim=1)
    sets = {"target": norms[target], "background": norms[~target]}
    return {f"salient_norm_{name}": x.mean() for name, x in sets.items() if len(x)}
