"""Scorer, offline mining, training: the stages of an experiment."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from common.config import UserError, to_dict
from common.encoders.text.sentence import SentenceEncoder, sentence_encoder
from common.engine import checkpoint as ckpt
from common.engine.experiment import Stage
from common.engine.lifecycle.kept_weights import keep_weights, kept_path
from common.engine.module import freeze
from common.families.sentences.experiment import train_stage
from common.families.sentences.module import first_encoder
from projects.debcse.config import Config
from projects.debcse.data import SampledViews, corpus, twin_views
from projects.debcse.mining import Mined, mine, offline_folder, scorer_encoding
from projects.debcse.module import DebCSE
from projects.debcse.record import nli_labels, supervised_features
from projects.debcse.sampling import PairSampler


def stages(cfg: Config) -> Iterator[Stage]:
    """Scorer with dropout twins, then the drawn triplets.

    A scorer of equal settings that an earlier run has trained (each run leaves its own, the arm
    without sampling too) is loaded instead. Without sampling the twins are the only stage.
    """
    texts = corpus(cfg)
    if not cfg.ipw.draws:
        module = DebCSE(cfg, first_encoder(cfg))
        yield train_stage(cfg, module, twin_views(cfg, module.encoder.tokenizer, texts))
        if cfg.ipw.positives == "self":
            save_scorer(cfg, module)
        return
    if cfg.scorer.model is None:
        module = scorer_module(cfg)
        twins = twin_views(cfg, module.encoder.tokenizer, texts)
        trained_scorer = scorer_path(cfg)
        stage = train_stage(cfg, module, twins, "scorer")
        yield replace(stage, weights=trained_scorer if trained_scorer.is_file() else None)
        save_scorer(cfg, module)
        freeze(module.encoder)
        scorer = module.encoder
    else:
        scorer = given_scorer(cfg)
    mined = mine(cfg, texts, scorer)
    trained = DebCSE(cfg, first_encoder(cfg))
    fill_record(cfg, trained, mined, scorer)
    yield train_stage(cfg, trained, sampled_views(cfg, mined, trained.encoder))


def sampled_views(cfg: Config, mined: Mined, encoder: SentenceEncoder) -> SampledViews:
    """The training set of drawn triplets."""
    return SampledViews(
        mined.texts,
        mined.surface.word_counts,
        PairSampler(mined.pools, cfg.ipw, cfg.seed),
        encoder.tokenizer,
        max_length=cfg.data.max_length,
        twin=cfg.method.twin_weight > 0,
    )


def fill_record(cfg: Config, module: DebCSE, mined: Mined, scorer: SentenceEncoder) -> None:
    """Note what will be drawn, alongside supervised pairs under the same scorer."""
    with scorer_encoding(cfg, scorer, mined) as encode:
        supervised = supervised_features(cfg, encode)
    sampler = PairSampler(mined.pools, cfg.ipw, cfg.seed)
    module.record.fill(mined, sampler, supervised, nli_labels(cfg))


# -- the scorer ----------------------------------------------------------------------------------


def scorer_module(cfg: Config) -> DebCSE:
    """The module of the scorer stage: as in the arm without sampling."""
    twins = replace(cfg.ipw, positives="self", negatives="none")
    method = replace(cfg.method, twin_weight=0.0)  # of drawn pairs; here the twin is the positive
    return DebCSE(replace(cfg, ipw=twins, method=method), first_encoder(cfg))


def given_scorer(cfg: Config) -> SentenceEncoder:
    """The frozen encoder that the config names as scorer."""
    assert cfg.scorer.model is not None
    scorer = sentence_encoder(cfg.scorer.model, cfg.scorer.pooling)
    freeze(scorer)
    return scorer


def scorer_path(cfg: Config) -> Path:
    """Where a trained scorer of these settings, this seed and this code is kept."""
    plain = to_dict(cfg)
    parts = {name: plain[name] for name in ("data", "model", "optim", "trainer", "seed")}
    parts |= {"temperature": cfg.method.temperature, "dev": cfg.eval.dev}
    return kept_path(offline_folder(cfg), "scorer", "debcse", parts)


def save_scorer(cfg: Config, module: DebCSE) -> None:
    """Keep a trained scorer for other runs; written whole or not at all."""
    keep_weights(scorer_path(cfg), module)


def load_scorer(cfg: Config) -> SentenceEncoder:
    """The frozen scorer for a task: the named one, or one that a run of these settings has trained.

    Raises:
        UserError: no run has trained it yet.
    """
    if cfg.scorer.model is not None:
        return given_scorer(cfg)
    path = scorer_path(cfg)
    if not path.is_file():
        raise UserError(
            f"no trained scorer {path}: run `make train PROJECT=debcse` with the same settings "
            "first, or give one with scorer.model (a folder written by `make export` will do)"
        )
    module = scorer_module(cfg)
    ckpt.load_weights(module, path)
    freeze(module.encoder)
    return module.encoder
