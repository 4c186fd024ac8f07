"""Encoder, stages, evaluation, export and tasks of a retrieval project put together."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import TypeVar

import torch
from torch import Tensor

from common.data.layouts import Layout
from common.data.module import ContrastiveData
from common.encoders.modes import evaluated, untrained
from common.engine.experiment import Experiment, Plan, Requirement, Stage
from common.engine.node import sample_seconds
from common.engine.own_texts import Rows, judge_labelled, judge_pairs
from common.engine.workspace import Workspace
from common.evaluation.text.sts_protocol import Encode
from common.families.retrieval.encoder import E, EncoderRecipe, R, encoder_of
from common.families.retrieval.evaluation import (
    SYNTHETIC,
    beir_folder,
    encode_large_sets,
    evaluate_beir,
    named_sets,
    set_names,
)
from common.families.retrieval.protocol import RetrievalExperimentConfig
from common.families.retrieval.search import search_collection

PROBES = ["A small cat sleeps.", "Two men are repairing the roof of an old house."]

C = TypeVar("C", bound=RetrievalExperimentConfig)


def retrieval_experiment(
    cfg: C,
    recipe: EncoderRecipe[E],
    make_module: Callable[[C, E], R],
    *,
    stages: Callable[[C], Iterator[Stage]],
    evaluate: Callable[[C, R, Workspace], dict[str, float]],
    plan: Callable[[C], Plan[R]],
    texts: Callable[[C], Sequence[str]],
    tasks: Mapping[str, Callable[[C, Workspace], object]] | None = None,
    model_tasks: Mapping[str, Callable[[C, Workspace, Experiment[R]], object]] | None = None,
) -> Experiment[R]:
    """Experiment of a text encoder for retrieval.

    Args:
        cfg: the project's config.
        recipe: its encoder.
        make_module: module around an encoder, for evaluation.
        stages: see `Experiment`; `one_stage` for the plain case.
        evaluate: the paper's metrics; those of the sets of ``eval.beir`` come alongside them.
        plan: what `make check` reports on, see `text_plan`.
        texts: what the task "search" looks in when the config names no file.
        tasks: alongside "search" and "encode_sets".
        model_tasks: further ones, which are given the experiment as well (to load a trained model).

    Raises:
        UserError: sets of the evaluation that would have the same name, see `set_names`.
    """
    named_sets(cfg.eval)  # said now, not after the training
    set_names(cfg.eval.answers)

    def everything(module: R, workspace: Workspace) -> dict[str, float]:
        metrics = evaluate(cfg, module, workspace)
        return metrics | evaluate_beir(cfg, recipe, encoder_of(module, recipe), workspace)

    def judge(module: R, workspace: Workspace, _: Path) -> dict[str, float]:
        return evaluate_beir(cfg, recipe, encoder_of(module, recipe), workspace)

    @contextmanager
    def encoding(encoder: E) -> Iterator[Encode]:
        with evaluated(encoder, cfg.trainer.accelerator):
            yield lambda texts: recipe.documents(encoder, texts)

    def rows(module: R) -> Rows:
        encoder = encoder_of(module, recipe)
        raw = untrained(recipe.build, cfg.seed, like=encoder)
        return {"": encoding(encoder), "untrained_": encoding(raw)}

    def export(module: R, folder: Path) -> None:
        recipe.save(encoder_of(module, recipe), folder)

    def embed(module: R) -> dict[str, Tensor]:
        encoder = encoder_of(module, recipe)
        return {
            "queries": recipe.queries(encoder, PROBES),
            "documents": recipe.documents(encoder, PROBES),
        }

    def search(workspace: Workspace) -> None:
        search_collection(cfg, recipe, workspace, experiment, partial(texts, cfg))

    def encode_sets(workspace: Workspace) -> None:
        from common.engine.trained import trained_module

        module, _ = trained_module(experiment, workspace, cfg.search.run, cfg.runs_dir)
        encode_large_sets(cfg, recipe, encoder_of(module, recipe))

    def assist(module: R) -> None:
        encode_large_sets(cfg, recipe, encoder_of(module, recipe))

    def with_model(
        task: Callable[[C, Workspace, Experiment[R]], object],
    ) -> Callable[[Workspace], object]:
        return lambda workspace: task(cfg, workspace, experiment)

    experiment = Experiment(
        partial(stages, cfg),
        everything,
        export,
        lambda folder: make_module(cfg, recipe.load(folder)),
        embed,
        partial(plan, cfg),
        {
            "search": search,
            "encode_sets": encode_sets,
            **{name: partial(task, cfg) for name, task in (tasks or {}).items()},
            **{name: with_model(task) for name, task in (model_tasks or {}).items()},
        },
        {
            Layout.JUDGED: judge,
            Layout.PAIRS: lambda m, workspace, path: judge_pairs(rows(m), workspace, path),
            Layout.LABELLED: lambda m, workspace, path: judge_labelled(rows(m), workspace, path),
        },
        assist,
    )
    return experiment


def one_stage(
    recipe: EncoderRecipe[E],
    make_module: Callable[[E], R],
    make_data: Callable[[E], ContrastiveData],
) -> Iterator[Stage]:
    """The single stage "train".

    Args:
        recipe: builds the encoder.
        make_module: module around it.
        make_data: training data, given the encoder (for its tokenizer).
    """
    encoder = recipe.build()
    yield Stage("train", make_module(encoder), make_data(encoder))


def text_plan(
    cfg: RetrievalExperimentConfig,
    recipe: EncoderRecipe[E],
    make_module: Callable[[E], R],
    *,
    passes: Callable[[int], Sequence[tuple[int, int]]],
    run: Callable[[E, Tensor], Tensor],
    num_samples: int,
    requirements: Sequence[Requirement],
) -> Plan[R]:
    """What `make check` reports on.

    Args:
        cfg: the project's config.
        recipe: its encoder.
        make_module: module around it.
        passes: batch size -> (rows, tokens) of each pass of the encoder whose activations are
            alive together.
        run: encoder, ids (rows, tokens) -> what the backward pass starts from. Without a mask:
            transformers looks at its values, and meta tensors have none.
        num_samples: of an epoch.
        requirements: of weights and training data; the sets of ``eval.beir`` are added.
    """

    def forward(module: R, batch_size: int) -> Tensor:
        ids = [torch.ones(size, dtype=torch.long) for size in passes(batch_size)]
        return torch.stack([run(encoder_of(module, recipe), x).sum() for x in ids]).sum()

    everything = [*cfg.eval.beir, *cfg.eval.dev, *cfg.eval.answers]
    sets = [
        Requirement(
            f"data: {name} (evaluation)", str(path), path.is_dir(), "a folder in the BEIR layout"
        )
        for name, path in (
            (name, beir_folder(cfg, name)) for name in everything if name != SYNTHETIC
        )
    ]
    module = lambda: make_module(recipe.planned())  # noqa: E731
    texts = sum(rows for rows, _ in passes(1))
    return Plan(
        module,
        num_samples,
        forward,
        (*requirements, *sets),
        loader_seconds=sample_seconds(texts=texts),
    )
