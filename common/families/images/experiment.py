"""Stages, evaluation, export and plan of an image project put together."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, Protocol, TypeVar

import torch
from torch import Tensor, nn

from common.config import ExperimentConfig
from common.data.image.files import FILE_SETS
from common.data.image.parts import ImagePart, Part
from common.data.layouts import Layout
from common.data.module import ContrastiveData
from common.encoders.heads import ProjectedEncoder
from common.engine.experiment import Experiment, Plan, Requirement, Stage
from common.engine.module import ContrastiveModule
from common.engine.node import sample_seconds
from common.engine.workspace import Workspace
from common.evaluation.own_data import Judge
from common.export.safetensors import load_safetensors, save_safetensors
from common.families.images.config import WatchedEval
from common.families.images.own_data import judge_class_folders
from common.families.images.validation import ImageModule, KnnValidatedModule

C = TypeVar("C", bound=ExperimentConfig)
N = TypeVar("N", bound=nn.Module)
M = TypeVar("M", bound=ImageModule[Any])
Shape = tuple[int, ...]  # of one image, channels first


@dataclass(frozen=True)
class TrainedNetwork(Generic[N]):
    """The network that an experiment trains, judges and exports.

    Attributes:
        build: makes it, in training and from an exported folder.
        options: arguments of `build`, plain values.
        passes: forward passes for one training sample: how many images (views) of which shape. The
            first shape is that of the images whose outputs are compared.
        outputs: named outputs, compared after export and reload.
    """

    build: Callable[..., N]
    options: Mapping[str, Any]
    passes: Sequence[tuple[int, Shape]]
    outputs: Callable[[N, Tensor], dict[str, Tensor]]


def image_experiment(
    cfg: C,
    make_module: Callable[[C, N], M],
    stages: Callable[[C], Iterator[Stage]],
    evaluate: Callable[[C, M, Workspace], dict[str, float]],
    network: TrainedNetwork[N],
    *,
    num_samples: Callable[[C], int],
    requirements: Callable[[C], tuple[Requirement, ...]],
    tasks: Mapping[str, Callable[[Workspace], None]] | None = None,
) -> Experiment[M]:
    """Experiment of a module around a network.

    Args:
        cfg: the project's config.
        make_module: module around a network.
        stages: what is trained, see `one_stage` and `watched_stage`; the last stage's module is
            one of `make_module`.
        evaluate: the paper's metrics.
        network: what is exported.
        num_samples: training images per epoch, for `make check`.
        requirements: data and weights, for `make check`.
        tasks: name -> callable for `make run TASK=name`.
    """

    def export(module: M, folder: Path) -> None:
        save_safetensors(module.network, folder, dict(network.options))

    def load_export(folder: Path) -> M:
        return make_module(cfg, load_safetensors(folder, network.build))

    def embed(module: M) -> dict[str, Tensor]:
        shape = (2, *network.passes[0][1])
        images = torch.linspace(-2, 2, torch.Size(shape).numel()).sin().reshape(shape)
        device = next(module.network.parameters()).device
        outputs = network.outputs(module.network, images.to(device))
        return {name: tensor.float().cpu() for name, tensor in outputs.items()}

    def forward(module: M, batch_size: int) -> Tensor:
        sums: list[Tensor] = []
        for views, shape in network.passes:
            output = module.network(torch.zeros(views * batch_size, *shape))
            sums += [x.sum() for x in ((output,) if isinstance(output, Tensor) else output)]
        return torch.stack(sums).sum()

    def plan() -> Plan[M]:
        def without_weights() -> M:
            return make_module(cfg, network.build(**network.options))

        files = getattr(cfg.data, "source", None) in FILE_SETS
        views = sum(count for count, _ in network.passes)
        seconds = sample_seconds(views=views, files=files)
        return Plan(
            without_weights,
            num_samples(cfg),
            forward,
            requirements(cfg),
            loader_seconds=seconds,
        )

    def judge(module: M, workspace: Workspace, folder: Path) -> dict[str, float]:
        def build() -> nn.Module:
            fresh = make_module(cfg, network.build(**network.options))
            encoder: nn.Module = fresh.network.get_submodule("encoder")
            return encoder

        return judge_class_folders(
            cfg, module.network.get_submodule("encoder"), build, workspace, folder
        )

    judges: Mapping[Layout, Judge] = cfg.eval.judges  # type: ignore[attr-defined]
    return Experiment(
        lambda: stages(cfg),
        lambda module, workspace: evaluate(cfg, module, workspace),
        export,
        load_export,
        embed,
        plan,
        tasks or {},
        {Layout.CLASSES: judge} if Layout.CLASSES in judges else {},
    )


def one_stage(
    make_module: Callable[[C], ContrastiveModule], build_data: Callable[[C], ContrastiveData]
) -> Callable[[C], Iterator[Stage]]:
    """The single stage "train"."""

    def stages(cfg: C) -> Iterator[Stage]:
        yield Stage("train", make_module(cfg), build_data(cfg))

    return stages


class WatchedConfig(Protocol):
    """The section that `watched_stage` reads."""

    @property
    def eval(self) -> WatchedEval:
        """Whether there is an online probe."""


W = TypeVar("W", bound=WatchedConfig)


def watched_stage(
    make_module: Callable[[W], KnnValidatedModule],
    build_data: Callable[[W], ContrastiveData],
    labelled: Callable[[W, Part], ImagePart],
) -> Callable[[W], Iterator[Stage]]:
    """The single stage "train", with a linear classifier alongside if ``cfg.eval.online_probe``.

    Args:
        make_module: the module before training.
        build_data: loaders.
        labelled: config, part -> images with classes; the classifier learns from "train".
    """

    def stages(cfg: W) -> Iterator[Stage]:
        module = make_module(cfg)
        if cfg.eval.online_probe:
            part = labelled(cfg, "train")
            module.probe_online(part.labels, len(part.class_names))
        yield Stage("train", module, build_data(cfg))

    return stages


def features_and_embeddings(network: ProjectedEncoder, images: Tensor) -> dict[str, Tensor]:
    """Outputs before and after the projector."""
    features = network.encoder(images)
    return {"features": features, "embeddings": network.projector(features)}
