"""LaCLIP: CLIP training with language rewrites (Fan et al., NeurIPS 2023)."""

from typing import TYPE_CHECKING

from projects.laclip.config import Config

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from torch import Tensor

    from common.engine.experiment import Experiment, Plan, Stage
    from common.engine.workspace import Workspace
    from projects.laclip.module import LaCLIP

__all__ = ["Config", "build"]


def build(cfg: Config) -> "Experiment[LaCLIP]":
    """The experiment of a config; heavy imports happen here."""
    import torch

    from common.data.image_text.drawings import write_pool_texts
    from common.data.lookup import data_root
    from common.engine.experiment import Experiment, Plan, Stage
    from common.evaluation.image_text.image_sets import require_image_sets
    from common.export.open_clip import load_open_clip, save_open_clip
    from projects.laclip.data import POOL, build_data, normalization, num_samples, requirements
    from projects.laclip.evaluate import evaluate
    from projects.laclip.module import LaCLIP, build_tokenizer
    from projects.laclip.rewrite import rewrite_file

    def stages() -> "Iterator[Stage]":
        require_image_sets(cfg.eval.datasets, data_root(cfg.eval.root or cfg.data.root))
        data = build_data(cfg, build_tokenizer(cfg.model))
        monitor = "val/zeroshot_top1" if cfg.eval.validate else None
        yield Stage("train", LaCLIP(cfg), data, monitor=monitor)

    def export(module: LaCLIP, folder: "Path") -> None:
        mean, std = normalization(cfg.data)
        log_scale = module.logit_scale.log_scale
        save_open_clip(
            module.encoder, folder, log_scale=log_scale, mean=mean, std=std,
            interpolation="bilinear",
        )  # fmt: skip

    def load_export(folder: "Path") -> LaCLIP:
        encoder = load_open_clip(folder)
        module = LaCLIP(cfg, encoder)
        module.logit_scale.log_scale.data.fill_(encoder.log_scale)
        return module

    def embed(module: LaCLIP) -> "dict[str, Tensor]":
        size = cfg.data.image_size
        images = torch.linspace(-2, 2, 2 * 3 * size * size).sin().reshape(2, 3, size, size)
        device = module.logit_scale.log_scale.device
        image = module.encoder.encode_image(images.to(device))
        text = module.encode_texts(["a drawing of a cat", "two red arrows"])
        return {"image": image.float().cpu(), "text": text.cpu()}

    def forward(module: LaCLIP, batch_size: int) -> "Tensor":
        size, length = cfg.data.image_size, build_tokenizer(cfg.model).context_length
        images = torch.zeros(batch_size, 3, size, size)
        tokens = torch.zeros(batch_size * cfg.method.num_texts, length, dtype=torch.long)
        image, text = module.encoder.encode_image(images), module.encoder.encode_text(tokens)
        return image.sum() + text.sum()

    def rewrite(workspace: "Workspace") -> None:
        found = rewrite_file(cfg.rewrite, workspace, task=cfg.task, server=cfg.generator)
        workspace.say(f"{cfg.rewrite.output}: {found.summary}")

    def pool_texts(workspace: "Workspace") -> None:
        write_pool_texts(data_root(cfg.data.root) / POOL, cfg.data.root)

    def plan() -> "Plan[LaCLIP]":
        return Plan(lambda: LaCLIP(cfg), num_samples(cfg), forward, requirements(cfg))

    tasks = {"rewrite": rewrite, "pool_texts": pool_texts}
    return Experiment(
        stages,
        lambda module, workspace: evaluate(cfg, module, workspace),
        export,
        load_export,
        embed,
        plan,
        tasks,
    )
