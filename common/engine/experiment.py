"""What a project gives the engine: stages, evaluation, export and extra tasks.

`Plan` and `Experiment` are generic in the project's module, so that its functions take and return
that class without a check of their own: ``Experiment[DCL]``.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Generic, Literal, TypeVar

from torch import Tensor

from common.data.layouts import Layout
from common.data.lookup import BUNDLED
from common.data.module import ContrastiveData
from common.encoders.pretrained import resolve_pretrained
from common.engine.module import ContrastiveModule
from common.engine.workspace import Workspace

M = TypeVar("M", bound=ContrastiveModule)
C = TypeVar("C")  # a project's config


@dataclass(frozen=True)
class Stage:
    """One fit: a module, its data, and what differs from the config's trainer section.

    Attributes:
        name: unique within the experiment; names the checkpoint folder.
        module: trained in place. Stages of one experiment may differ in its class; the last one's
            is what the experiment evaluates and exports.
        data: training and validation data.
        trainer: overrides of `TrainerConfig` fields for this stage.
        monitor: logged validation key that selects the best checkpoint; None keeps only the last.
        monitor_mode: whether a larger or a smaller value is better.
        weights: checkpoint of an equal stage of another run, which is loaded instead of fitted.
    """

    name: str
    module: ContrastiveModule
    data: ContrastiveData
    trainer: Mapping[str, Any] = field(default_factory=dict)
    monitor: str | None = None
    monitor_mode: Literal["min", "max"] = "max"
    weights: Path | None = None


@dataclass(frozen=True)
class Requirement:
    """A data set or weight file that a config needs, for `make check`."""

    name: str
    location: str
    present: bool
    hint: str = ""


def weights_requirement(pretrained: str) -> tuple[Requirement, ...]:
    """The weights of a ``pretrained:`` string; nothing for "random"."""
    if pretrained == "random":
        return ()
    ref = resolve_pretrained(pretrained, require=False)
    hint = "download it once with network access, or give a local folder"
    return (Requirement(f"weights: {ref.spec}", str(ref.path or ref.name), ref.present, hint),)


def bundled_requirement(folder: str, name: str | None = None) -> Requirement:
    """A set that ships with the repository, below ``data/``; `name` is that of a part of it."""
    here = (BUNDLED / folder).exists()
    return Requirement(f"data: {name or folder} (bundled)", f"data/{folder}", here)


@dataclass(frozen=True)
class Plan(Generic[M]):
    """What `make check` reports on; its callables run on the meta device.

    Attributes:
        module: builds the (last stage's) module.
        num_samples: training samples per epoch.
        forward: runs the encoders on a meta batch of that many samples and returns a tensor with
            a graph, so that saved activations can be counted; None skips the activation estimate.
        requirements: what must lie on disk.
        extra_bytes: (module, devices) -> bytes a device by name that neither parameters, gradients
            nor optimiser account for, such as vectors of a class matrix that is shared out.
        spread: devices over which each process spreads the module, whose weights are frozen.
        loader_seconds: that a core of a loader spends on a sample; None: not known.
    """

    module: Callable[[], M]
    num_samples: int
    forward: Callable[[M, int], Tensor] | None = None
    requirements: tuple[Requirement, ...] = ()
    extra_bytes: Callable[[M, int], Mapping[str, int]] | None = None
    loader_seconds: float | None = None
    spread: int = 1


@dataclass(frozen=True)
class Experiment(Generic[M]):
    """The contract between a project and the engine.

    Attributes:
        stages: generator function; after each ``yield`` the stage has been fitted (or, on resume,
            its weights have been loaded), so the next stage can be built from it.
        evaluate: the paper's metrics of the last stage's module, flat, in eval mode.
        export: writes a folder which the field's library loads.
        load_export: rebuilds an evaluable module from such a folder.
        embed: embeddings of a small fixed input by name; compared after export and reload.
        plan: what `make check` reports on.
        tasks: name -> callable for `make run TASK=name`.
        judges: layout -> metrics of the module on a file or folder of the user, in place of
            `evaluate`; layouts that the project's own evaluation reads by its settings have none.
        assist: what the other processes of a run do while its owner evaluates, such as encoding
            shards of a collection; the owner never depends on it.
    """

    stages: Callable[[], Iterator[Stage]]
    evaluate: Callable[[M, Workspace], dict[str, float]]
    export: Callable[[M, Path], None]
    load_export: Callable[[Path], M]
    embed: Callable[[M], dict[str, Tensor]]
    plan: Callable[[], Plan[M]]
    tasks: Mapping[str, Callable[[Workspace], object]] = field(default_factory=dict)
    judges: Mapping[Layout, Callable[[M, Workspace, Path], dict[str, float]]] = field(
        default_factory=dict
    )
    assist: Callable[[M], None] | None = None


def experiment_of(
    cfg: C,
    stages: Callable[[C], Iterator[Stage]],
    evaluate: Callable[[C, M, Workspace], dict[str, float]],
    export: Callable[[C, M, Path], None],
    load_export: Callable[[C, Path], M],
    embed: Callable[[C, M], dict[str, Tensor]],
    plan: Callable[[C], Plan[M]],
    tasks: Mapping[str, Callable[[C, Workspace], object]] | None = None,
) -> Experiment[M]:
    """`Experiment` of functions whose first argument is the config."""
    return Experiment(
        partial(stages, cfg),
        partial(evaluate, cfg),
        partial(export, cfg),
        partial(load_export, cfg),
        partial(embed, cfg),
        partial(plan, cfg),
        {name: partial(task, cfg) for name, task in (tasks or {}).items()},
    )
