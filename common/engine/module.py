"""The one LightningModule level of the repository; projects subclass it once."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from lightning.pytorch import LightningModule
from torch import Tensor, nn

from common.config import OptimConfig, UserError
from common.distributed.differentiable import all_reduce_mean
from common.engine.optim import build_optimizer, build_schedule, decay_groups, scaled_optim
from common.engine.sharding import Sharded, by_kind, clip_to, shard


class NonFiniteLossError(UserError):
    """A loss term is NaN or infinite; raised before a checkpoint is written."""


class Guarded:
    """The terms of a step; whether they are finite is computed where they are.

    Args:
        step: optimiser steps before it.
        batches: terms and ids of its micro-batches.

    Attributes:
        late: whether the answer comes from a GPU, which is still at work.
    """

    def __init__(self, step: int, batches: list[tuple[dict[str, Tensor], Any]]) -> None:
        self.step, self.batches = step, batches
        checks = [torch.isfinite(v).all() for terms, _ in batches for v in terms.values()]
        answer = torch.stack(checks).all()
        self.late = answer.device.type == "cuda"
        self._answer = answer.to("cpu", non_blocking=True)
        self._copied = torch.cuda.Event() if self.late else None  # type: ignore[no-untyped-call]
        if self._copied is not None:
            self._copied.record()

    def finite(self) -> bool:
        """Whether all terms are; waits for this step, not for those launched since."""
        if self._copied is not None:
            self._copied.synchronize()
        return bool(self._answer)


def compile_called(network: nn.Module) -> None:
    """Compile a network its own way, else as a whole, else the parts of one without `forward`."""
    kind = type(network)
    if kind.compile is nn.Module.compile and kind.forward is nn.Module.forward:
        for part in network.children():
            compile_called(part)
    elif any(True for _ in network.parameters()) and next(network.children(), None) is not None:
        network.compile()


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
        # terms and ids of all micro-batches since the last optimiser step
        self._unchecked: list[tuple[dict[str, Tensor], Any]] = []
        self._guarded: Guarded | None = None

    def losses(self, batch: Any) -> dict[str, Tensor]:
        """Scalars of one training batch; must hold "loss"."""
        raise TypeError(f"{type(self).__name__} must implement losses(batch)")

    def after_optimizer_step(self) -> None:
        """Hook after each optimiser step: clamp a scale, update a momentum encoder, enqueue."""

    def adapt_to(self, state: dict[str, Tensor]) -> None:
        """Adopt sizes that depend on the data, before weights of a checkpoint are loaded."""

    def negatives_per_query(self, global_batch_size: int) -> int:
        """Negatives of each query per step; in-batch losses use all other samples."""
        return max(0, global_batch_size - 1) if self.in_batch_negatives else 0

    def parameter_groups(self) -> list[dict[str, Any]]:
        """Optimiser groups; by default weight decay spares biases, norms and logit scales."""
        return decay_groups(self.named_parameters(), self.optim.weight_decay)

    def fsdp_units(self) -> set[type[nn.Module]]:
        """Classes of the repeated blocks that FSDP2 shards one by one; empty: the module as one."""
        return set()

    def compile_encoders(self) -> None:
        """Compile every direct child network in place (keys of the state dict do not change)."""
        for child in self.children():
            compile_called(child)

    # -- Lightning hooks -------------------------------------------------------------------------

    def configure_model(self) -> None:
        """Shard the parameters over the processes, if the strategy requires it."""
        if isinstance(self.trainer.strategy, Sharded):
            mesh: Any = self.device_mesh
            shard(self, self.fsdp_units(), mesh["data_parallel"], str(self.trainer.precision))

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        """Loss of one batch; terms are checked before the optimiser step and logged."""
        terms = self.losses(batch)
        if "loss" not in terms:
            raise KeyError(f"{type(self).__name__}.losses must return 'loss', got {sorted(terms)}")
        self._note(terms, batch)
        return terms["loss"]

    def on_before_optimizer_step(self, optimizer: torch.optim.Optimizer) -> None:
        """Stop before the weights are touched when a term of any micro-batch is not finite.

        On a GPU one step later, when the answer is there: the host would wait for the device in
        every step. No checkpoint is written before the answer.
        """
        unchecked, self._unchecked = self._unchecked, []
        self._stop_unless_finite()
        if unchecked:
            self._guarded = Guarded(self.global_step, unchecked)
            if not self._guarded.late:
                self._stop_unless_finite()

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Stop rather than save weights that a term which is not finite has changed."""
        self._stop_unless_finite()

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
        """Clip the global norm, over the shards of all ranks where there are some."""
        if gradient_clip_val and isinstance(self.trainer.strategy, Sharded):
            clip_to(self.parameters(), gradient_clip_val)
        elif gradient_clip_val and self.trainer.precision == "bf16-mixed":
            # Lightning refuses this for a fused optimiser, as if gradients were scaled
            parameters = [p for group in optimizer.param_groups for p in group["params"]]
            nn.utils.clip_grad_norm_(parameters, gradient_clip_val)
        else:
            self.clip_gradients(optimizer, gradient_clip_val, gradient_clip_algorithm)

    def logged_terms(self) -> dict[str, Tensor]:
        """Detached terms of the last training batch, for the logging callback."""
        return self._pending

    def configure_optimizers(self) -> Any:
        """Optimiser and per-step schedule over the trainer's total number of steps."""
        return self._optimizer_of(self.parameter_groups())

    def _optimizer_of(self, groups: list[dict[str, Any]]) -> dict[str, Any]:
        """Optimiser of parameter groups and its schedule."""
        trainer = self.trainer
        # a fused optimiser unscales by itself, so nothing could clip before it
        clips_scaled = trainer.precision == "16-mixed" and trainer.gradient_clip_val
        optim = scaled_optim(self.optim, self.global_batch_size)
        if isinstance(trainer.strategy, Sharded):
            groups = [{**g, "params": part} for g in groups for part in by_kind(g["params"])]
        optimizer = build_optimizer(groups, optim, fused=not clips_scaled)
        warmup = optim.warmup_steps + round(optim.warmup_epochs * self.warmup_epoch_steps)
        schedule = build_schedule(
            optimizer, optim, total_steps=trainer.max_steps, warmup_steps=warmup
        )
        return {
            "optimizer": optimizer,
            "lr_scheduler": {"scheduler": schedule, "interval": "step"},
        }

    def _note(self, terms: Mapping[str, Tensor], batch: Any) -> None:
        """Keep the terms of a batch, to be checked before the optimiser step and to be logged."""
        self._pending = {name: value.detach() for name, value in terms.items()}
        ids = batch.get("ids") if isinstance(batch, dict) else None
        self._unchecked.append((self._pending, ids))

    def _stop_unless_finite(self) -> None:
        """Name what is not finite in the first micro-batch of a step that has such a term."""
        guarded, self._guarded = self._guarded, None
        if guarded is None or guarded.finite():
            return
        bad: list[str] = []
        ids: Any = None
        while not bad:
            terms, ids = guarded.batches.pop(0)
            bad = [name for name, v in terms.items() if not bool(torch.isfinite(v).all())]
        ids = ids.tolist() if isinstance(ids, Tensor) else ids
        where = ""
        for callback in getattr(self.trainer, "callbacks", []):
            if hasattr(callback, "save_bad_batch"):
                where = f"; the batch ids are in {callback.save_bad_batch(bad, ids)}"
        weights = "the weights were not changed"
        if guarded.late:
            weights = "the last checkpoint is from before"
        raise NonFiniteLossError(
            f"step {guarded.step}: {', '.join(bad)} is not finite, {weights}{where}. Lower "
            "optim.lr, set trainer.gradient_clip_val or look at the batch."
        )


