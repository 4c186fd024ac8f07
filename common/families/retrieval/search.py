"""`make run TASK=search`: nearest texts of a file or folder for queries."""

from collections.abc import Callable, Sequence

from common.encoders.modes import evaluated
from common.encoders.state_dict import weights_digest
from common.engine.experiment import Experiment
from common.engine.workspace import Workspace
from common.evaluation.retrieval.merged_index import HoldsTexts, MergedIndex
from common.evaluation.retrieval.text_search import indexed, search_texts
from common.families.retrieval.config import RetrievalSearch
from common.families.retrieval.encoder import E, EncoderRecipe, R, encoder_of
from common.families.retrieval.protocol import RetrievalExperimentConfig


def search_collection(
    cfg: RetrievalExperimentConfig,
    recipe: EncoderRecipe[E],
    workspace: Workspace,
    experiment: Experiment[R],
    texts: Callable[[], Sequence[str]],
) -> None:
    """Index a collection with a trained encoder and print the nearest texts of queries.

    Args:
        cfg: the project's config.
        recipe: its encoder.
        workspace: of the task.
        experiment: of the project.
        texts: the collection when ``search.file`` is null.

    Raises:
        UserError: no trained run, or a file that is missing or empty.
    """
    from common.engine.trained import trained_module

    options = cfg.search
    module, _ = trained_module(experiment, workspace, options.run, cfg.runs_dir)
    encoder = encoder_of(module, recipe)
    with evaluated(encoder, cfg.trainer.accelerator):
        index = indexed(
            options,
            lambda rows: recipe.documents(encoder, rows),
            texts,
            lambda: weights_digest(encoder),
            query_encoder=lambda rows: recipe.queries(encoder, rows),
            metric=recipe.metric,
            batch_size=cfg.eval.batch_size,
            progress=workspace.progress,
        )
        weight = options.dense_weight if isinstance(options, RetrievalSearch) else 1.0
        search_texts(with_words(index, weight), options)


def with_words(index: HoldsTexts, dense_weight: float) -> HoldsTexts | MergedIndex:
    """The index itself, or merged with BM25 where the encoder's weight is less than 1."""
    return index if dense_weight == 1 else MergedIndex(index, dense_weight)
