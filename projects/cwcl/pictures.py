"""The image-text experiment: stages, export, plan and tasks."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from common.config import UserError
from common.data.lookup import data_root
from common.data.module import ContrastiveData
from common.engine.experiment import Experiment, Plan, Requirement, Stage, weights_requirement
from common.engine.workspace import Workspace
from common.families.image_text.class_captions import captioned_cifar
from common.families.image_text.data import (
    image_text_data,
    normalization,
    require_judged_sets,
    requirements,
    synthetic_set,
)
from common.families.image_text.experiment import image_text_experiment
from common.families.image_text.module import build_tokenizer
from projects.cwcl.classify import classify
from projects.cwcl.config import Config
from projects.cwcl.evaluate import evaluate_pairs, training_weights
from projects.cwcl.exported import load_locked, save_locked
from projects.cwcl.locked import build_towers, locked_data
from projects.cwcl.locked_towers import LockedEncoder
from projects.cwcl.module import ImageTextCWCL


def image_text(cfg: Config) -> Experiment[ImageTextCWCL]:
    """A frozen image tower and a text tower."""

    def make(encoder: Any = None) -> ImageTextCWCL:
        return ImageTextCWCL(cfg, encoder)

    def stages() -> Iterator[Stage]:
        require_judged_sets(cfg)
        for pairs in held_out_files(cfg):
            if not pairs.present:
                raise UserError(f"{pairs.name} not found: {pairs.location}. {pairs.hint}")
        module = make()
        monitor = "val/zeroshot_top1" if cfg.eval.validate else None
        yield Stage("train", module, training_data(cfg, module), monitor=monitor)

    def evaluate_more(module: ImageTextCWCL, workspace: Workspace) -> dict[str, float]:
        return evaluate_pairs(cfg, module, workspace, make)

    def cache(workspace: Workspace) -> None:
        if cfg.model.cache_dir is None:
            raise UserError("TASK=cache needs model.cache_dir, the folder that keeps the features")
        training_data(cfg, make())
        workspace.say(f"features are in {cfg.model.cache_dir}")

    def weights(workspace: Workspace) -> None:
        module = make()
        training_data(cfg, module)
        for name, value in training_weights(cfg, module).items():
            workspace.say(f"{name}: {value:.4f}")

    base = image_text_experiment(
        cfg,
        make,
        lambda tokenizer: image_text_data(cfg, tokenizer),
        evaluate_more=evaluate_more,
        stages=stages,
        tasks={
            "cache": cache,
            "weights": weights,
            "classify": lambda w: classify(cfg.classify, load_locked, w),
        },
    )

    def plan() -> Plan[ImageTextCWCL]:
        needed = (
            *requirements(cfg),
            *held_out_files(cfg),
            *weights_requirement(cfg.model.vision_pretrained),
        )
        bare = lambda: make(build_towers(cfg, weights=False))  # noqa: E731
        return replace(base.plan(), module=bare, requirements=needed)

    return replace(
        base,
        plan=plan,
        export=lambda module, folder: export(cfg, module, folder),
        load_export=lambda folder: load_export(cfg, folder),
    )


def held_out_files(cfg: Config) -> tuple[Requirement, ...]:
    """The CSV of held-out pairs, if one is named."""
    if cfg.eval.pairs is None:
        return ()
    path = data_root(cfg.data.root) / cfg.eval.pairs
    return (Requirement("eval: pairs", str(path), path.exists(), "a CSV path,caption"),)


def training_data(cfg: Config, module: ImageTextCWCL) -> ContrastiveData:
    """Pairs for training; the module gets its mean feature and the classes, if any."""
    if cfg.data.source == "cifar10":
        module.classes = captioned_cifar(cfg.data, "train", cfg.seed).labels
    elif cfg.data.source == "synthetic":
        module.classes = synthetic_set(cfg.data).labels
    about = {
        "source": cfg.data.source,
        "captions": cfg.data.captions,
        "images": cfg.data.images,
        "samples": cfg.data.num_samples,
        "size": cfg.data.image_size,
        "normalize": cfg.data.normalize,
        "seed": cfg.seed,
        "pool": cfg.data.train_fraction,
    }
    return locked_data(cfg, module, build_tokenizer(cfg.model), about)


def architecture(cfg: Config) -> dict[str, Any]:
    """Arguments of `build_locked` for our own towers, without the places of weights."""
    model = cfg.model
    return {
        "vision": model.vision,
        "image_size": cfg.data.image_size,
        "text_tower": model.text_tower,
        "text": dict(model.text),
        "projected": model.projected,
        "embed_dim": model.embed_dim,
    }


def export(cfg: Config, module: ImageTextCWCL, folder: Path) -> None:
    """open_clip's format where it can express the towers, else ours."""
    mean, std = normalization(cfg.data)
    save_locked(
        module.encoder,
        folder,
        architecture(cfg),
        log_scale=module.logit_scale.log_scale.detach(),
        image_size=cfg.data.image_size,
        mean=mean,
        std=std,
    )


def load_export(cfg: Config, folder: Path) -> ImageTextCWCL:
    """A module around exported towers."""
    loaded = load_locked(folder)
    encoder: LockedEncoder = loaded.encoder
    module = ImageTextCWCL(cfg, encoder)
    module.logit_scale.log_scale.data.fill_(loaded.log_scale)
    return module
