"""Baselines of a ranker: position, length, words, surface features, untrained encoders."""

from dataclasses import replace
from typing import Literal

from common.config import UserError
from common.encoders.modes import evaluated
from common.encoders.modes import untrained as as_training_begins
from common.engine.workspace import Workspace
from projects.wikides import selectors
from projects.wikides.config import Config
from projects.wikides.data import first_seed, load_rows, part_path
from projects.wikides.encoder import build_encoder
from projects.wikides.evaluate import evaluate_encoder, row_metrics


def _row(cfg: Config, workspace: Workspace, name: str) -> dict[str, float]:
    rows = load_rows(cfg, cfg.eval.part)
    return row_metrics(rows, selectors.SELECTORS[name](rows), workspace)


def first(cfg: Config, workspace: Workspace) -> dict[str, float]:
    """The file's first candidate."""
    return _row(cfg, workspace, "first")


def random(cfg: Config, workspace: Workspace) -> dict[str, float]:
    """A random candidate, in expectation."""
    return _row(cfg, workspace, "random")


def shortest(cfg: Config, workspace: Workspace) -> dict[str, float]:
    """The shortest candidate."""
    return _row(cfg, workspace, "shortest")


def longest(cfg: Config, workspace: Workspace) -> dict[str, float]:
    """The longest candidate."""
    return _row(cfg, workspace, "longest")


def rouge_1(cfg: Config, workspace: Workspace) -> dict[str, float]:
    """Word overlap with the paragraph: the paper's selection by ROUGE alone."""
    return _row(cfg, workspace, "rouge_1")


def tfidf(cfg: Config, workspace: Workspace) -> dict[str, float]:
    """Cosine of TF-IDF vectors with the paragraph."""
    return _row(cfg, workspace, "tfidf")


def medoid(cfg: Config, workspace: Workspace) -> dict[str, float]:
    """The candidate most like the others."""
    return _row(cfg, workspace, "medoid")


def lead(cfg: Config, workspace: Workspace) -> dict[str, float]:
    """The paragraph's first words."""
    return _row(cfg, workspace, "lead")


def oracle(cfg: Config, workspace: Workspace) -> dict[str, float]:
    """The best candidate by ROUGE-L with the description."""
    return _row(cfg, workspace, "oracle")


def surface(cfg: Config, workspace: Workspace) -> dict[str, float]:
    """Boosted trees on lengths, overlaps and places, trained on the ranker's training rows.

    Raises:
        UserError: these are the judged ones, as with ``eval.own`` alone.
    """
    if cfg.data.source == "files" and part_path(cfg, "train") == part_path(cfg, cfg.eval.part):
        raise UserError("data.train is the file that is judged; give another one to learn from")
    rows = load_rows(cfg, cfg.eval.part)
    selected = selectors.surface(load_rows(cfg, "train"), rows, cfg.seed)
    return row_metrics(rows, selected, workspace)


def untrained_cls(cfg: Config, workspace: Workspace) -> dict[str, float]:
    """The encoder before training, first token: the released ranker, whose learning rate is 0."""
    return _untrained(cfg, workspace, "cls_before_pooler")


def untrained_mean(cfg: Config, workspace: Workspace) -> dict[str, float]:
    """The encoder before training, mean over the tokens."""
    return _untrained(cfg, workspace, "avg")


def _untrained(
    cfg: Config, workspace: Workspace, pooling: Literal["avg", "cls_before_pooler"]
) -> dict[str, float]:
    model = replace(cfg.model, pooling=pooling)
    encoder = as_training_begins(lambda: build_encoder(model), first_seed(cfg))
    with evaluated(encoder, cfg.trainer.accelerator):
        return evaluate_encoder(cfg, encoder, load_rows(cfg, cfg.eval.part), workspace)
