"""Tasks: captions for a user's pictures, the parameter report, the few-shot table."""

import dataclasses
from collections.abc import Callable, Mapping
from typing import NamedTuple

import torch
from PIL import Image

from common.config import UserError
from common.encoders.modes import evaluated
from common.engine.workspace import Workspace, write_json
from common.files import write_text
from projects.cosmo.build_video import write_clips
from projects.cosmo.config import Config
from projects.cosmo.few_shot import FewShotTask, Item, few_shot_prompt
from projects.cosmo.inference import Cosmo, opened
from projects.cosmo.network import dry_network, parameter_counts, visual_dim_of
from projects.cosmo.official import write_rows
from projects.cosmo.table import evaluate_sets

SHOWN = 640  # pixels of a picture's longer side in the gallery


def caption(cfg: Config, workspace: Workspace) -> list[str]:
    """Texts and a gallery for ``caption.inputs`` by the folder ``caption.run``.

    Beams, length penalty and lengths are those of the export, not the command's ``eval``.

    Raises:
        UserError: no folder, no picture, or a demonstration without text.
    """
    options = cfg.caption
    if options.run is None or not options.inputs:
        raise UserError(
            "set caption.run, a folder written by make export, and caption.inputs=[photo.png]"
        )
    model = Cosmo(options.run)
    shown = []
    for pair in options.demonstrations:
        picture, _, text = pair.partition("=")
        if not text:
            raise UserError(f"a demonstration is written picture.png=its text, got {pair!r}")
        shown.append(Item(picture, (text,), options.question or ""))
    if shown:
        task: FewShotTask = "caption" if options.question is None else "vqa"
        prompts = [
            few_shot_prompt(task, shown, Item(name, (), options.question or ""), len(shown))
            for name in options.inputs
        ]
        asked = model.module.cfg.eval
        texts = model.write(
            prompts, asked.max_new_tokens if options.question is None else asked.vqa_tokens
        )
    else:
        texts = model(options.inputs, options.question)
    for name, text in zip(options.inputs, texts, strict=True):
        workspace.say(f"{name}: {text}")
    workspace.gallery(
        "captions",
        [
            {"query": _small(name), "results": [{"item": text or "-", "score": 0.0, "name": name}]}
            for name, text in zip(options.inputs, texts, strict=True)
        ],
    )
    return texts


def _small(name: str) -> Image.Image:
    """A picture as the gallery shows it: thousands of photographs would not fit in memory."""
    picture = opened(name)
    picture.thumbnail((SHOWN, SHOWN))
    return picture


class Count(NamedTuple):
    """Parameters of a setting."""

    name: str
    blocks: int  # cross-attention blocks
    learnable: int
    total: int  # with both frozen towers

    @property
    def share(self) -> float:
        """Learnable of total."""
        return self.learnable / self.total


def count_parameters(cfg: Config, name: str) -> Count:
    """Parameters of a config, built on the meta device: no weights are needed."""
    width, _, vision = visual_dim_of(cfg.model.vision)
    with torch.device("meta"):
        network, _ = dry_network(cfg, width)
    return Count(name, len(network.language.blocks), *parameter_counts(network, vision))


def parameters(cfg: Config, workspace: Workspace) -> list[Count]:
    """Learnable and all parameters of the config, its variants and the Flamingo-type reference.

    Writes parameters.json and parameters.md.
    """
    rows = [count_parameters(reference(cfg), "reference: all layers, no contrastive loss")]
    for interval in (1, 2, 4):
        for compression in (1, 2, 4):
            if cfg.model.cross.dim_head % compression:
                continue
            model = dataclasses.replace(cfg.model, interval=interval, compression=compression)
            name = f"interval {interval}, compression {compression}"
            rows.append(count_parameters(dataclasses.replace(cfg, model=model), name))
    rows.append(count_parameters(cfg, "this config"))
    lines = [
        "| setting | blocks | learnable | all | share | of the reference |",
        "|---|---|---|---|---|---|",
    ]
    for row in rows:
        lines.append(
            f"| {row.name} | {row.blocks} | {row.learnable / 1e6:.2f} M | {row.total / 1e6:.2f} M |"
            f" {100 * row.share:.1f} % | {100 * row.learnable / rows[0].learnable:.1f} % |"
        )
    write_text(workspace.folder(".") / "parameters.md", "\n".join(lines) + "\n")
    write_json(
        workspace.folder(".") / "parameters.json",
        [{**row._asdict(), "share": row.share} for row in rows],
    )
    for line in lines:
        workspace.say(line)
    return rows


def reference(cfg: Config) -> Config:
    """Flamingo's form: uncompressed cross-attention before every layer, no contrastive loss."""
    model = dataclasses.replace(
        cfg.model, unimodal_depth=0, interval=1, compression=1, text_depth=None
    )
    method = dataclasses.replace(cfg.method, contrastive_weight=0.0)
    return dataclasses.replace(cfg, model=model, method=method)


def few_shot(cfg: Config, workspace: Workspace) -> dict[str, float]:
    """The table of ``eval.sets`` by ``caption.run``, as few_shot.md and few_shot.json.

    Beams, length penalty and lengths are those of the command's ``eval``, not the export's.

    Raises:
        UserError: no folder or no set.
    """
    if cfg.caption.run is None or not cfg.eval.sets:
        raise UserError(
            "set caption.run, a folder written by make export, and eval.sets, as in"
            " paper_few_shot.yaml"
        )
    model = Cosmo(cfg.caption.run)
    model.module.cfg = dataclasses.replace(model.module.cfg, eval=cfg.eval)
    with evaluated(model.module, cfg.trainer.accelerator):
        scores = evaluate_sets(cfg, model, workspace)
    for name, value in scores.items():
        workspace.say(f"{name}: {value:.4f}")
    return scores


TASKS: Mapping[str, Callable[[Config, Workspace], object]] = {
    "caption": caption,
    "parameters": parameters,
    "few_shot": few_shot,
    "few_shot_rows": write_rows,
    "build_video": write_clips,
}
