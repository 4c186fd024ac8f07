"""Prompts of stages 1 and 2, and what is read from the answers."""

import re
from collections.abc import Mapping
from typing import Literal

Kind = Literal["entailment", "contradiction"]
OPPOSITE: dict[Kind, Kind] = {"entailment": "contradiction", "contradiction": "entailment"}

# own sentences: none of them is in an evaluation set
EXAMPLES: dict[Kind, tuple[tuple[str, str], ...]] = {
    "entailment": (
        (
            "Two gardeners are planting tulips along the path.",
            "Flowers are being put into the ground beside a path.",
        ),
        (
            "The committee rejected the budget after a long debate.",
            "After much discussion the budget was turned down.",
        ),
    ),
    "contradiction": (
        (
            "Two gardeners are planting tulips along the path.",
            "The gardeners are pulling all flowers out of the path.",
        ),
        (
            "The committee rejected the budget after a long debate.",
            "The committee accepted the budget without a word.",
        ),
    ),
}

TASKS: dict[str, dict[Kind, str]] = {
    "plain": {
        "entailment": "Write a sentence that is entailed by the given sentence.",
        "contradiction": "Write a sentence that is negative with respect to the given sentence.",
    },
    "paraphrase": {
        "entailment": "Say the given sentence again in other words and with another structure.",
        "contradiction": (
            "Change the given sentence so that it means something logically different."
        ),
    },
    "concise": {
        "entailment": "Give a short paraphrase of the given sentence; modifiers may be left out.",
        "contradiction": "Express a realistic idea that contrasts with the given sentence.",
    },
    "details": {
        "entailment": "Write something else that is also true if the given sentence is.",
        "contradiction": "Alter one or two details of the given sentence and keep its structure.",
    },
}
_SENTENCE, _ANSWER = "Sentence:", "Answer:"
_APOSTROPHE = re.compile(r"(?<=\w)['\u2019](?=\w)")
_PLACES = re.compile(r"\{(first|second)\}")
_QUOTES = {'"': '"', "'": "'", "`": "`", "\u201c": "\u201d", "\u2018": "\u2019"}


def generation_prompt(
    premise: str, kind: Kind, instruction: str = "plain", prompts: Mapping[str, str] | None = None
) -> str:
    """Task, two worked examples, the premise and an open slot.

    Args:
        premise: one sentence; its white space is normalised.
        kind: what is wanted.
        instruction: key of `TASKS`.
        prompts: of each kind, with the place ``{premise}``, in place of ours.
    """
    if prompts:
        return prompts[kind].replace("{premise}", " ".join(premise.split()))
    shown = [f"{_SENTENCE} {a}\n{_ANSWER} {b}" for a, b in EXAMPLES[kind]]
    slot = f"{_SENTENCE} {' '.join(premise.split())}\n{_ANSWER}"
    return "\n\n".join([TASKS[instruction][kind], *shown, slot])


def first_line(answer: str) -> str:
    """First line of an answer that is not empty; "" without one."""
    return next((line for line in answer.splitlines() if line.strip()), "")


def parse_sentence(answer: str) -> str:
    r"""First line of an answer that is not empty, without quotation marks around the whole of it.

    >>> parse_sentence(' "A man sleeps." \nSentence: next')
    'A man sleeps.'
    >>> parse_sentence('He said "no"')
    'He said "no"'
    """
    line = " ".join(first_line(answer).split())
    while len(line) > 1 and line[-1] == _QUOTES.get(line[0]):
        inner = line[1:-1].strip()
        if {line[0], line[-1]} & set(_APOSTROPHE.sub("", inner)):  # two quotations
            break
        line = inner
    return line.strip('"').strip() if line.count('"') == 1 else line  # one that was never closed


def similarity_prompt(first: str, second: str, prompt: str | None = None) -> str:
    """Zero-shot question for the similarity of two sentences, 0.0 to 5.0.

    Args:
        first: one sentence; its white space is normalised.
        second: the other.
        prompt: with the places ``{first}`` and ``{second}``, in place of ours.
    """
    if prompt is not None:
        texts = {"first": " ".join(first.split()), "second": " ".join(second.split())}
        return _PLACES.sub(lambda place: texts[place[1]], prompt)
    return (
        "Rate how similar sentences (a) and (b) are in meaning, as a number between 0.0 (nothing"
        f" in common) and 5.0 (the same meaning).\n(a) {' '.join(first.split())}\n(b)"
        f" {' '.join(second.split())}\nSimilarity:"
    )
