"""From mentions to entities: candidates of the knowledge base, weighed by prior and context."""

import re
from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from common.data.samplers import Rng
from common.decoding.prompts import Prompt, TextGenerator
from projects.mofi.knowledge import Knowledge

ROUNDS = 10
PROMPT = (
    'Caption: {text}\nWhat does "{mention}" mean here?\n{options}\n0: none of these\n\n'
    "Answer with one number."
)


class Linked(NamedTuple):
    """An entity of a text."""

    entity: int  # place in the knowledge base
    prob: float  # of it among the candidates of its mention


Linker = Callable[[Sequence[str], Sequence[list[str]], Sequence[Rng]], list[list[Linked]]]


def probabilities(
    candidates: Sequence[Sequence[int]],
    odds: Sequence[Tensor],
    vectors: Tensor | None,
    rounds: int = ROUNDS,
) -> list[Tensor]:
    """Probability of every candidate of every mention of a text, in the light of the others.

        p(c) ~ prior(c) * (1 + cos(v_c, context)) / 2
        context = sum of p v over the other mentions

    repeated from p ~ prior until no best candidate changes. A mention alone keeps its prior.

    Source: Wu et al. 2024, section 3.1 (disambiguation by entity embeddings, iterated),
    arXiv 2306.07952.

    Args:
        candidates: indices for each mention, at least one.
        odds: prior > 0 of each candidate of each mention.
        vectors: (K, D) unit rows; None leaves the context out.
        rounds: at most.

    Returns:
        One tensor a mention, which sums to 1.

    >>> v = torch.tensor([[1.0, 0.0], [0.0, 1.0], [1.0, 0.0]])
    >>> probabilities([[0, 1], [2]], [torch.ones(2), torch.ones(1)], v)[0].round(decimals=2)
    tensor([0.6700, 0.3300])
    """
    start = [prior / prior.sum() for prior in odds]
    current = start
    for _ in range(rounds if vectors is not None and len(candidates) > 1 else 0):
        assert vectors is not None
        means = torch.stack(
            [p @ vectors[list(places)] for p, places in zip(current, candidates, strict=True)]
        )
        around = torch.nn.functional.normalize(means.sum(0) - means, dim=1)
        weighed = []
        for p, places, context in zip(start, candidates, around, strict=True):
            score = p * (1 + vectors[list(places)] @ context) / 2
            score = torch.where(score.sum() > 0, score, p)
            weighed.append(score / score.sum())
        same = all(
            int(a.argmax()) == int(b.argmax()) for a, b in zip(current, weighed, strict=True)
        )
        current = weighed
        if same:
            break
    return current


def best_of(mentions: Sequence[str], knowledge: Knowledge, vectors: Tensor | None) -> list[Linked]:
    """The likeliest entity of each mention that has candidates.

    An entity once, its best mention.
    """
    linkable = [mention for mention in mentions if knowledge.candidates(mention)]
    candidates = [knowledge.candidates(mention) for mention in linkable]
    odds = [knowledge.odds(mention) for mention in linkable]
    links: dict[int, float] = {}
    for places, p in zip(candidates, probabilities(candidates, odds, vectors), strict=True):
        best = int(p.argmax())
        links[places[best]] = max(links.get(places[best], 0.0), round(float(p[best]), 4))
    return [Linked(place, prob) for place, prob in links.items()]


def table_linker(knowledge: Knowledge, vectors: Tensor | None) -> Linker:
    """Prior and context; without vectors the prior alone."""

    def link(
        texts: Sequence[str], mentions: Sequence[list[str]], rngs: Sequence[Rng]
    ) -> list[list[Linked]]:
        return [best_of(names, knowledge, vectors) for names in mentions]

    return link


def lm_linker(knowledge: Knowledge, generate: TextGenerator, max_new_tokens: int) -> Linker:
    """A language model picks among numbered candidates; an unusable answer falls back to the prior.

    The probability is the prior's share of the picked candidate: an answer has none of its own.
    """

    def link(
        texts: Sequence[str], mentions: Sequence[list[str]], rngs: Sequence[Rng]
    ) -> list[list[Linked]]:
        asked = [
            (row, mention, knowledge.candidates(mention))
            for row, names in enumerate(mentions)
            for mention in names
            if knowledge.candidates(mention)
        ]
        prompts = [Prompt(question(knowledge, texts[r], m, c), turn=True) for r, m, c in asked]
        answers = generate(prompts, [rngs[r] for r, _, _ in asked], max_new_tokens)
        links: list[dict[int, float]] = [{} for _ in texts]
        for (row, mention, places), answer in zip(asked, answers, strict=True):
            p = knowledge.odds(mention)
            p = p / p.sum()
            choice = picked(answer, len(places))
            if choice == 0:
                continue
            place = int(p.argmax()) if choice is None else choice - 1
            links[row].setdefault(places[place], round(float(p[place]), 4))
        return [[Linked(place, prob) for place, prob in row_links.items()] for row_links in links]

    return link


def question(knowledge: Knowledge, text: str, mention: str, candidates: Sequence[int]) -> str:
    """The prompt of one mention."""
    options = "\n".join(
        f"{n}: {knowledge.entities[i].name}: {knowledge.entities[i].description}"
        for n, i in enumerate(candidates, 1)
    )
    return PROMPT.format(text=" ".join(text.split()), mention=mention, options=options)


def picked(answer: str, count: int) -> int | None:
    """Number that an answer consists of, 0 for "none of these"; None if it is none of the options.

    >>> picked(" 2.", 3), picked("0", 3), picked("7", 3), picked("perhaps 1 or 2", 3)
    (2, 0, None, None)
    """
    digits = re.fullmatch(r"\s*(\d+)\W*", answer)
    number = int(digits[1]) if digits else -1
    return number if 0 <= number <= count else None
