"""Data, module, evaluation, export and tasks put together."""

import dataclasses
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from common.config import ExperimentConfig
from common.data.image.parts import ImagePart, Part
from common.data.image.sources import ImageTransform
from common.data.module import ContrastiveData
from common.engine.experiment import Experiment, Plan, Requirement, Stage
from common.engine.module import ContrastiveModule
from common.engine.workspace import Workspace
from common.export.safetensors import load_safetensors, save_safetensors
from common.families.images.linear import linear_experiment
from common.families.images.validation import KnnValidatedModule

C = TypeVar("C", bound=ExperimentConfig)
M = TypeVar("M", bound=ContrastiveModule)
Shape = tuple[int, ...]  # of one image, channels first


def features_and_embeddings(network: Any, images: Tensor) -> dict[str, Tensor]:
    """Outputs of a `ProjectedEncoder`: before and after its projector."""
    features = network.encoder(images)
    return {"features": features, "embeddings": network.projector(features)}


def image_experiment(
    cfg: C,
    make_module: Callable[..., M],
    build_data: Callable[[C], ContrastiveData],
    evaluate: Callable[[C, M, Workspace], dict[str, float]],
    build_network: Callable[..., nn.Module],
    network_options: Callable[[C], dict[str, Any]],
    *,
    num_samples: Callable[[C], int],
    requirements: Callable[[C], tuple[Requirement, ...]],
    passes: Sequence[tuple[int, Shape]],
    outputs: Callable[[Any, Tensor], dict[str, Tensor]] = features_and_embeddings,
    labelled: Callable[[Any, Part], ImagePart] | None = None,
    views: Callable[[Any], ImageTransform] | None = None,
    stages: Callable[[], Iterator[Stage]] | None = None,
    tasks: Mapping[str, Callable[[Workspace], None]] | None = None,
) -> Experiment[M]:
    """Experiment of a module whose `network` is trained, judged and exported.

    Args:
        cfg: the project's config.
        make_module: the module's class, ``M(cfg, network=None)``; without a network it builds one.
        build_data: loaders.
        evaluate: the paper's metrics.
        build_network: rebuilds the network of an exported folder.
        network_options: the arguments of `build_network`, plain values.
        num_samples: training images per epoch, for `make check`.
        requirements: what must lie on disk.
        passes: forward passes of the network for one training sample: how many images (views) of
            which shape, for the memory estimate. The first shape is that of the probe images.
        outputs: named outputs of the network, compared after export and reload.
        labelled: config, part -> images with classes. With ``cfg.eval.online_probe`` a linear
            classifier learns from the training part on the side, for a `KnnValidatedModule`.
        views: data section -> training transform of a view. With ``cfg.linear.train`` the
            experiment is `linear_experiment` on the parts of `labelled` in the method's place.
        stages: replaces the single stage "train".
        tasks: name -> callable for `make run TASK=name`.
    """
    sections: Any = cfg
    if labelled is not None and views is not None and sections.linear.train:
        found: Any = linear_experiment(
            sections,
            build_network,
            network_options(cfg),
            labelled,
            views,
            requirements(cfg),
        )
        return found  # type: ignore[no-any-return]

    def one_stage() -> Iterator[Stage]:
        module = make_module(cfg)
        if labelled is not None and sections.eval.online_probe:
            assert isinstance(module, KnnValidatedModule)
            part = labelled(cfg, "train")
            module.probe_online(part.labels, len(part.class_names))
        yield Stage("train", module, build_data(cfg))

    def export(module: M, folder: Path) -> None:
        save_safetensors(network_of(module), folder, network_options(cfg))

    def load_export(folder: Path) -> M:
        return make_module(cfg, load_safetensors(folder, build_network))

    def embed(module: M) -> dict[str, Tensor]:
        network, shape = network_of(module), (2, *passes[0][1])
        images = torch.linspace(-2, 2, torch.Size(shape).numel()).sin().reshape(shape)
        found = outputs(network, images.to(next(network.parameters()).device))
        return {name: tensor.float().cpu() for name, tensor in found.items()}

    def forward(module: M, batch_size: int) -> Tensor:
        sums: list[Tensor] = []
        for views, shape in passes:
            found = network_of(module)(torch.zeros(views * batch_size, *shape))
            sums += [x.sum() for x in ((found,) if isinstance(found, Tensor) else found)]
        return torch.stack(sums).sum()

    def plan() -> Plan[M]:
        bare = without_weights(cfg)
        return Plan(lambda: make_module(bare), num_samples(cfg), forward, requirements(cfg))

    return Experiment(
        stages or one_stage,
        lambda module, workspace: evaluate(cfg, module, workspace),
        export,
        load_export,
        embed,
        plan,
        tasks or {},
    )


def network_of(module: nn.Module) -> nn.Module:
    """What a module trains and exports."""
    network: nn.Module = module.network  # type: ignore[assignment]
    return network


def without_weights(cfg: C) -> C:
    """The config without weights to load, for a plan that looks at shapes only."""
    model: Any = getattr(cfg, "model")  # noqa: B009
    none = {"pretrained": "random", "init_from": None}
    bare = {name: value for name, value in none.items() if hasattr(model, name)}
    changed: dict[str, Any] = {"model": dataclasses.replace(model, **bare)}
    return dataclasses.replace(cfg, **changed)
