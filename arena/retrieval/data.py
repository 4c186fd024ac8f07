"""Contriever's crops for all contestants alike, the encoder, and the one stage."""

from collections.abc import Iterator

from torch import Tensor

from arena.retrieval.config import Config
from arena.retrieval.module import Contest
from common.config import UserError
from common.encoders.text.sentence import SentenceEncoder
from common.engine.experiment import Plan, Stage
from common.families.retrieval.dense import dense_recipe
from common.families.retrieval.encoder import EncoderRecipe
from common.families.retrieval.evaluation import load_set
from common.families.retrieval.experiment import one_stage, text_plan
from projects.contriever.data import pretraining_data, source_requirements, token_streams


def recipe_of(cfg: Config) -> EncoderRecipe[SentenceEncoder]:
    """Cosine of pooled states, whatever the loss was."""
    return dense_recipe(cfg.model, cfg.eval, norm_query=True, norm_document=True)


def stages(cfg: Config) -> Iterator[Stage]:
    """The single stage "train"."""
    return one_stage(
        recipe_of(cfg),
        lambda encoder: Contest(cfg, encoder),
        lambda encoder: pretraining_data(cfg, encoder),
    )


def texts(cfg: Config) -> list[str]:
    """What the task "search" looks in when the config names no file.

    Raises:
        UserError: the config has no set.
    """
    if not cfg.eval.beir:
        raise UserError("give a text file or folder in search.file: the config has no set")
    return list(load_set(cfg, cfg.eval.beir[0]).corpus.values())


def plan(cfg: Config) -> Plan[Contest]:
    """What `make check` reports on."""
    needed, recipe = source_requirements(cfg), recipe_of(cfg)
    samples = 0
    if all(r.present for r in needed):
        streams = token_streams(cfg, recipe.build().tokenizer)
        samples = sum(len(stream) for stream in streams.values())

    def run(encoder: SentenceEncoder, ids: Tensor) -> Tensor:
        output: Tensor = encoder.tower.model(input_ids=ids).last_hidden_state
        return output.sum()

    longest = int(cfg.data.chunk_length * cfg.data.ratio_max) + 2
    return text_plan(
        cfg,
        recipe,
        lambda encoder: Contest(cfg, encoder),
        passes=lambda size: [(2 * size, longest)],
        run=run,
        num_samples=samples,
        requirements=needed,
    )
