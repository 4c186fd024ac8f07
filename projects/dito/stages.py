"""Image-level pretraining, detection-oriented pretraining and fine-tuning, in turn."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from common.config import UserError, to_dict
from common.engine.experiment import Plan, Stage
from common.engine.lifecycle.kept_weights import keep_weights, kept_path
from common.evaluation.image_text.zeroshot import SIMPLE_TEMPLATES
from projects.dito import coco
from projects.dito.config import Config
from projects.dito.data import base_names, num_samples, requirements, training_data
from projects.dito.detection.coco_boxes import check_library
from projects.dito.detection.mask_head import CROP
from projects.dito.module import DITO
from projects.dito.network import DitoNetwork, build_network, read_trained


def stages(cfg: Config) -> Iterator[Stage]:
    """Every stage of `method.stages`; runs of equal settings share the image-level ones.

    Raises:
        UserError: nothing has pretrained the backbone, what judges detections is not installed, or
            the annotation file that is judged is not there or broken.
    """
    if cfg.method.needs_start() and "image" not in read_trained(cfg.model.init_from):
        raise UserError(
            f"method.stages={cfg.method.stages} would start from a backbone with random weights:"
            " set model.init_from to the export of an image-level run, or begin with the stage"
            " image"
        )
    if cfg.eval.detections:
        check_library()
    if cfg.data.source == "coco":
        coco.require_judged(cfg.data)
    network = build_network(cfg.model, cfg.detect.rpn_convs)
    options = cfg.method
    steps = {"image": options.image_steps, "region": None, "detect": options.detect_steps}
    # the key of kept weights names these steps; of the folder it would know the name alone
    keyed = options.image_steps is not None and cfg.model.init_from is None
    for number, name in enumerate(options.stages):
        module = build_module(cfg, network, number)
        first = number == 0 and name == "image"
        max_steps = steps[name] if first or name == "detect" else None
        label = name if options.stages.index(name) == number else f"{name}_{number + 1}"
        trainer: dict[str, Any] = (
            {} if max_steps is None else {"max_steps": max_steps, "max_epochs": None}
        )
        shared = keyed and set(options.stages[: number + 1]) == {"image"}
        path = image_path(cfg, number) if shared else None
        weights = path if path is not None and path.is_file() else None
        data = training_data(cfg, name, network.tokenizer)
        yield Stage(label, module, data, trainer, weights=weights)
        if path is not None:
            keep_weights(path, module)


def build_module(cfg: Config, network: DitoNetwork, number: int) -> DITO:
    """Module of a stage, after the frozen VLM was copied and the classes were embedded."""
    name, classes = cfg.method.stages[number], None
    network.trained = [*read_trained(cfg.model.init_from), *cfg.method.stages[: number + 1]]
    if torch.get_default_device().type != "meta":
        set_vlm_aside(cfg, network, number)
        if name == "detect":
            network.base_names = base_names(cfg)
            classes = network.classes(network.base_names, templates_of(cfg))
    return DITO(cfg, network, name, first=number == 0, classes=classes)


def set_vlm_aside(cfg: Config, network: DitoNetwork, number: int) -> None:
    """Item 12: copy the backbone before the first later stage that changes it.

    Args:
        cfg: the experiment's config.
        network: as the stage before left it, or with new weights for the checkpoint of this stage.
        number: of the stage that begins.
    """
    options = cfg.method
    changes = {"region": not options.freeze_backbone, "detect": not options.detect_freeze_backbone}
    kept = network.vlm is not None
    for name in options.stages[: number + 1]:
        kept = name != "image" and (kept or changes[name])
    if not kept:
        network.vlm = None  # image-level pretraining trains the backbone: it is the VLM again
    elif network.vlm is None:
        network.keep_vlm()


def templates_of(cfg: Config) -> tuple[str, ...]:
    """Sentences around a class name."""
    return SIMPLE_TEMPLATES if cfg.eval.templates == "clip" else ("{}",)


def image_path(cfg: Config, number: int) -> Path:
    """Where the weights of an image-level stage are kept; arms of a comparison share them."""
    plain: dict[str, Any] = to_dict(cfg)
    parts = {name: plain[name] for name in ("data", "optim", "seed")} | {"number": number}
    parts["rpn_convs"] = cfg.detect.rpn_convs  # the untrained RPN is kept with the rest
    parts["model"] = {
        k: v for k, v in plain["model"].items() if k != "shift" or cfg.model.image_shift
    }
    names = ("image_steps", "image_lr", "loss", "focal_alpha", "focal_gamma")
    parts["method"] = {name: plain["method"][name] for name in names}
    if number == 0 and cfg.method.image_lr is not None:
        parts["optim"].pop("lr")
    trained_by = [
        "precision",
        "gradient_clip_val",
        "devices",  # with the nodes and the accumulation: the global batch
        "num_nodes",
        "accumulate_grad_batches",
        *(["max_steps", "max_epochs"] if number else []),
    ]
    parts["trainer"] = {name: plain["trainer"][name] for name in trained_by}
    return kept_path(Path(cfg.runs_dir) / "dito" / "pretraining", "image", "dito", parts)


def plan(cfg: Config) -> Plan[DITO]:
    """What `make check` reports on: the last stage."""

    def module() -> DITO:
        network = build_network(cfg.model, cfg.detect.rpn_convs)
        return build_module(cfg, network, len(cfg.method.stages) - 1)

    def forward(module: DITO, batch_size: int) -> Tensor:
        size, net = cfg.data.image_size, module.network
        images = torch.zeros(batch_size, 3, size, size)
        if module.stage == "image":
            return net.image_vectors(images).sum()
        with torch.set_grad_enabled(module.stage == "detect" or not cfg.method.freeze_backbone):
            grid = net.detector_map(images)
        maps = net.pyramid(grid)
        count = cfg.method.boxes if module.stage == "region" else cfg.detect.regions
        crops = maps[0].new_zeros(batch_size * count, cfg.model.channels, 7, 7)
        vectors, offsets = net.head(crops)
        total = vectors.sum() + offsets.sum()
        if module.stage == "detect":
            centerness, distances = net.rpn(maps)
            total = total + centerness.sum() + distances.sum()
            if net.mask_head is not None:
                drawn = int(count * cfg.detect.positive_fraction) * batch_size
                masks = net.mask_head(maps[0].new_zeros(drawn, cfg.model.channels, CROP, CROP))
                total = total + masks.sum()
        whole: torch.Tensor = total + torch.stack([m.sum() for m in maps]).sum()
        return whole

    return Plan(module, num_samples(cfg), forward, requirements(cfg))
