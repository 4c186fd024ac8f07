"""MOFI: image representations from noisy entity-annotated images (Wu et al., ICLR 2024)."""

from typing import TYPE_CHECKING

from projects.mofi.config import Config

if TYPE_CHECKING:
    from pathlib import Path

    from common.engine.experiment import Experiment
    from common.families.image_text.module import Encoder
    from projects.mofi.module import MOFI
    from projects.mofi.tasks import Embedder

__all__ = ["Config", "build", "load"]


def build(cfg: Config) -> "Experiment[MOFI]":
    """The experiment of a config; heavy imports happen here."""
    import json
    from dataclasses import replace
    from functools import partial

    from common.families.image_text.experiment import image_text_experiment
    from common.files import write_text
    from projects.mofi import planning, tasks
    from projects.mofi.evaluate import evaluate
    from projects.mofi.module import MOFI
    from projects.mofi.stages import stages

    def make_module(encoder: "Encoder | None" = None) -> MOFI:
        return MOFI(cfg, encoder)

    mofi_stages = partial(stages, cfg)
    family = image_text_experiment(cfg, make_module, stages=mofi_stages, tasks=tasks.of(cfg))

    def export(module: MOFI, folder: "Path") -> None:
        family.export(module, folder)
        write_text(folder / tasks.ABOUT, json.dumps({"texts_trained": module.cls_weight < 1}))

    return replace(
        family,
        evaluate=partial(evaluate, cfg),
        export=export,
        plan=lambda: planning.plan(cfg, family.plan()),
    )


def load(folder: "Path") -> "Embedder":
    """Both towers of an exported folder."""
    from projects.mofi.tasks import Embedder

    return Embedder(folder)
