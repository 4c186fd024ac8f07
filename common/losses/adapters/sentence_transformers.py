"""Multiple negatives ranking, plain and cached, for the trainer of sentence-transformers."""

from collections.abc import Callable, Iterable, Sequence
from typing import Any, Literal

import torch
from torch import Tensor

from ...kernels.specs.weights import Diagonal, ExcludePositive, ExcludeSelf, Spec
from ..base import PairLoss
from ..functional.info_nce import info_nce
from ..functional.kernel import joint_log_sum, mean_loss, sweep
from ..functional.masks import hardness_bias
from ..grad_cache import cached_encode

Direction = Literal["query_to_doc", "query_to_query", "doc_to_query", "doc_to_doc"]
DIRECTIONS = ("query_to_doc", "query_to_query", "doc_to_query", "doc_to_doc")


class MultipleNegativesRankingLoss(PairLoss):
    """InfoNCE of the columns of a data set, called as sentence-transformers calls it.

    The columns are (anchor, positive) or (anchor, positive, negative_1, ..., negative_n); every
    positive and negative of the batch is a candidate for every anchor.

    Source: Henderson et al. 2017, section 4.4, arXiv 1705.00652; directions: Li et al. 2023,
    section 3.3, arXiv 2308.03281.

    Args:
        model: maps features to {"sentence_embedding": (B, D)}.
        scale: > 0, multiplier of the similarities; 20 is temperature 0.05.
        similarity_fct: None or that library's `cos_sim` for cosines, `dot_score` for dot products.
        gather_across_devices: contrast with the rows of all processes.
        directions: which similarities enter: of a query with documents (always), with other
            queries, of its document with queries, and of its document with documents of other
            queries.
        partition_mode: "joint", one softmax over all directions, or "per_direction", the mean of
            one softmax each.
        hardness_mode: None, or "all_negatives": raise the logit of a negative by
            `hardness_strength` times its cosine, without gradient. "in_batch_negatives" is the
            same for pairs.
        hardness_strength: >= 0.

    Raises:
        ValueError: an option out of its range; another similarity; "hard_negatives", or
            "in_batch_negatives" with columns of negatives; fewer than two columns.

    Distributed: gathers negatives if `gather_across_devices`, else local.

    Deviation: columns are encoded one by one; logits are float32 under autocast.

    >>> import torch
    >>> loss = MultipleNegativesRankingLoss(model=None, scale=torch.tensor(3.0).log().item())
    >>> loss.compute_loss_from_embeddings([torch.eye(2), torch.eye(2)]).exp()  # (3 + 1) / 3
    tensor(1.3333)
    """

    def __init__(
        self,
        model: Any,
        scale: float = 20.0,
        similarity_fct: Callable[..., Tensor] | None = None,
        gather_across_devices: bool = False,
        directions: Sequence[Direction] = ("query_to_doc",),
        partition_mode: Literal["joint", "per_direction"] = "joint",
        hardness_mode: Literal["in_batch_negatives", "hard_negatives", "all_negatives"]
        | None = None,
        hardness_strength: float = 0.0,
    ) -> None:
        super().__init__(gather=gather_across_devices)
        if scale <= 0:
            raise ValueError(f"Scale must be a positive value, got {scale}")
        if hardness_strength < 0:
            raise ValueError(f"hardness_strength must be >= 0, got {hardness_strength}")
        if not set(directions) <= set(DIRECTIONS) or "query_to_doc" not in directions:
            raise ValueError(
                f"directions must be of {DIRECTIONS}, with query_to_doc; got {directions}"
            )
        if partition_mode not in ("joint", "per_direction"):
            raise ValueError(f"partition_mode must be joint or per_direction, got {partition_mode}")
        same_kind = {"query_to_query", "doc_to_doc"} & set(directions)
        if partition_mode == "per_direction" and same_kind:
            raise ValueError(
                f"partition_mode='per_direction' needs the positive in every direction, which "
                f"{sorted(same_kind)} lack: use 'joint'"
            )
        if hardness_mode not in (None, "in_batch_negatives", "all_negatives"):
            raise ValueError(
                f"hardness_mode must be all_negatives, in_batch_negatives (for pairs) or None, "
                f"got {hardness_mode!r}"
            )
        self.model = model
        self.scale = scale
        self.similarity_fct = similarity_fct
        self.gather_across_devices = gather_across_devices
        self.directions = tuple(directions)
        self.partition_mode = partition_mode
        self.hardness_mode = hardness_mode
        self.hardness_strength = hardness_strength

    def forward(
        self, sentence_features: Iterable[dict[str, Any]], labels: Tensor | None = None
    ) -> Tensor:
        """Loss of a batch.

        Args:
            sentence_features: features of each column, B rows each.
            labels: not used; a row's positive is its own.
        """
        columns = [self._encode(features) for features in sentence_features]
        return self.compute_loss_from_embeddings(columns, labels)

    def _encode(self, features: dict[str, Any]) -> Tensor:
        encoded: Tensor = self.model(features)["sentence_embedding"]
        return encoded

    def compute_loss_from_embeddings(
        self, embeddings: Sequence[Tensor], labels: Tensor | None = None
    ) -> Tensor:
        """Loss of encoded columns.

        Args:
            embeddings: (B, D) each: queries, positives, then negatives.
            labels: not used.
        """
        if len(embeddings) < 2:
            raise ValueError(f"a loss needs an anchor and a positive, got {len(embeddings)} column")
        query, positive, *negatives = (self.prepare(x) for x in embeddings)
        hard = torch.stack(negatives, dim=1) if negatives else None
        mask = self._hardness(query, positive, hard)
        kernel = self.kernel
        forward = info_nce(query, positive, self.scale, hard_negatives=hard, mask=mask, **kernel)
        if self.directions == ("query_to_doc",):
            return forward.loss
        logit = self.scale * (query * positive).sum(-1)
        log_sums = [forward.per_sample + logit, *self._other_directions(query, positive, negatives)]
        if self.partition_mode == "joint":
            return mean_loss(joint_log_sum(log_sums) - logit, kernel)
        return mean_loss(torch.stack(log_sums).mean(0) - logit, kernel)

    def _hardness(self, query: Tensor, positive: Tensor, hard: Tensor | None) -> Spec | None:
        if self.hardness_mode is None or not self.hardness_strength:
            return None
        if self.hardness_mode == "in_batch_negatives" and hard is not None:
            raise ValueError(
                "hardness_mode='in_batch_negatives' is for pairs: with columns of negatives use "
                "'all_negatives'"
            )
        columns = [positive] if hard is None else [positive, hard.flatten(0, 1)]
        return hardness_bias(query, columns, self.hardness_strength)

    def _other_directions(
        self, query: Tensor, positive: Tensor, negatives: list[Tensor]
    ) -> list[Tensor]:
        """Log-sums (B,) of the similarities between queries, to queries and between documents."""
        scale, kernel = self.scale, self.kernel
        log_sums = []
        if "query_to_query" in self.directions:
            log_sums.append(sweep(query, query, scale, ExcludeSelf(), **kernel).row_lse)
        if "doc_to_query" in self.directions:
            log_sums.append(sweep(positive, query, scale, Diagonal(), **kernel).row_lse)
        if "doc_to_doc" in self.directions:
            log_sums.append(sweep(positive, positive, scale, ExcludeSelf(), **kernel).row_lse)
            other = Diagonal() & ExcludePositive()
            log_sums += [sweep(positive, x, scale, other, **kernel).row_lse for x in negatives]
        return log_sums

    @property
    def similarity_fct(self) -> Callable[..., Tensor] | None:
        """What compares two embeddings; setting it to another function is refused."""
        return self._similarity_fct

    @similarity_fct.setter
    def similarity_fct(self, function: Callable[..., Tensor] | None) -> None:
        name = getattr(getattr(function, "func", function), "__name__", None)  # also of a partial
        if function is not None and name not in ("cos_sim", "dot_score"):
            raise ValueError(f"similarity_fct must be cos_sim or dot_score, got {function}")
        self._similarity_fct = function
        self.normalize = name != "dot_score"

    @property
    def temperature(self) -> float:
        """1 / scale."""
        return 1 / self.scale

    def get_config_dict(self) -> dict[str, Any]:
        """Options, for the model card."""
        return {
            "scale": self.scale,
            "similarity_fct": "cos_sim" if self.normalize else "dot_score",
            "gather_across_devices": self.gather_across_devices,
            "directions": self.directions,
            "partition_mode": self.partition_mode,
            "hardness_mode": self.hardness_mode,
            "hardness_strength": self.hardness_strength,
        }


