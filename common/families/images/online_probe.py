"""A linear classifier that learns alongside the encoder, on detached features of the same batches.

# N training samples, B samples of a batch, F features, C classes
"""

from typing import Any

import torch
from lightning.pytorch import Callback, Trainer
from torch import Tensor, nn
from torch.nn import functional as F

from common.config import UserError
from common.distributed.collectives import all_gather_no_grad


class OnlineProbe(Callback):
    """Monitors label-free training by the labels, without touching it.

    The classifier starts at zero and has its own Adam, so it draws no random numbers, and no
    gradient reaches the encoder: the run is the same with and without it. ``train/online_top1`` and
    ``train/online_loss`` are those of the batch before the step; with a validation that collects
    features, ``val/online_top1`` is its accuracy on the queries. Its state travels with
    checkpoints.

    Source: Chen et al. 2020, section 5 and appendix B.7 (linear evaluation while training), arXiv
    2002.05709.

    Args:
        labels: (N,) int64 in [0, num_classes), of the training samples by index.
        num_classes: C.
        lr: learning rate of Adam.

    Raises:
        UserError: a training sample has no label.

    Distributed: gathers features and labels; every rank takes the same step.
    """

    def __init__(self, labels: Tensor, num_classes: int, lr: float = 1e-3) -> None:
        if len(labels) == 0 or int(labels.min()) < 0 or int(labels.max()) >= num_classes:
            raise UserError("eval.online_probe needs the class of every training image")
        self.labels, self.num_classes, self.lr = labels, num_classes, lr
        self.weight: Tensor | None = None  # (C, F + 1), the last column is the bias
        self.optimizer: torch.optim.Adam | None = None
        self._features: list[Tensor] = []
        self._ids: Tensor | None = None
        self._hook: Any = None

    def on_train_start(self, trainer: Trainer, module: Any) -> None:
        """Listen to what the encoder puts out."""
        self._hook = module.network.encoder.register_forward_hook(self._listen)

    def on_train_end(self, trainer: Trainer, module: Any) -> None:
        """Stop listening."""
        if self._hook is not None:
            self._hook.remove()

    def on_train_batch_start(
        self, trainer: Trainer, module: Any, batch: Any, batch_idx: int
    ) -> None:
        """Note whose features will come."""
        self._features, self._ids = [], batch["ids"]

    def on_after_backward(self, trainer: Trainer, module: Any) -> None:
        """One step of the classifier on the features of this batch."""
        if self._ids is None or not self._features:
            return
        batch_labels = self.labels[self._ids.cpu()].to(self._features[0].device)
        features = torch.cat(self._features)  # view after view, each in the order of the ids
        features, labels = (
            all_gather_no_grad(x)
            for x in (features, batch_labels.repeat(len(features) // len(batch_labels)))
        )
        self._features, self._ids = [], None
        module.logged_terms().update(self.step(features, labels))

    def on_validation_epoch_end(self, trainer: Trainer, module: Any) -> None:
        """Accuracy on the second validation set, whose features the module still holds."""
        seen = getattr(module, "_seen", {}).get(1)
        if self.weight is None or not seen:
            return
        features, labels = (torch.cat(x) for x in zip(*seen, strict=True))
        features, labels = all_gather_no_grad(features), all_gather_no_grad(labels)
        hits = self.logits(features.to(self.weight.device)).argmax(1).cpu() == labels.cpu()
        module.log("val/online_top1", float(hits.double().mean()))

    def step(self, features: Tensor, labels: Tensor) -> dict[str, Tensor]:
        """Loss and accuracy before an optimiser step on features (M, F) and labels (M,)."""
        if self.weight is None:
            self._build(features.shape[1], features.device)
        elif self.weight.device != features.device:  # a checkpoint is read to the host
            self._restore(self.state_dict(), features.device)
        assert self.weight is not None
        assert self.optimizer is not None
        with torch.enable_grad():
            logits = self.logits(features.detach())
            loss = F.cross_entropy(logits, labels)
            (self.weight.grad,) = torch.autograd.grad(loss, self.weight)
        self.optimizer.step()
        hits = (logits.detach().argmax(1) == labels).float()
        return {"online_loss": loss.detach(), "online_top1": hits.mean()}

    def logits(self, features: Tensor) -> Tensor:
        """Features (M, F) -> (M, C)."""
        assert self.weight is not None
        return F.linear(features.float(), self.weight[:, :-1], self.weight[:, -1])

    def state_dict(self) -> dict[str, Any]:
        """Classifier and optimiser."""
        if self.weight is None or self.optimizer is None:
            return {}
        return {"weight": self.weight.detach().clone(), "optimizer": self.optimizer.state_dict()}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Continue where `state_dict` was."""
        if state_dict:
            self._restore(state_dict, state_dict["weight"].device)

    def _restore(self, state_dict: dict[str, Any], device: torch.device) -> None:
        weight = state_dict["weight"]
        self._build(weight.shape[1] - 1, device)
        assert self.weight is not None
        assert self.optimizer is not None
        self.weight.data.copy_(weight)
        self.optimizer.load_state_dict(state_dict["optimizer"])  # follows the weight's device

    def _build(self, num_features: int, device: torch.device) -> None:
        self.weight = nn.Parameter(torch.zeros(self.num_classes, num_features + 1, device=device))
        self.optimizer = torch.optim.Adam([self.weight], lr=self.lr)

    def _listen(self, encoder: nn.Module, inputs: Any, output: Tensor) -> None:
        if encoder.training and output.requires_grad:
            self._features.append(output.detach().float())
