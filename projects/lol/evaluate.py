"""Multiple choice by every method on the same questions, and what the layers did."""

from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any

import numpy as np

from common.config import UserError
from common.engine.workspace import Workspace
from projects.lol.config import Config, MethodConfig
from projects.lol.decoder import Decoder, Scored, weights_of
from projects.lol.module import LOL
from projects.lol.multiple_choice import chooses_first, truthful_choice
from projects.lol.questions import Question, load_questions
from projects.lol.stages import build_decoder

MEASURES = ("mc1", "mc2", "mc3")
SHOWN = 8


def evaluate(cfg: Config, module: LOL, workspace: Workspace) -> dict[str, float]:
    """Percent by method, ``<method>_<measure>``; without a prefix those of the first one.

    ``gain_over_best`` is the mean over MC1 to MC3 of the first method's difference to the best
    baseline, which is the statistic of the paper's claim.

    Raises:
        UserError: no method.
    """
    names = cfg.eval.methods or list(cfg.methods)
    if not names:
        raise UserError("methods is empty: name methods as in configs/lol/mini.yaml")
    questions, counts = judged_questions(cfg, module, names)
    if counts.get("num_skipped"):
        workspace.say(
            f"questions that with an answer exceed the model's context, and are left out:"
            f" {counts['num_skipped']:.0f} of {sum(counts.values()):.0f}"
        )
    metrics: dict[str, float] = counts | chance(questions)
    items: dict[str, dict[str, list[float]]] = {}
    for name in names:
        decoder = build_decoder(cfg, module, name)
        items[name], mechanism = measure(decoder, questions, workspace)
        set_metrics = {**means(questions, items[name]), **mechanism}
        metrics |= {f"{name}_{key}": value for key, value in set_metrics.items()}
        if name == names[0]:
            metrics |= set_metrics
    first = items[names[0]]
    for key, values in first.items():
        workspace.items(key, values)
    if "mc1" in first:
        workspace.mean_items("mc_mean", MEASURES)
        metrics |= compared(cfg.methods, items, names)
    workspace.gallery("answers", gallery(questions, items))
    return metrics


def judged_questions(
    cfg: Config, module: LOL, methods: Sequence[str]
) -> tuple[list[Question], dict[str, float]]:
    """The questions of the config; of a user's those that all methods can read.

    Returns:
        The questions; of a user's also ``num_questions`` and ``num_skipped``.

    Raises:
        UserError: none of a user's questions fits the model's context.
    """
    questions = load_questions(cfg)
    if cfg.eval.own is None:
        return questions, {}
    decoders = [build_decoder(cfg, module, name) for name in methods]
    kept = [q for q in questions if all(decoder.fits(q) for decoder in decoders)]
    if not kept:
        raise UserError(f"eval.own={cfg.eval.own}: no question fits this model's context")
    skipped = len(questions) - len(kept)
    return kept, {"num_questions": float(len(kept)), "num_skipped": float(skipped)}


def measure(
    decoder: Decoder, questions: Sequence[Question], workspace: Workspace
) -> tuple[dict[str, list[float]], dict[str, float]]:
    """Measures of every question, in percent, and what the decoder did inside."""
    rows, starts = [], [0]
    for q in questions:
        context = decoder.contexts(q.text, plain=q.plain)
        rows += [(context, answer) for answer in [*q.true, *q.false]]
        starts.append(len(rows))
    seen: list[Scored] = []
    scores = decoder.score_rows(rows, workspace.progress, seen.append if decoder.layers else None)
    items: dict[str, list[float]] = {}
    for q, (first, last) in zip(questions, pairwise(starts), strict=True):
        answer_scores, count = scores[first:last], len(q.true)
        if q.plain:
            measures = {"accuracy": float(chooses_first(answer_scores))}
        else:
            measures = truthful_choice(answer_scores[:count], answer_scores[count:], q.best)
        for key, value in measures.items():
            items.setdefault(key, []).append(100 * value)
    return items, mechanism(seen, decoder.layers)