class AlternatingModule(ContrastiveModule):
    """Several optimiser steps on one batch, each of one part of the network.

    A subclass names its parts and yields, from the generator `updates`, which part makes a step and
    the terms of its loss; what comes after a ``yield`` sees the weights that the step has changed.
    Every part has an optimiser and a schedule of its own. A step moves its part alone: no other
    gradient is computed. Trainer and checkpoints count a batch as one step however many it has.
    Gradients are not accumulated over batches.

    Args:
        optim: optimiser section of the config, of every part.
        alternating: False: one optimiser and one step, with `losses`, as any other module.

    Attributes:
        largest_norm: every step's gradient is clipped to this norm, of its part alone; None: not
            clipped. Set by the engine before the fit.
    """

    def __init__(self, optim: OptimConfig, *, alternating: bool = True) -> None:
        super().__init__(optim)
        self.automatic_optimization = not alternating
        self.largest_norm: float | None = None

    def parts(self) -> Mapping[str, nn.Module]:
        """Disjoint parts of the network, by name."""
        raise TypeError(f"{type(self).__name__} must implement parts()")

    def updates(self, batch: Any) -> Iterator[tuple[str, dict[str, Tensor]]]:
        """(part, scalars with "loss") of every step on a batch, computed when it is asked for."""
        raise TypeError(f"{type(self).__name__} must implement updates(batch)")

    def configure_optimizers(self) -> Any:
        """One optimiser, or one for each part in their order.

        Raises:
            UserError: a trainer that cannot make several steps on a batch.
        """
        if self.automatic_optimization:
            return super().configure_optimizers()
        trainer = self.trainer
        if trainer.precision == "16-mixed" or isinstance(trainer.strategy, Sharded):
            raise UserError(
                "several optimiser steps on a batch need trainer.precision=32-true or bf16-mixed,"
                " and trainer.strategy=ddp"
            )
        decay = self.optim.weight_decay
        return [
            self._optimizer_of(decay_groups(part.named_parameters(), decay))
            for part in self.parts().values()
        ]

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        """All steps of one batch."""
        if self.automatic_optimization:
            return super().training_step(batch, batch_idx)
        names = list(self.parts())
        logged: dict[str, Tensor] = {}
        for number, (name, terms) in enumerate(self.updates(batch)):
            self._note(terms, batch)
            self._step(names.index(name), terms["loss"], counted=number == 0)
            logged = {**self._pending, **logged}  # of a term that comes twice, the first
        self._pending = logged
        schedules: Any = self.lr_schedulers()
        for schedule in schedules:
            schedule.step()
        self.after_optimizer_step()
        return None

    def on_before_optimizer_step(self, optimizer: torch.optim.Optimizer) -> None:
        """The guard, then clipping, which the trainer does only where it makes the steps itself."""
        super().on_before_optimizer_step(optimizer)
        if self.largest_norm:
            owned = [p for group in optimizer.param_groups for p in group["params"]]
            torch.nn.utils.clip_grad_norm_(owned, self.largest_norm)

    def _step(self, index: int, loss: Tensor, counted: bool) -> None:
        optimizers: Any = self.optimizers()
        optimizer = optimizers[index]
        owned = [p for group in optimizer.param_groups for p in group["params"]]
        for parameter, grad in zip(owned, part_gradients(loss, owned), strict=True):
            parameter.grad = grad
        if counted:  # the trainer counts the steps of its own wrapper
            optimizer.step()
        else:
            self.trainer.strategy.optimizer_step(optimizer.optimizer, lambda: None)
        optimizer.zero_grad()


def part_gradients(loss: Tensor, parameters: Sequence[Tensor]) -> list[Tensor]:
    """Gradients of some of a network's parameters, averaged over ranks.

    They bypass the hooks of DDP, which would wait for the gradients of all others.

    Args:
        loss: this rank's, as DDP takes it: the mean over ranks is the whole loss.
        parameters: the loss depends on all of them.
    """
    grads = torch.autograd.grad(loss, parameters)
    flat = all_reduce_mean(torch.cat([grad.flatten() for grad in grads]))
    parts = torch.split(flat, [grad.numel() for grad in grads])
    return [part.view_as(grad) for part, grad in zip(parts, grads, strict=True)]


def freeze(module: nn.Module) -> nn.Module:
    """Switch off gradients and dropout of a teacher or frozen tower; returns it."""
    module.eval()
    return module.requires_grad_(False)
