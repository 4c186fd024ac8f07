"""What MCLRec has to beat: counting, and its encoder before training."""

import torch

from common.encoders.modes import evaluated
from common.encoders.modes import untrained as as_training_begins
from common.engine.workspace import Workspace
from projects.mclrec.config import Config
from projects.mclrec.data import load_sets
from projects.mclrec.evaluate import COUNTING, encoder_score, metrics_of, ranks_of
from projects.mclrec.module import MCLRec
from projects.mclrec.ranking import Score


def popularity(cfg: Config, workspace: Workspace) -> dict[str, float]:
    """The same list for everybody."""
    return _counted(cfg, workspace, "popularity")


def markov(cfg: Config, workspace: Workspace) -> dict[str, float]:
    """What followed the user's last item in the sequences of others."""
    return _counted(cfg, workspace, "markov")


def skip_markov(cfg: Config, workspace: Workspace) -> dict[str, float]:
    """The same of the last three items, with pairs up to three places apart."""
    return _counted(cfg, workspace, "skip_markov")


def item_knn(cfg: Config, workspace: Workspace) -> dict[str, float]:
    """Cosine of the users of two items, summed over the history."""
    return _counted(cfg, workspace, "item_knn")


def untrained(cfg: Config, workspace: Workspace) -> dict[str, float]:
    """The encoder with its first weights."""
    sets = load_sets(cfg)
    encoder = as_training_begins(lambda: MCLRec(cfg, sets.log.items), cfg.seed).encoder
    with evaluated(encoder, cfg.trainer.accelerator):
        return _score(cfg, workspace, encoder_score(encoder, cfg.data.max_length))


def _counted(cfg: Config, workspace: Workspace, name: str) -> dict[str, float]:
    sets = load_sets(cfg)
    return _score(cfg, workspace, COUNTING[name](sets.split.train, sets.num_items))


def _score(cfg: Config, workspace: Workspace, score: Score) -> dict[str, float]:
    sets = load_sets(cfg)
    with torch.no_grad():
        return metrics_of(cfg, sets, ranks_of(cfg, sets, score), workspace)