def means(questions: Sequence[Question], items: Mapping[str, Sequence[float]]) -> dict[str, float]:
    """Means over all questions, over the three measures, and of the first measure by group."""
    averages = {key: float(np.mean(values)) for key, values in items.items()}
    if "mc1" in items:
        averages["mc_mean"] = float(np.mean([averages[key] for key in MEASURES]))
    key, values = next(iter(items.items()))
    groups: dict[str, list[float]] = {}
    for q, value in zip(questions, values, strict=True):
        for group in q.groups:
            groups.setdefault(group, []).append(value)
    return averages | {
        f"{key}_{group}": float(np.mean(group_values)) for group, group_values in groups.items()
    }


def mechanism(seen: Sequence[Scored], layers: Sequence[int]) -> dict[str, float]:
    """Mean chosen layer, share of each layer, and mean divergence (x 1e6, over words)."""
    chosen = [layer for scored in seen for layer in scored.layers]
    if not chosen:
        return {}
    spread = np.concatenate([np.array(scored.divergences) for scored in seen])
    metrics = {
        "chosen_layer": float(np.mean(chosen)),
        "divergence_1e6": float(1e6 * spread.max(1).mean()),
    }
    return metrics | {f"layer_{i}_percent": 100 * chosen.count(i) / len(chosen) for i in layers}


def compared(
    methods: Mapping[str, MethodConfig],
    items: Mapping[str, Mapping[str, Sequence[float]]],
    names: Sequence[str],
) -> dict[str, float]:
    """The first method against the best baseline, and the answers it turns against greedy."""
    mean = {n: np.array([np.mean(items[n][key]) for key in MEASURES]) for n in names}
    first, gains = names[0], {}
    rivals = [n for n in names[1:] if is_baseline(methods[n])]
    if rivals:
        best = max(rivals, key=lambda n: float(mean[n].mean()))
        gains["gain_over_best"] = float((mean[first] - mean[best]).mean())
    if "greedy" in names[1:]:
        right, plain = (np.array(items[n]["mc1"]) > 0 for n in (first, "greedy"))
        gains["turned_right"] = float(100 * (right & ~plain).mean())
        gains["turned_wrong"] = float(100 * (~right & plain).mean())
    return gains


def is_baseline(method: MethodConfig) -> bool:
    """Whether neither lower layer nor instruction has part: greedy, two sizes, DoLa, ICD."""
    weights = weights_of(method)
    return not (weights.omega or weights.rho or weights.instruct_original)


def contrasts(method: MethodConfig) -> bool:
    """Whether a score is a difference: all methods but the original as it is, instructed or not."""
    return method.amateur != "none" or weights_of(method).rho > 0


def chance(questions: Sequence[Question]) -> dict[str, float]:
    """Expected measures of scores that know nothing."""
    if questions[0].plain:
        return {"accuracy_chance": 25.0}
    first_by_chance = float(np.mean([1 / (1 + len(q.false)) for q in questions]))
    mass = float(np.mean([len(q.true) / (len(q.true) + len(q.false)) for q in questions]))
    return {
        "mc1_chance": 100 * first_by_chance,
        "mc2_chance": 100 * mass,
        "mc3_chance": 100 * first_by_chance,
    }


def gallery(
    questions: Sequence[Question], items: Mapping[str, Mapping[str, Sequence[float]]]
) -> list[dict[str, Any]]:
    """The first questions with what every method made of them."""
    rows = []
    for i, q in enumerate(questions[:SHOWN]):
        results = [
            {"name": name, "item": ", ".join(f"{k} {v[i]:.0f}" for k, v in scores.items())}
            for name, scores in items.items()
        ]
        shown = f"{q.text} | {q.true[q.best]} | {q.false[0]}"
        rows.append({"query": shown, "results": results})
    return rows
