"""The one LightningModule level of the repository; projects subclass it once."""

from typing import Any

import torch
from lightning.pytorch import LightningModule
from lightning.pytorch.strategies import FSDPStrategy
from torch import Tensor, nn

from common.config import OptimConfig, UserError
from common.engine.optim import build_optimizer, build_schedule, decay_groups, scaled_optim


class NonFiniteLossError(UserError):
    """A loss term is NaN or infinite; raised before the optimiser step."""


class ContrastiveModule(LightningModule):
    """Optimiser, schedule, logging and the finite-loss guard; a project adds `losses`.

    A subclass builds its networks in ``__init__`` and implements `losses`, which returns
    ``{"loss": scalar to minimise, "<term>": scalar to log, ...}`` for one batch.

    Args:
        optim: optimiser section of the config.

    Attributes:
        in_batch_negatives: whether the objective depends on the batch; then gradient accumulation
            is refused unless the config allows it.
        warmup_epoch_steps: optimiser steps per epoch, set by the engine before the fit.
    """

    in_batch_negatives = True

    def __init__(self, optim: OptimConfig) -> None:
        super().__init__()
        self.optim = optim
        self.warmup_epoch_steps: float = 0.0
        self.global_batch_size = 0  # samples of an optimiser step, set by the engine
        self._pending: dict[str, Tensor] = {}
        self._pending_ids: Any = None

    def losses(self, batch: Any) -> dict[str, Tensor]:
        """Scalars of one training batch; must hold "loss"."""
        raise TypeError(f"{type(self).__name__} must implement losses(batch)")

    def after_optimizer_step(self) -> None:
        """Hook after each optimiser step: clamp a scale, update a momentum encoder, enqueue."""

    def adapt_to(self, state: dict[str, Tensor]) -> None:
        """Take over sizes that only the data know, before weights of a checkpoint are loaded."""

    def negatives_per_query(self, global_batch_size: int) -> int:
        """Negatives that each query meets per step; in-batch losses see all others."""
        return max(0, global_batch_size - 1) if self.in_batch_negatives else 0

    def parameter_groups(self) -> list[dict[str, Any]]:
        """Optimiser groups; by default weight decay spares biases, norms and logit scales."""
        return decay_groups(self.named_parameters(), self.optim.weight_decay)

    def fsdp_units(self) -> set[type[nn.Module]]:
        """Classes of the repeated blocks that FSDP shards one by one; empty: the module as one."""
        return set()

    def compile_encoders(self) -> None:
        """Compile every direct child network in place (keys of the state dict do not change)."""
        for child in self.children():
            if any(True for _ in child.parameters()) and next(child.children(), None) is not None:
                child.compile()

    # -- Lightning hooks -------------------------------------------------------------------------

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        """Loss of one batch; terms are checked before the optimiser step and logged."""
        terms = self.losses(batch)
        if "loss" not in terms:
            raise KeyError(f"{type(self).__name__}.losses must return 'loss', got {sorted(terms)}")
        self._pending = {name: value.detach() for name, value in terms.items()}
        self._pending_ids = batch.get("ids") if isinstance(batch, dict) else None
        return terms["loss"]

    def on_before_optimizer_step(self, optimizer: torch.optim.Optimizer) -> None:
        """Stop before the weights are touched when a term is not finite."""
        if not self._pending:
            return
        finite = torch.stack([torch.isfinite(v).all() for v in self._pending.values()])
        if not bool(finite.all()):
            self._stop_on_non_finite()

    def optimizer_step(self, *args: Any, **kwargs: Any) -> None:
        """The optimiser step, then the module's own hook."""
        super().optimizer_step(*args, **kwargs)
        self.after_optimizer_step()

    def configure_gradient_clipping(
        self,
        optimizer: Any,
        gradient_clip_val: float | None = None,
        gradient_clip_algorithm: str | None = None,
    ) -> None:
        """Clip the global norm; sharded gradients by FSDP itself, which Lightning leaves out."""
        strategy = self.trainer.strategy
        if gradient_clip_val and isinstance(strategy, FSDPStrategy):
            root: Any = strategy.model
            root.clip_grad_norm_(gradient_clip_val)
        else:
            self.clip_gradients(optimizer, gradient_clip_val, gradient_clip_algorithm)

    def logged_terms(self) -> dict[str, Tensor]:
        """Detached terms of the last training batch, for the logging callback."""
        return self._pending

    def configure_optimizers(self) -> Any:
        """Optimiser and per-step schedule over the trainer's total number of steps."""
        trainer = self.trainer
        # Lightning's mixed precision refuses to clip for an optimiser that could unscale by itself
        clips_mixed = trainer.precision.endswith("-mixed") and trainer.gradient_clip_val
        optim = scaled_optim(self.optim, self.global_batch_size)
        optimizer = build_optimizer(self.parameter_groups(), optim, fused=not clips_mixed)
        warmup = optim.warmup_steps + round(optim.warmup_epochs * self.warmup_epoch_steps)
        schedule = build_schedule(
            optimizer, optim, total_steps=trainer.max_steps, warmup_steps=warmup
        )
        return {
            "optimizer": optimizer,
            "lr_scheduler": {"scheduler": schedule, "interval": "step"},
        }

    def _stop_on_non_finite(self) -> None:
        bad = [name for name, v in self._pending.items() if not bool(torch.isfinite(v).all())]
        ids = self._pending_ids
        ids = ids.tolist() if isinstance(ids, Tensor) else ids
        where = ""
        for callback in getattr(self.trainer, "callbacks", []):
            if hasattr(callback, "save_bad_batch"):
                where = f"; the batch ids are in {callback.save_bad_batch(bad, ids)}"
        raise NonFiniteLossError(
            f"step {self.global_step}: {', '.join(bad)} is not finite, the weights were not "
            f"changed{where}. Lower optim.lr, set trainer.gradient_clip_val or look at the batch."
        )


def freeze(module: nn.Module) -> nn.Module:
    """Switch off gradients and dropout of a teacher or frozen tower; returns it."""
    module.eval()
    return module.requires_grad_(False)
