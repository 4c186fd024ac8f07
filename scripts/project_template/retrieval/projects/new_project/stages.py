"""The encoder, its training stage, and what `make check` builds."""

from collections.abc import Iterator

from torch import Tensor

from common.encoders.text.sentence import SentenceEncoder
from common.engine.experiment import Plan, Stage
from common.families.retrieval.dense import dense_recipe
from common.families.retrieval.encoder import EncoderRecipe
from common.families.retrieval.evaluation import load_set
from common.families.retrieval.experiment import one_stage, text_plan
from projects.new_project.config import Config
from projects.new_project.data import build_data, pairs, requirements
from projects.new_project.module import NewProject


def recipe_of(cfg: Config) -> EncoderRecipe[SentenceEncoder]:
    """One transformer for both sides, compared by cosine."""
    return dense_recipe(cfg.model, cfg.eval, norm_query=True, norm_document=True)


def stages(cfg: Config) -> Iterator[Stage]:
    """The single stage "train"."""
    return one_stage(
        recipe_of(cfg),
        lambda encoder: NewProject(cfg, encoder),
        lambda encoder: build_data(cfg, encoder),
    )


def plan(cfg: Config) -> Plan[NewProject]:
    """What `make check` reports on."""

    def run(encoder: SentenceEncoder, ids: Tensor) -> Tensor:
        output: Tensor = encoder.tower.model(input_ids=ids).last_hidden_state
        return output

    needed = requirements(cfg)
    return text_plan(
        cfg,
        recipe_of(cfg),
        lambda encoder: NewProject(cfg, encoder),
        passes=lambda size: [(2 * size, cfg.data.max_length)],
        run=run,
        num_samples=len(pairs(cfg)) if all(r.present for r in needed) else 0,
        requirements=needed,
    )


def search_texts(cfg: Config) -> list[str]:
    """What the task "search" looks in when the config names no file."""
    return list(load_set(cfg, cfg.eval.beir[0]).corpus.values())
