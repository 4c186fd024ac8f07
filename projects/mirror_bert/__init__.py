"""Mirror-BERT: raw strings mirrored into lexical and sentence encoders (Liu et al., EMNLP 2021)."""

from typing import TYPE_CHECKING

from projects.mirror_bert.config import Config

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from common.encoders.text.sentence import SentenceEncoder
    from common.engine.experiment import Experiment, Stage
    from projects.mirror_bert.module import MirrorBERT

__all__ = ["Config", "build", "load"]


def build(cfg: Config) -> "Experiment[MirrorBERT]":
    """The experiment of a config; heavy imports happen here."""
    from dataclasses import replace

    from common.families.sentences.experiment import sentence_experiment, train_stage
    from common.families.sentences.module import build_encoder
    from projects.mirror_bert.data import mirror_views, num_samples
    from projects.mirror_bert.evaluate import evaluate, word_pair_requirements
    from projects.mirror_bert.module import MirrorBERT

    def stages(cfg: Config) -> "Iterator[Stage]":
        encoder = build_encoder(cfg.model)
        module = MirrorBERT(cfg, encoder)
        stage = train_stage(cfg, module, mirror_views(cfg, encoder.tokenizer))
        yield replace(stage, monitor=None)  # the last weights count

    return sentence_experiment(
        cfg,
        MirrorBERT,
        lambda cfg, encoder: mirror_views(cfg, encoder.tokenizer),
        evaluate=evaluate,
        stages=stages,
        requirements=word_pair_requirements,
        num_samples=num_samples,
    )


def load(folder: "Path") -> "SentenceEncoder":
    """The sentence encoder of an exported folder."""
    from common.export.sentence_encoders import load_sentence_encoder

    return load_sentence_encoder(folder)
