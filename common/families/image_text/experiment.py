"""Data, module, evaluation, export and tasks put together."""

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Protocol, TypeVar

import torch
from torch import Tensor

from common.data.image_text.drawings import write_pool_texts
from common.data.layouts import Layout
from common.data.lookup import data_root
from common.data.module import ContrastiveData
from common.data.text.tokenizers import ClipTokenizer
from common.engine.experiment import Experiment, Plan, Stage
from common.engine.node import sample_seconds
from common.engine.workspace import Workspace
from common.export.open_clip import load_open_clip, save_open_clip
from common.families.image_text.data import (
    normalization,
    num_samples,
    require_judged_sets,
    requirements,
)
from common.families.image_text.drawings import POOL
from common.families.image_text.evaluation import evaluate_image_text
from common.families.image_text.module import Encoder, ImageTextModule, build_tokenizer
from common.families.image_text.own_data import judge_captions, judge_class_folders
from common.families.image_text.protocol import ImageTextConfig

M_co = TypeVar("M_co", bound=ImageTextModule, covariant=True)
M = TypeVar("M", bound=ImageTextModule)

PROBES = ["a drawing of a cat", "two red arrows"]


class MakeModule(Protocol[M_co]):
    """A project's module around given towers, or around those of its config."""

    def __call__(self, encoder: Encoder | None = None) -> M_co:
        """Build it."""


def image_text_experiment(
    cfg: ImageTextConfig,
    make_module: MakeModule[M],
    make_data: Callable[[ClipTokenizer], ContrastiveData] | None = None,
    *,
    evaluate_more: Callable[[M, Workspace], dict[str, float]] | None = None,
    stages: Callable[[], Iterator[Stage]] | None = None,
    tasks: Mapping[str, Callable[[Workspace], object]] | None = None,
    num_texts: int = 1,
    num_images: int = 1,
    texts_from: str = "",
) -> Experiment[M]:
    """Experiment of two towers on pairs, exported for open_clip.

    Args:
        cfg: the project's config.
        make_module: module around towers.
        make_data: training and validation data of the stage "train", given the tokenizer; see
            `image_text_data`. None where `stages` makes its own.
        evaluate_more: metrics alongside those of `evaluate_image_text`, in its own evaluation mode.
        stages: replaces the single stage "train".
        tasks: alongside "pool_texts", which writes the texts of the drawings again.
        num_texts: texts of a sample that the text tower sees, for the memory estimate.
        num_images: views of a sample that the image tower sees.
        texts_from: see `image_text_data`.

    Raises:
        ValueError: neither `make_data` nor `stages`.
    """
    if make_data is None and stages is None:
        raise ValueError("an experiment needs the data of its stage, or stages of its own")

    def one_stage() -> Iterator[Stage]:
        require_judged_sets(cfg)
        assert make_data is not None
        data = make_data(build_tokenizer(cfg.model))
        monitor = "val/zeroshot_top1" if cfg.eval.validate else None
        yield Stage("train", make_module(), data, monitor=monitor)

    def evaluate(module: M, workspace: Workspace) -> dict[str, float]:
        metrics = evaluate_image_text(cfg, module, workspace, make_module)
        return metrics | (evaluate_more(module, workspace) if evaluate_more else {})

    def export(module: M, folder: Path) -> None:
        mean, std = normalization(cfg.data)
        log_scale = module.logit_scale.log_scale
        save_open_clip(
            module.encoder,
            folder,
            log_scale=log_scale,
            mean=mean,
            std=std,
            interpolation=cfg.data.eval_interpolation,
        )

    def load_export(folder: Path) -> M:
        encoder = load_open_clip(folder)
        module = make_module(encoder)
        module.logit_scale.log_scale.data.fill_(encoder.log_scale)
        return module

    def embed(module: M) -> dict[str, Tensor]:
        size = cfg.data.image_size
        images = torch.linspace(-2, 2, 2 * 3 * size * size).sin().reshape(2, 3, size, size)
        device = module.logit_scale.log_scale.device
        image = module.encoder.encode_image(images.to(device))
        return {"image": image.float().cpu(), "text": module.encode_texts(PROBES).cpu()}

    def forward(module: M, batch_size: int) -> Tensor:
        size, length = cfg.data.image_size, build_tokenizer(cfg.model).context_length
        images = torch.zeros(batch_size * num_images, 3, size, size)
        tokens = torch.zeros(batch_size * num_texts, length, dtype=torch.long)
        image, text = module.encoder.encode_image(images), module.encoder.encode_text(tokens)
        return image.sum() + text.sum()

    def plan() -> Plan[M]:
        files = cfg.data.source in ("csv", "webdataset")
        return Plan(
            make_module,
            num_samples(cfg.data),
            forward,
            requirements(cfg, texts_from),
            loader_seconds=sample_seconds(views=num_images, files=files, texts=num_texts),
        )

    def pool_texts(workspace: Workspace) -> None:
        write_pool_texts(data_root(cfg.data.root) / POOL, cfg.data.root)

    def judge(
        judge_layout: Callable[..., dict[str, float]],
    ) -> Callable[[M, Workspace, Path], dict[str, float]]:
        return lambda module, workspace, path: judge_layout(
            cfg, module, make_module, workspace, path
        )

    return Experiment(
        stages or one_stage,
        evaluate,
        export,
        load_export,
        embed,
        plan,
        {"pool_texts": pool_texts, **(tasks or {})},
        {Layout.CAPTIONS: judge(judge_captions), Layout.CLASSES: judge(judge_class_folders)},
    )
