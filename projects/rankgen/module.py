"""Prefixes against the golds and generations of a batch."""

from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

from common.engine.module import ContrastiveModule
from common.losses.grad_cache import cached_encode
from common.losses.info_nce import InfoNCELoss
from common.losses.output import LossOutput
from projects.rankgen.config import Config, MethodConfig
from projects.rankgen.data import TripleBatch
from projects.rankgen.encoder import PrefixSuffixEncoder


class Objective(nn.Module):
    """Softmax over in-book and generated continuations, prefix -> continuation only.

        Z(p_i) = sum_{c_j in B} exp(p_i . c_j) + sum_{g_j in B} exp(p_i . g_j)
        L = -1/|B| sum_i log [exp(p_i . c_i) / Z(p_i)]

    inbook leaves out the second sum, generative the golds of the other prefixes.

    Source: Krishna et al. 2022, section 3.2, arXiv 2205.09726.

    Args:
        method: section of the config.

    Distributed: gathers golds and generations of all ranks, with gradient.

    Deviation: the paper writes a sum over prefixes, this is the mean.
    """

    def __init__(self, method: MethodConfig) -> None:
        super().__init__()
        self.negatives = method.negatives
        self.loss = InfoNCELoss(
            in_batch=method.negatives != "generative",
            normalize=False,
            gather=method.gather,
            backend=method.loss_backend,
        )

    def forward(self, prefix: Tensor, gold: Tensor, generated: Tensor | None) -> LossOutput:
        """Loss of vectors (B, D); `generated` is not read by inbook.

        Raises:
            ValueError: no generated continuations where they are negatives.
        """
        if self.negatives == "inbook":
            generated = None
        elif generated is None:
            raise ValueError(f"negatives={self.negatives} needs generated continuations")
        out: LossOutput = self.loss(prefix, gold, 1.0, hard_negatives=generated)
        return out


class RankGen(ContrastiveModule):
    """Encoder of prefixes and suffixes, trained on triples.

    Source: Krishna et al. 2022, "RankGen: Improving text generation with large ranking models",
    section 3, arXiv 2205.09726.

    Args:
        cfg: the experiment's config.
        encoder: what is trained.
    """

    def __init__(self, cfg: Config, encoder: PrefixSuffixEncoder) -> None:
        super().__init__(cfg.optim)
        self.encoder = encoder
        self.method = cfg.method
        self.objective = Objective(cfg.method)

    def losses(self, batch: TripleBatch) -> dict[str, Tensor]:
        """Loss, share of prefixes whose gold scores best, and the scores of both kinds."""
        prefix, gold = self._vectors(batch["prefix"]), self._vectors(batch["gold"])
        generated = None
        if self.method.negatives != "inbook":
            generated = self._vectors(batch["generated"])
        out = self.objective(prefix, gold, generated)
        score = (prefix.detach() * gold.detach()).sum(1).mean()
        assert out.hits is not None
        return {"loss": out.loss, "top1": out.hits.float().mean(), "gold_score": score}

    def negatives_per_query(self, global_batch_size: int) -> int:
        """|B| - 1 golds, |B| generations."""
        golds = 0 if self.method.negatives == "generative" else global_batch_size - 1
        return golds + (0 if self.method.negatives == "inbook" else global_batch_size)

    def _vectors(self, inputs: Mapping[str, Tensor]) -> Tensor:
        if self.method.chunk_size is None:
            vectors: Tensor = self.encoder(**inputs)
        else:
            vectors = cached_encode(self._encode, dict(inputs), self.method.chunk_size)
        return vectors

    def _encode(self, part: dict[str, Any]) -> Tensor:
        vectors: Tensor = self.encoder(**part)
        return vectors
