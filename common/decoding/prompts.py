"""Prompts that a language model's context has no room for: what is said about them."""

from collections.abc import Sequence

from common.decoding.language_model import LanguageModel


def cut_note(lm: LanguageModel, rows: Sequence[Sequence[int]], max_new_tokens: int) -> str | None:
    """How many prompts `LanguageModel.fitting` cuts, in words; None if all fit.

    Args:
        lm: the language model.
        rows: prompts as token ids, before they are cut.
        max_new_tokens: budget of a continuation.
    """
    room = lm.context - max_new_tokens
    cut = sum(len(row) > room for row in rows)
    if not cut:
        return None
    return (
        f"{cut} of {len(rows)} prompts are too long: the language model reads their last {room} tokens "
        f"(its context of {lm.context} without {max_new_tokens} new ones)"
    )
