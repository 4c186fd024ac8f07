"""LOL and its baselines on one path: the same passes score fixed answers and write new ones.

# B rows, T places, C candidate layers, D hidden size, V vocabulary
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from common.config import UserError
from common.decoding.language_model import LanguageModel
from common.decoding.options import Policy
from common.decoding.policies import processors
from common.decoding.stopping import ending_tokens, until_end
from projects.lol.config import MethodConfig
from projects.lol.early_exit import (
    at_layer,
    candidate_layers,
    exit_logits,
    furthest_layer,
    num_blocks,
)
from projects.lol.lora import lora_switched
from projects.lol.objective import Logits, Weights, lol_scores
from projects.lol.prompts import Contexts, Prompts
from projects.lol.questions import Question
from projects.lol.tracks import Reading, Track, read, room_of, write

REMOVED = -1000.0  # score of implausible tokens of given answers, as in ICD's code


@dataclass(frozen=True)
class Models:
    """The original, and what may be held against it; all in evaluation mode, of one tokenizer.

    Attributes:
        lm: the original; adapters on it, if any, are the trained amateur.
        amateur: a trained amateur with weights of its own.
        small: a smaller model.
    """

    lm: LanguageModel
    amateur: Any = None
    small: Any = None
    lora: bool = False

    def track(self, prompts: Sequence[list[int]], kind: str, layers: Sequence[int] = ()) -> Track:
        """Prompts read by the original, or by the amateur that `kind` names.

        Args:
            prompts: B rows of token ids.
            kind: "trained", "small", or anything else for the original.
            layers: hidden states that are wanted.
        """
        model: Any = self.lm.model
        if kind == "small":
            model = self.small
        elif kind == "trained" and self.amateur is not None:
            model = self.amateur
        if self.lora and model is self.lm.model:
            switch = partial(lora_switched, model, kind == "trained")
            return Track(model, prompts, tuple(layers), switch)
        return Track(model, prompts, tuple(layers))


class Scored(NamedTuple):
    """An answer, token by token."""

    tokens: list[int]
    scores: list[float]  # their sum is the answer's score
    layers: list[int]  # chosen lower layer at every place; empty without one
    divergences: list[list[float]]  # of the candidate layers at every place
    # likeliest tokens at every place under original, amateur and the fused score
    top: dict[str, list[list[int]]]


class Decoder:
    """Scores answers and writes them by one method.

    Args:
        models: original and amateurs.
        method: which terms, layers and amateur.
        prompts: frames questions.
        batch_size: rows per pass.

    Raises:
        UserError: the method needs an amateur or a layer that is not there.
    """

    def __init__(
        self, models: Models, method: MethodConfig, prompts: Prompts, batch_size: int = 64
    ) -> None:
        self.models, self.method, self.prompts = models, method, prompts
        self.batch_size = batch_size
        self.weights = weights_of(method)
        self.roles = _roles(method, self.weights)
        self.layers: list[int] = []
        if method.omega or method.amateur == "lower_layer":
            layers = method.layer_list if method.layers == "list" else method.layers
            self.layers = candidate_layers(layers, num_blocks(models.lm.model))
        trained = method.amateur == "trained" and "amateur" in self.roles
        if trained and not models.lora and models.amateur is None:
            raise UserError("amateur=trained, but there is none: train one, or set amateur.path")
        if method.amateur == "small" and models.small is None:
            raise UserError("amateur=small needs model.small, a model of the same vocabulary")

    # -- questions -------------------------------------------------------------------------------

    def score(self, question: str, answers: Sequence[str]) -> list[float]:
        """Summed scores of answers to a question, one each."""
        context = self.contexts(question)
        return self.score_rows([(context, answer) for answer in answers])

    def generate(
        self,
        questions: Sequence[str],
        *,
        new_tokens: int = 50,
        policy: Policy | None = None,
        rngs: Sequence[np.random.Generator] = (),
        stop: str = "Q:",
    ) -> list[str]:
        """Answers to questions.

        Args:
            questions: framed by the prompts.
            new_tokens: most tokens of an answer.
            policy: greedy, ancestral, nucleus, top_k or typical; None: greedy.
            rngs: one stream a question, of strategies that sample.
            stop: an answer is cut where this text begins.

        Raises:
            UserError: another strategy, or a prompt that does not fit.
        """
        policy = Policy("greedy") if policy is None else policy
        if policy.strategy not in ("greedy", "ancestral", "nucleus", "top_k", "typical"):
            raise UserError(f"strategy={policy.strategy}: LOL writes greedily or by sampling")
        texts: list[str] = []
        for first in range(0, len(questions), self.batch_size):
            part = slice(first, first + self.batch_size)
            contexts = [self.contexts(question) for question in questions[part]]
            texts += self._write(contexts, new_tokens, policy, rngs[part], stop)
        return texts

    def explain(self, question: str, answer: str, *, top: int = 3) -> Scored:
        """An answer token by token: scores, chosen layers, divergences, likeliest tokens."""
        context = self.contexts(question)
        prompts, ids = self._tokens(context, answer)
        readings = self._read([prompts], [ids])
        scores, logits, chosen, divergence = self._scores(readings, REMOVED)
        token_scores = scores[0].gather(1, torch.tensor(ids, device=scores.device)[:, None])[:, 0]
        views = {"original": logits.original, "amateur": logits.amateur, "fused": scores}
        best = {
            name: view[0].topk(top).indices.tolist()
            for name, view in views.items()
            if view is not None
        }
        layers = [] if chosen is None else [self.layers[i] for i in chosen[0].tolist()]
        spread = [] if divergence is None else divergence[:, 0].T.tolist()
        return Scored(ids, token_scores.tolist(), layers, spread, best)

    def contexts(self, text: str, *, plain: bool = False) -> Contexts:
        """The prompts of a question, or of a text that is continued as it stands (`plain`)."""
        keywords = self.method.refocus == "keyword_emphasis"
        return (self.prompts.plain if plain else self.prompts)(text, keywords=keywords)

    def fits(self, question: Question) -> bool:
        """Whether the original can read the question, under every prompt, with each answer."""
        context = self.contexts(question.text, plain=question.plain)
        rows = [self._tokens(context, answer) for answer in [*question.true, *question.false]]
        most = max(len(p) + len(answer) for prompts, answer in rows for p in prompts.values())
        return most <= room_of(self.models.lm.model)

    # -- framed texts ----------------------------------------------------------------------------

    @torch.no_grad()
    def score_rows(
        self,
        rows: Sequence[tuple[Contexts, str]],
        progress: Callable[[Iterable[int], str, int], Iterable[int]] = lambda items, *_: items,
        diagnose: "Callable[[Scored], None] | None" = None,
    ) -> list[float]:
        """Sum over the answer's tokens alone, for each (prompts, answer), (N,).

        Raises:
            UserError: an answer without tokens of its own, or one that does not fit the context.
        """
        totals: list[float] = []
        starts = range(0, len(rows), self.batch_size)
        for first in progress(starts, "score", len(starts)):
            part = [self._tokens(*row) for row in rows[first : first + self.batch_size]]
            prompts, answers = [p for p, _ in part], [ids for _, ids in part]
            scores, _, chosen, divergence = self._scores(self._read(prompts, answers), REMOVED)
            for i, ids in enumerate(answers):
                answer_logits = scores[i, -len(ids) :]
                each = answer_logits.gather(
                    1, torch.tensor(ids, device=answer_logits.device)[:, None]
                )[:, 0]
                totals.append(float(each.double().sum()))
                if diagnose is not None:
                    layers = [] if chosen is None else chosen[i, -len(ids) :].tolist()
                    spread = [] if divergence is None else divergence[:, i, -len(ids) :].T.tolist()
                    diagnose(
                        Scored(ids, each.tolist(), [self.layers[k] for k in layers], spread, {})
                    )
        return totals

    def _text(self, context: Contexts, role: str) -> str:
        if role == "instructed":
            return context.refocused
        prompted = role == "amateur" and self.method.amateur == "prompt"
        return context.fabricating if prompted else context.neutral

    def _tokens(self, context: Contexts, answer: str) -> tuple[dict[str, list[int]], list[int]]:
        """Prompt of every role, and the answer's ids, cut at the length of the neutral prompt."""
        lm = self.models.lm
        prompts = {
            role: lm.token_ids(self._text(context, role), special=True) for role in self.roles
        }
        before = prompts["original"]
        whole = lm.token_ids(f"{context.neutral} {answer}", special=True)
        if whole[: len(before)] != before or len(whole) == len(before):
            raise UserError(
                f"the tokenizer joins the end of the prompt with the answer {answer!r}: end "
                "prompt.question in a character that no token goes beyond, such as ':'"
            )
        return prompts, whole[len(before) :]

    def _tracks(self, prompts: Sequence[dict[str, list[int]]]) -> dict[str, Track]:
        tracks = {}
        for role in self.roles:
            kind = self.method.amateur if role == "amateur" else "original"
            contrasted = role != "instructed" or self.weights.instruct_original
            layers = self.layers if contrasted else ()
            tracks[role] = self.models.track([p[role] for p in prompts], kind, layers)
        return tracks

    def _read(
        self, prompts: Sequence[dict[str, list[int]]], answers: Sequence[list[int]]
    ) -> dict[str, Reading]:
        tracks = self._tracks(prompts)
        readings = read(list(tracks.values()), answers, self.models.lm.pad)
        return dict(zip(tracks, readings, strict=True))

    def _scores(
        self, readings: dict[str, Reading], removed: float
    ) -> tuple[Tensor, Logits, Tensor | None, Tensor | None]:
        """Scores (B, T, V), their logits, chosen candidates (B, T), divergences (C, B, T)."""
        original, amateur = readings["original"], readings.get("amateur")
        instructed = readings.get("instructed")
        chosen = divergence = lower = None
        if self.layers:
            states = [original.states[layer] for layer in self.layers]
            exits = torch.stack(
                [self._exit(original, *pair) for pair in zip(states, self.layers, strict=True)]
            )
            chosen, divergence = furthest_layer(original.logits, exits)  # of one: that one
            lower = at_layer(exits, chosen)
        logits = Logits(
            original.logits,
            lower if self.method.amateur == "lower_layer" else _logits(amateur),
            lower,
            # at the layer of the original, whatever the amateur's own divergences are
            self._lower(amateur, chosen) if self.weights.lambda_lower else None,
            _logits(instructed),
            self._lower(instructed, chosen),
        )
        return lol_scores(logits, self.weights, removed=removed), logits, chosen, divergence

    def _lower(self, reading: Reading | None, chosen: Tensor | None) -> Tensor | None:
        """Logits at the chosen layers; the states are chosen first, so that the head runs once."""
        if reading is None or chosen is None or not reading.states:
            return None
        states = at_layer(torch.stack([reading.states[layer] for layer in self.layers]), chosen)
        return self._exit(reading, states, self.layers[0])

    def _exit(self, reading: Reading, states: Tensor, layer: int) -> Tensor:
        return exit_logits(reading.model, states, layer, norm=self.method.early_exit_norm)

    def _write(
        self,
        contexts: Sequence[Contexts],
        new_tokens: int,
        policy: Policy,
        rngs: Sequence[np.random.Generator],
        stop: str,
    ) -> list[str]:
        lm = self.models.lm
        prompts = [
            {role: lm.token_ids(self._text(c, role), special=True) for role in self.roles}
            for c in contexts
        ]
        tracks = self._tracks(prompts)
        chosen_by: Any = processors(policy, rngs)
        ends = ending_tokens(lm.model, lm.ends, None)

        def choose(readings: list[Reading], new: Tensor) -> Tensor:
            scores = self._scores(dict(zip(tracks, readings, strict=True)), -torch.inf)[0][:, 0]
            token: Tensor = chosen_by(new, scores).argmax(-1)
            return token

        out = write(list(tracks.values()), choose, new_tokens, pad=lm.pad, ends=ends)
        rows = [until_end(row, lm.ends, None) for row in out.tolist()]
        texts = [lm.tokenizer.decode(row, skip_special_tokens=True) for row in rows]
        return [text.partition(stop)[0].strip() if stop else text.strip() for text in texts]


def weights_of(method: MethodConfig) -> Weights:
    """Weights of the terms; a term that a method lacks has none."""
    prompted = method.refocus in ("prompt_contrast", "keyword_emphasis")
    return Weights(
        method.lambda_final,
        method.lambda_lower,
        method.beta,
        method.omega,
        method.rho_refocus if prompted else 0.0,
        method.alpha_plausibility,
        method.refocus == "instruct_original",
        method.post_softmax,
    )


def _roles(method: MethodConfig, weights: Weights) -> tuple[str, ...]:
    """Which passes a method makes; no term without weight has one."""
    final = weights.beta > 0 and weights.lambda_final > 0
    lower = weights.omega > 0 and weights.lambda_lower > 0
    has_amateur = method.amateur in ("trained", "prompt", "small")
    return (
        "original",
        *(("amateur",) if has_amateur and (final or lower) else ()),
        *(("instructed",) if weights.rho > 0 or weights.instruct_original else ()),
    )


def _logits(reading: Reading | None) -> Tensor | None:
    return None if reading is None else reading.logits
