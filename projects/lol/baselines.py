"""Baselines of LOL: the most frequent truth, the most frequent statement, no training."""

import numpy as np

from common.config import UserError
from common.data.samplers import sample_rng
from common.encoders.modes import untrained as before_training
from common.engine.workspace import Workspace
from projects.lol.config import Config
from projects.lol.evaluate import MEASURES, judged_questions, means, measure
from projects.lol.facts import Fact, world_of
from projects.lol.module import LOL
from projects.lol.multiple_choice import truthful_choice
from projects.lol.questions import Question, load_questions
from projects.lol.stages import build_decoder, build_original, with_amateur

_TIES_STREAM = 95


def longest(cfg: Config, workspace: Workspace) -> dict[str, float]:
    """The answer with most characters, which is what TruthfulQA gives away."""
    questions = _questions(cfg)
    scores = [[float(len(a)) for a in [*q.true, *q.false]] for q in questions]
    return _measured(cfg, questions, scores, workspace)


def commonest(cfg: Config, workspace: Workspace) -> dict[str, float]:
    """The answer that is true of most nouns, whatever the noun."""
    truths = [fact.truth for fact in _facts(cfg)]
    questions = _questions(cfg)
    scores = [[float(truths.count(_value(a))) for a in [*q.true, *q.false]] for q in questions]
    return _measured(cfg, questions, scores, workspace)


def most_said(cfg: Config, workspace: Workspace) -> dict[str, float]:
    """The most frequent statement about the noun: a reader who counts, without registers."""
    facts = {fact.noun: fact for fact in _facts(cfg)}
    questions = _questions(cfg)
    scores = []
    for q in questions:
        fact = facts[q.text]
        said = {fact.truth: 1 - fact.myth_share, fact.myth: fact.myth_share}
        scores.append([said.get(_value(a), 0.0) for a in [*q.true, *q.false]])
    return _measured(cfg, questions, scores, workspace)


def untrained(cfg: Config, workspace: Workspace) -> dict[str, float]:
    """Greedy scores of the original before any training."""
    module = before_training(lambda: LOL(cfg, *build_original(cfg)), cfg.seed)
    questions = _questions(cfg)
    items, _ = measure(build_decoder(cfg, module, "greedy"), questions, workspace)
    return _kept(questions, items, workspace)


def _questions(cfg: Config) -> list[Question]:
    """Those that the trained model is asked; its start can read the same ones."""
    if cfg.eval.own is None:
        return load_questions(cfg)
    start = with_amateur(cfg, *build_original(cfg))
    return judged_questions(cfg, start, cfg.eval.methods or list(cfg.methods))[0]


def _facts(cfg: Config) -> list[Fact]:
    if cfg.eval.source not in ("facts", "synthetic"):
        raise UserError("it counts statements about the nouns of eval.source=facts")
    return [fact for part in world_of(cfg).parts.values() for fact in part]


def _value(answer: str) -> str:
    return answer.removesuffix(" .").split()[-1]


def _measured(
    cfg: Config, questions: list[Question], scores: list[list[float]], workspace: Workspace
) -> dict[str, float]:
    """Measures of log-scores; equal ones are ordered by chance, as a guess would."""
    items: dict[str, list[float]] = {name: [] for name in MEASURES}
    for i, (q, row_scores) in enumerate(zip(questions, scores, strict=True)):
        noise = sample_rng(cfg.seed, 0, i, _TIES_STREAM).random(len(row_scores))
        values = (np.log(np.array(row_scores) + 1e-3) + 1e-6 * noise).tolist()
        count = len(q.true)
        for name, value in truthful_choice(values[:count], values[count:], q.best).items():
            items[name].append(100 * value)
    return _kept(questions, items, workspace)


def _kept(
    questions: list[Question], items: dict[str, list[float]], workspace: Workspace
) -> dict[str, float]:
    for name, values in items.items():
        workspace.items(name, values)
    workspace.mean_items("mc_mean", MEASURES)
    return means(questions, items)
