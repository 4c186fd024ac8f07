"""Modules of image methods; validation by nearest neighbours while they train."""

from typing import Any, Generic, TypeVar

import torch
from torch import Tensor, nn

from common.config import OptimConfig
from common.distributed.collectives import all_gather_no_grad
from common.encoders.heads import ProjectedEncoder
from common.engine.module import ContrastiveModule
from common.engine.tracking import read_metrics
from common.engine.workspace import Workspace
from common.evaluation.features.knn import knn_accuracy
from common.evaluation.search import SearchResult, search
from common.families.images.online_probe import OnlineProbe

N = TypeVar("N", bound=nn.Module)


class ImageModule(ContrastiveModule, Generic[N]):
    """A method that trains one network.

    Attributes:
        network: set by the subclass; what the experiment exports.
    """

    network: N


class KnnValidatedModule(ImageModule[ProjectedEncoder]):
    """Adds encoding, ranking and a kNN validation to a module with an encoder and a projector.

    Validation needs two sets (`common.data.image.parts.EvalImages`): labelled bank, then queries;
    ``val/knn_top1`` is logged.

    Args:
        optim: optimiser section of the config.
        k: neighbours of the vote.
        temperature: of the vote's weights.
    """

    def __init__(self, optim: OptimConfig, *, k: int, temperature: float) -> None:
        super().__init__(optim)
        self.knn_k, self.knn_temperature = k, temperature
        self._seen: dict[int, list[tuple[Tensor, Tensor]]] = {}  # features of one validation
        self._online: OnlineProbe | None = None

    def probe_online(self, labels: Tensor, num_classes: int) -> None:
        """Also train a linear classifier on the detached features of every batch.

        Args:
            labels: (N,) int64, of the training images.
            num_classes: C.
        """
        self._online = OnlineProbe(labels, num_classes)

    def configure_callbacks(self) -> list[Any]:
        """The online probe, if there is one."""
        return [] if self._online is None else [self._online]

    def encode(self, images: Tensor) -> Tensor:
        """Normalised images (B, 3, H, W) -> features (B, F) before the projector."""
        features: Tensor = self.network.encoder(images)
        return features

    def rank(self, query: Tensor, gallery: Tensor, k: int = 10) -> SearchResult:
        """The k gallery images of largest feature cosine for each query image."""
        with torch.no_grad():
            return search(self.encode(query), self.encode(gallery), k)

    def validation_step(self, batch: Any, batch_idx: int, dataloader_idx: int = 0) -> None:
        """Collect features; loader 0 holds the bank, loader 1 the queries."""
        rows = self.encode(batch["images"]).float(), batch["labels"]
        self._seen.setdefault(dataloader_idx, []).append(rows)

    def on_validation_epoch_end(self) -> None:
        """Log the accuracy over the features of all ranks."""
        parts = []
        for index in sorted(self._seen):
            features, labels = zip(*self._seen[index], strict=True)
            parts += [all_gather_no_grad(torch.cat(x)).cpu() for x in (features, labels)]
        self._seen = {}
        accuracies = knn_accuracy(*parts, ks=[self.knn_k], temperature=self.knn_temperature)
        self.log("val/knn_top1", accuracies[f"knn{self.knn_k}_top1"])


def validation_curve(workspace: Workspace) -> None:
    """Draw the accuracies of the validations of a run; nothing if there was none.

    Args:
        workspace: of the run, whose ``metrics.csv`` is read.
    """
    path = workspace.curves
    curves = {k: v for k, v in read_metrics(path).items() if "val/" in k} if path.exists() else {}
    if not curves:
        return
    from matplotlib.figure import Figure

    figure = Figure(figsize=(4.5, 3))
    axes = figure.subplots()
    for name, points in sorted(curves.items()):
        label = name.rpartition("val/")[2].replace("_", " ")
        axes.plot([s for s, _ in points], [v for _, v in points], marker="o", label=label)
    axes.set_xlabel("step")
    axes.set_ylabel("accuracy while training")
    axes.legend(fontsize=8)
    workspace.figure("validation", figure)
