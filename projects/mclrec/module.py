"""The method: which loss moves which part, and in which order."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import pad

from common.engine.callbacks import StopWithoutGain
from common.engine.module import AlternatingModule
from projects.mclrec.config import Config
from projects.mclrec.item_list import check_items, item_hash
from projects.mclrec.network import Augmenters, encoder_options
from projects.mclrec.objective import Objective, recommendation_loss
from projects.mclrec.prefixes import SequenceBatch
from projects.mclrec.sasrec import SASRec, last_states
from projects.mclrec.validation import MONITOR, ValidationRanks


class MCLRec(AlternatingModule):
    """SASRec whose augmented sequences pass through augmenters that learn in a step of their own.

    Source: Qin et al. 2023, "Meta-optimized contrastive learning for sequential recommendation",
    Algorithm 1, arXiv 2304.07763.

    Args:
        cfg: the experiment's config.
        items: names of the I items in the order of their ids; their hash is kept with the weights.
        encoder: an exported encoder; None builds the one of the config. With one there are no
            augmenters: they serve training alone.

    Distributed: gathers negatives.
    """

    def __init__(self, cfg: Config, items: Sequence[str], encoder: SASRec | None = None) -> None:
        super().__init__(cfg.optim, alternating=cfg.method.alternates)
        model, method = cfg.model, cfg.method
        self.method, self.patience, self.items = method, cfg.eval.patience, item_hash(items)
        self.in_batch_negatives = method.contrasts
        self.encoder = encoder or SASRec(len(items), **encoder_options(model, cfg.data.max_length))
        self.augmenters: Augmenters | None = None
        if method.augments and encoder is None:
            inner, shared = list(model.augmenter_dims), model.shared_augmenter
            self.augmenters = Augmenters(model.dim, inner, shared=shared)
        self.objective = Objective(method)
        self.validation = ValidationRanks(self.encoder, cfg.eval.ks)

    def negatives_per_query(self, global_batch_size: int) -> int:
        """Both views of all other rows."""
        return 2 * max(0, global_batch_size - 1) if self.method.contrasts else 0

    def parts(self) -> Mapping[str, nn.Module]:
        """theta, and phi_1 with phi_2."""
        assert self.augmenters is not None
        return {"encoder": self.encoder, "augmenters": self.augmenters}

    def updates(self, batch: SequenceBatch) -> Iterator[tuple[str, dict[str, Tensor]]]:
        """The optimiser steps of a batch; dropout is resampled in each."""
        yield "encoder", self.losses(batch)  # Alg. 1, theta
        yield "augmenters", self.augmenter_terms(batch)  # Alg. 1, phi
        if self.method.steps == 3:  # released code
            yield "encoder", self.losses(batch)

    def losses(self, batch: SequenceBatch) -> dict[str, Tensor]:
        """L_0 of a batch, with its terms."""
        names = ["items", *(["view_1", "view_2"] if self.method.contrasts else [])]
        lengths = [batch["lengths" if n == "items" else f"{n}_lengths"] for n in names]  # type: ignore[literal-required]
        width = max(batch[n].shape[1] for n in names)  # type: ignore[literal-required]
        rows = [pad(batch[n], (0, width - batch[n].shape[1])) for n in names]  # type: ignore[literal-required]
        states, *views = self.encoder(torch.cat(rows), torch.cat(lengths)).chunk(len(rows))
        targets = pad(batch["targets"], (0, width - batch["targets"].shape[1]))
        predicted = targets > 0
        rec = recommendation_loss(self.encoder.scores(states[predicted]), targets[predicted])
        if not views:
            return self.objective.encoder_loss(rec, None, None)
        h_1, h_2 = (last_states(*pair) for pair in zip(views, lengths[1:], strict=True))
        z = None if self.augmenters is None else self.augmenters(h_1, h_2)
        return self.objective.encoder_loss(rec, (h_1, h_2), z)

    def augmenter_terms(self, batch: SequenceBatch) -> dict[str, Tensor]:
        """L_1 of a batch, encoded again by the encoder as it is now, which gets no gradient."""
        assert self.augmenters is not None
        h_1, h_2 = self.encode_views(batch)
        loss = self.objective.augmenter_loss((h_1, h_2), self.augmenters(h_1, h_2))["loss"]
        return {"augmenter_loss": loss, "loss": loss}

    @torch.no_grad()
    def encode_views(self, batch: SequenceBatch) -> tuple[Tensor, Tensor]:
        """Vectors (B, D) of both augmented sequences, without gradient."""
        return (
            self.encoder.user_vectors(batch["view_1"], batch["view_1_lengths"]),
            self.encoder.user_vectors(batch["view_2"], batch["view_2_lengths"]),
        )

    def validation_step(self, batch: dict[str, Tensor], batch_idx: int) -> None:
        """Ranks of the validation items among all items."""
        self.validation.add(batch)

    def on_validation_epoch_end(self) -> None:
        """Log the metrics over the users of all ranks."""
        for name, value in self.validation.result().items():
            self.log(name, value)

    def configure_callbacks(self) -> list[Any]:
        """Early stopping by MRR@10, if the config asks for it."""
        return [] if self.patience is None else [StopWithoutGain(MONITOR, self.patience)]

    def get_extra_state(self) -> Tensor:
        """Hash of the item names, in every state dict."""
        return self.items

    def set_extra_state(self, state: Tensor) -> None:
        """Refuse weights of other items."""
        check_items(state, self.items)
