"""Pre-training, then fine-tuning if asked for; what `make check` builds."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from common.encoders.text.sentence import SentenceEncoder
from common.engine.experiment import Plan, Stage
from common.export.files import write_json
from common.families.retrieval.dense import dense_recipe
from common.families.retrieval.encoder import EncoderRecipe
from common.families.retrieval.experiment import text_plan
from projects.contriever.config import Config
from projects.contriever.data import (
    pretraining_data,
    question_data,
    requirements,
    token_streams,
)
from projects.contriever.module import Contriever
from projects.contriever.normalize import preparation

PREPARATION = "contriever.json"  # alongside exported weights: what is done to texts
Encode = Callable[[SentenceEncoder, Sequence[str]], Tensor]


def recipe_of(cfg: Config) -> EncoderRecipe[SentenceEncoder]:
    """The project's encoder: mean pooling, dot products, texts prepared as the release does."""
    method, prepare = cfg.method, preparation(cfg.eval.normalize_text, cfg.eval.lower_case)
    recipe = dense_recipe(
        cfg.model,
        replace(cfg.eval, normalize_text=False, lower_case=False),
        norm_query=method.norm_query,
        norm_document=method.norm_document,
    )

    def prepared(encode: Encode) -> Encode:
        return lambda encoder, texts: encode(encoder, [prepare(text) for text in texts])

    def save(encoder: SentenceEncoder, folder: Path) -> None:
        recipe.save(encoder, folder)
        switches = {name: getattr(cfg.eval, name) for name in ("normalize_text", "lower_case")}
        write_json(folder / PREPARATION, switches)

    queries, documents = prepared(recipe.queries), prepared(recipe.documents)
    return replace(recipe, save=save, queries=queries, documents=documents)


def stages(cfg: Config) -> Iterator[Stage]:
    """The stage "pretrain", unless the config goes without, and "finetune" if it has steps."""
    encoder = recipe_of(cfg).build()
    if cfg.method.pretrain:
        yield Stage("pretrain", Contriever(cfg, encoder), pretraining_data(cfg, encoder))
    if cfg.finetune.steps:
        steps = {"max_steps": cfg.finetune.steps, "max_epochs": None}
        module = Contriever(cfg, encoder, finetune=True)
        yield Stage("finetune", module, question_data(cfg, encoder), steps)


def plan(cfg: Config) -> Plan[Contriever]:
    """What `make check` reports on."""
    needed = requirements(cfg)
    recipe = recipe_of(cfg)
    samples = 0
    if cfg.method.pretrain and all(r.present for r in needed):
        streams = token_streams(cfg, recipe.build().tokenizer)
        samples = sum(len(stream) for stream in streams.values())
    if cfg.method.pretrain:
        longest = int(cfg.data.chunk_length * cfg.data.ratio_max) + 2
        passes = 1 if cfg.method.objective == "moco" else 2  # whose activations are kept
    else:
        longest, passes = cfg.finetune.max_length, 2 + cfg.finetune.num_negatives

    def run(encoder: SentenceEncoder, ids: Tensor) -> Tensor:
        output: Tensor = encoder.tower.model(input_ids=ids).last_hidden_state
        return torch.sum(output)

    chunk = None if cfg.method.pretrain else cfg.finetune.chunk_size

    def rows(size: int) -> int:
        return passes * size if chunk is None else min(passes * size, chunk)  # one is alive

    return text_plan(
        cfg,
        recipe,
        lambda encoder: Contriever(cfg, encoder, finetune=cfg.finetune.steps > 0),
        passes=lambda size: [(rows(size), longest)],
        run=run,
        num_samples=samples,
        requirements=needed,
    )
