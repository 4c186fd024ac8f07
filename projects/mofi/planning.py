"""What `make check` reports on: towers, sampled classes, memory of the class vectors, files."""

from dataclasses import replace
from typing import Any

from common.engine.experiment import Plan, Requirement, bundled_requirement
from projects.mofi.bundled import training_drawings
from projects.mofi.class_matrix import ClassMatrix
from projects.mofi.config import Config
from projects.mofi.data import files_of, read_entities
from projects.mofi.gpr1200 import SOURCE as GPR1200
from projects.mofi.gpr1200 import gpr_folder
from projects.mofi.module import MOFI

BUILD = "make run PROJECT=mofi TASK=build from your own images with alt-texts"


def plan(cfg: Config, family: Plan[MOFI]) -> Plan[MOFI]:
    """The family's plan with this set's size and files, and the class vectors."""
    number = num_classes(cfg)
    return replace(
        family,
        module=lambda: MOFI(cfg, None, number),
        num_samples=num_samples(cfg),
        requirements=(*requirements(cfg), *family.requirements),
        extra_bytes=lambda module, ranks: class_bytes(cfg, module, ranks),
    )


def class_bytes(cfg: Config, module: Any, ranks: int) -> dict[str, int]:
    """Bytes a device of class vectors with their moments, and of the rows of a step."""
    if module.classifier is None:
        return {}
    matrix, method = module.classifier.matrix, cfg.method
    kept = ClassMatrix.num_bytes(matrix.num_classes, matrix.dim, method.class_moments, ranks)
    # the rows of a step, their unit vectors, and a gradient of each
    sampled = -(-min(method.sampled, matrix.num_classes) // ranks)
    name = f"{matrix.num_classes:,} class vectors of {matrix.dim}"
    return {name: kept, f"{sampled:,} sampled rows a step": 4 * 4 * sampled * matrix.dim}


def num_classes(cfg: Config) -> int:
    """Entities of the set; of one that is not on disk, what the config says."""
    if cfg.data.source in ("jsonl", "webdataset") and files_of(cfg)[-1].exists():
        return len(read_entities(files_of(cfg)[-1]))
    return cfg.method.num_classes or 1000


def num_samples(cfg: Config) -> int:
    """Images of an epoch."""
    if cfg.data.source == "pool":
        return cfg.data.photos + round(
            cfg.data.train_fraction * len(training_drawings(cfg.data.root))
        )
    if cfg.data.source == "jsonl" and files_of(cfg)[0].exists():
        with files_of(cfg)[0].open("rb") as file:
            return sum(1 for _ in file)
    return cfg.data.num_samples or 64


def requirements(cfg: Config) -> tuple[Requirement, ...]:
    """Files of the training set, and GPR1200 where it is judged."""
    folder = gpr_folder(cfg)
    if folder is None:
        return training_files(cfg)
    judged = Requirement("eval: gpr1200", str(folder), folder.exists(), GPR1200)
    return (*training_files(cfg), judged)


def training_files(cfg: Config) -> tuple[Requirement, ...]:
    """Files of the training set."""
    if cfg.data.source == "pool":
        return tuple(map(bundled_requirement, ("cifar10", "drawings", "wordnet")))
    if cfg.data.source == "synthetic":
        return ()
    return tuple(Requirement(f"data: {p.name}", str(p), p.exists(), BUILD) for p in files_of(cfg))
