"""What contrastive search has to beat: one-line changes of greedy search and of sampling."""

from common.decoding.options import Policy
from common.engine.workspace import Workspace
from projects.contrastive_search.config import Config
from projects.contrastive_search.data import passages
from projects.contrastive_search.evaluate import build_scorers, decode, measure
from projects.contrastive_search.stages import build_module


def no_repeat_3(cfg: Config, workspace: Workspace) -> dict[str, float]:
    """Greedy search that never writes three tokens twice in a row of three."""
    return _measured(cfg, workspace, Policy("greedy", no_repeat_ngram=3))


def repetition_penalty(cfg: Config, workspace: Workspace) -> dict[str, float]:
    """Greedy search with logits of earlier tokens divided by 1.2 (Keskar et al. 2019)."""
    return _measured(cfg, workspace, Policy("greedy", repetition_penalty=1.2))


def top_k_5(cfg: Config, workspace: Workspace) -> dict[str, float]:
    """A draw among the five tokens that contrastive search chooses from."""
    return _measured(cfg, workspace, Policy("top_k", top_k=5))


def _measured(cfg: Config, workspace: Workspace, policy: Policy) -> dict[str, float]:
    lm = build_module(cfg).language_model()
    texts = passages(cfg, lm)
    draws = decode(cfg, lm, [p.prefix for p in texts], {"baseline": policy}, workspace)["baseline"]
    metrics, items = measure(cfg, lm, texts, draws, build_scorers(cfg, lm))
    for name, values in items.items():
        workspace.items(name, values)
    return metrics
