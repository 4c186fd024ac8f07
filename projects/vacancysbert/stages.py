"""The encoder's recipe, the one stage of training, and what `make check` builds."""

from collections.abc import Iterator

import torch
from torch import Tensor

from common.engine.experiment import Plan, Stage
from common.families.retrieval.encoder import EncoderRecipe
from common.families.retrieval.experiment import PROBES, text_plan
from projects.vacancysbert.config import Config
from projects.vacancysbert.data import load_data, training_data
from projects.vacancysbert.encoder import (
    TitleSkillEncoder,
    build_encoder,
    load_encoder,
    planned_encoder,
    save_encoder,
)
from projects.vacancysbert.module import VacancySBERT
from projects.vacancysbert.places import check_references, requirements


def recipe_of(cfg: Config) -> EncoderRecipe[TitleSkillEncoder]:
    """The project's encoder; both sides of a search are titles."""
    size = cfg.eval.batch_size
    return EncoderRecipe(
        lambda: build_encoder(cfg),
        lambda: planned_encoder(cfg),
        save_encoder,
        lambda folder: load_encoder(cfg, folder),
        lambda encoder, texts: encoder.encode_titles(texts, size),
        lambda encoder, texts: encoder.encode_titles(texts, size),
    )


def stages(cfg: Config) -> Iterator[Stage]:
    """The stage "train", whose best checkpoint on the development titles is kept if it validates.

    Raises:
        UserError: data, weights or references of the evaluation that are missing.
    """
    check_references(cfg)
    encoder = build_encoder(cfg)
    monitor = None if cfg.trainer.val_every_n_steps is None else "val/recall_at_10"
    module = VacancySBERT(cfg, encoder)
    yield Stage("train", module, training_data(cfg, encoder), monitor=monitor)


def embed(module: VacancySBERT) -> dict[str, Tensor]:
    """Embeddings of a few texts by both sides, compared after export and reload."""
    encoder = module.encoder
    return {
        "titles": encoder.encode_titles(PROBES),
        "skills": encoder.encode_skill_texts(PROBES),
    }


def plan(cfg: Config) -> Plan[VacancySBERT]:
    """What `make check` reports on."""
    needed = requirements(cfg)
    here = all(r.present for r in needed if r.name.startswith("data"))
    data, pairs = cfg.data, cfg.method.objective == "pairs"

    def passes(size: int) -> list[tuple[int, int]]:
        if (chunk := cfg.method.chunk_size) is not None:  # one chunk is alive at a time
            longest = max(data.max_title_len, data.max_skill_len if pairs else 0)
            return [(min(size, chunk), longest)]
        skills = [(size, data.max_skill_len)] if pairs else []
        return [(size, data.max_title_len), *skills]

    def run(encoder: TitleSkillEncoder, ids: Tensor) -> Tensor:
        output: Tensor = encoder.encoder.tower.model(input_ids=ids).last_hidden_state
        return torch.sum(output)

    return text_plan(
        cfg,
        recipe_of(cfg),
        lambda encoder: VacancySBERT(cfg, encoder),
        passes=passes,
        run=run,
        num_samples=len(load_data(cfg).ads) if here else 0,
        requirements=needed,
    )
