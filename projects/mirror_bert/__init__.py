"""Mirror-BERT: raw strings mirrored into lexical and sentence encoders (Liu et al., EMNLP 2021)."""

from typing import TYPE_CHECKING

from projects.mirror_bert.config import Config

if TYPE_CHECKING:
    from collections.abc import Iterator

    from common.encoders.text.sentence import SentenceEncoder
    from common.engine.experiment import Experiment, Stage
    from common.engine.workspace import Workspace
    from projects.mirror_bert.module import MirrorBERT

__all__ = ["Config", "build"]


def build(cfg: Config) -> "Experiment[MirrorBERT]":
    """The experiment of a config; heavy imports happen here."""
    from dataclasses import replace

    from common.families.sentences.experiment import sentence_experiment, train_stage
    from common.families.sentences.module import build_encoder
    from projects.mirror_bert.data import mirror_views, num_samples
    from projects.mirror_bert.evaluate import evaluate_more
    from projects.mirror_bert.module import MirrorBERT

    def make_module(encoder: "SentenceEncoder") -> MirrorBERT:
        return MirrorBERT(cfg, encoder)

    def stages() -> "Iterator[Stage]":
        encoder = build_encoder(cfg.model)
        stage = train_stage(cfg, make_module(encoder), mirror_views(cfg, encoder.tokenizer))
        yield replace(stage, monitor=None)  # the last weights count

    experiment = sentence_experiment(
        cfg,
        make_module,
        lambda encoder: mirror_views(cfg, encoder.tokenizer),
        stages=stages,
        num_samples=lambda: num_samples(cfg),
    )

    def evaluate(module: MirrorBERT, workspace: "Workspace") -> dict[str, float]:
        metrics = experiment.evaluate(module, workspace)
        return evaluate_more(cfg, module, workspace, metrics)

    return replace(experiment, evaluate=evaluate)