class CachedMultipleNegativesRankingLoss(MultipleNegativesRankingLoss):
    """`MultipleNegativesRankingLoss` with the activations of one mini-batch in memory at a time.

    Source: Gao et al. 2021, section 3.2, arXiv 2101.06983; see `cached_encode`.

    Args:
        model: as `MultipleNegativesRankingLoss`; so are all options not listed here.
        scale: > 0.
        similarity_fct: None, `cos_sim` or `dot_score`.
        mini_batch_size: rows that are encoded at a time.
        mini_batch_num_tokens: must be None.
        gather_across_devices: contrast with the rows of all processes.
        directions: which similarities enter.
        partition_mode: "joint" or "per_direction".
        show_progress_bar: must be False.
        hardness_mode: None, "all_negatives" or "in_batch_negatives".
        hardness_strength: >= 0.

    Raises:
        ValueError: as `MultipleNegativesRankingLoss`; an option that is not supported; use inside
            `AdaptiveLayerLoss`, which replaces the model's forward.

    Distributed: gathers negatives if `gather_across_devices`, else local.

    >>> import torch
    >>> class Model(torch.nn.Module):
    ...     def forward(self, features):
    ...         return {"sentence_embedding": features["x"]}
    >>> loss = CachedMultipleNegativesRankingLoss(Model(), scale=1.0, mini_batch_size=1)
    >>> loss([{"x": torch.eye(2)}, {"x": torch.eye(2)}]).exp()  # (e + 1) / e
    tensor(1.3679)
    """

    uses_gradient_cache = True  # read by that library's MatryoshkaLoss and AdaptiveLayerLoss

    def __init__(
        self,
        model: Any,
        scale: float = 20.0,
        similarity_fct: Callable[..., Tensor] | None = None,
        mini_batch_size: int = 32,
        mini_batch_num_tokens: int | None = None,
        gather_across_devices: bool = False,
        directions: Sequence[Direction] = ("query_to_doc",),
        partition_mode: Literal["joint", "per_direction"] = "joint",
        show_progress_bar: bool = False,
        hardness_mode: Literal["in_batch_negatives", "hard_negatives", "all_negatives"]
        | None = None,
        hardness_strength: float = 0.0,
    ) -> None:
        super().__init__(
            model,
            scale,
            similarity_fct,
            gather_across_devices,
            directions,
            partition_mode,
            hardness_mode,
            hardness_strength,
        )
        if mini_batch_num_tokens is not None or show_progress_bar:
            raise ValueError(
                "mini_batch_num_tokens and show_progress_bar are not supported: give "
                "mini_batch_size"
            )
        if mini_batch_size < 1:
            raise ValueError(f"mini_batch_size must be >= 1, got {mini_batch_size}")
        self.mini_batch_size = mini_batch_size

    def forward(
        self, sentence_features: Iterable[dict[str, Any]], labels: Tensor | None = None
    ) -> Tensor:
        """Loss of a batch.

        Args:
            sentence_features: features of each column, B rows each.
            labels: not used; a row's positive is its own.
        """
        columns = [self._encode(features) for features in sentence_features]
        if "calculate_loss" not in vars(self):
            return self.compute_loss_from_embeddings(columns, labels)
        # MatryoshkaLoss has replaced it by its own, which differentiates inside the forward pass
        leaves = [column.detach().requires_grad_(column.requires_grad) for column in columns]
        loss = self.calculate_loss([[x] for x in leaves], labels, with_backward=True)
        parts = [
            (x * leaf.grad).sum()
            for x, leaf in zip(columns, leaves, strict=True)
            if leaf.grad is not None
        ]
        return loss + sum(part - part.detach() for part in parts)

    def calculate_loss(
        self,
        reps: Sequence[Sequence[Tensor]],
        labels: Tensor | None = None,
        *,
        with_backward: bool = False,
    ) -> Tensor:
        """Loss of columns that were encoded in mini-batches; `MatryoshkaLoss` wraps it.

        Args:
            reps: columns of mini-batches of (b, D).
            labels: not used.
            with_backward: also add the gradients to `reps`, and return the loss without a graph.
        """
        columns = [torch.cat(list(parts)) for parts in reps]
        loss = self.compute_loss_from_embeddings(columns, labels)
        if not (with_backward and loss.requires_grad):
            return loss
        loss.backward()  # type: ignore[no-untyped-call]
        return loss.detach()

    def _encode(self, features: dict[str, Any]) -> Tensor:
        if type(self.model.forward).__name__ == "ForwardDecorator":  # of a wrapping loss
            raise ValueError(
                "AdaptiveLayerLoss does not work with the cached loss: use "
                "MultipleNegativesRankingLoss inside it"
            )
        encode = super()._encode

        def fresh(chunk: dict[str, Any]) -> Tensor:  # models write into features, masks included
            copied = {k: x.clone() if isinstance(x, Tensor) else x for k, x in chunk.items()}
            return encode(copied)

        encoded: Tensor = cached_encode(fresh, dict(features), self.mini_batch_size)
        return encoded

    def get_config_dict(self) -> dict[str, Any]:
        """Options, for the model card."""
        sizes = {"mini_batch_size": self.mini_batch_size, "mini_batch_num_tokens": None}
        return {**super().get_config_dict(), **sizes}
