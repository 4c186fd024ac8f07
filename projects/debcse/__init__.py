"""DebCSE: inverse-propensity-weighted sampling of sentence pairs (Miao et al., CIKM 2023)."""

from typing import TYPE_CHECKING

from projects.debcse.config import Config

if TYPE_CHECKING:
    from common.engine.experiment import Experiment
    from common.engine.workspace import Workspace
    from projects.debcse.module import DebCSE

__all__ = ["Config", "build"]


def build(cfg: Config) -> "Experiment[DebCSE]":
    """The experiment of a config; heavy imports happen here."""
    from common.families.sentences.experiment import sentence_experiment
    from projects.debcse.data import corpus_size, pair_requirements, twin_views
    from projects.debcse.evaluate import evaluate
    from projects.debcse.module import DebCSE
    from projects.debcse.paraphrase import paraphrase
    from projects.debcse.stages import stages
    from projects.debcse.tasks import mine_pairs, report_pairs

    def mine(workspace: "Workspace") -> None:
        mine_pairs(cfg, workspace)

    def pairs(workspace: "Workspace") -> None:
        report_pairs(cfg, workspace)

    def paraphrases(workspace: "Workspace") -> None:
        workspace.note(f"{paraphrase(cfg, workspace)} sentences paraphrased")

    return sentence_experiment(
        cfg,
        lambda encoder: DebCSE(cfg, encoder),
        lambda encoder: twin_views(cfg, encoder.tokenizer),
        evaluate=lambda module, workspace: evaluate(cfg, module, workspace),
        stages=lambda: stages(cfg),
        tasks={"mine": mine, "pairs": pairs, "paraphrase": paraphrases},
        requirements=lambda: pair_requirements(cfg),
        num_samples=lambda: corpus_size(cfg),
        num_views=cfg.num_views,
    )
