"""What a tokenizer writes around a text: its special tokens, and a prompt template."""

import copy
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from common.config import UserError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

TEXT, MASK = "{text}", "[MASK]"  # in a template: the text, and the tokenizer's mask token
# texts tokenised at once: what a tokenizer keeps alongside their ids is many times their size
ROWS = 8192


def special_tokens(tokenizer: "PreTrainedTokenizerBase") -> tuple[list[int], list[int]]:
    """Ids that a tokenizer puts before and after a single text; a template's are among them.

    Raises:
        UserError: it changes the text's own ids when it adds them.
    """
    probes = ["a", "b"]  # two, since a template may hold one of them
    plain = plain_ids(tokenizer, probes)
    whole = [list(tokenizer(probe, truncation=False)["input_ids"]) for probe in probes]
    for start in range(len(whole[0]) - len(plain[0]) + 1):
        ends = [start + len(ids) for ids in plain]
        inside = [row[start:end] for row, end in zip(whole, ends, strict=True)]
        if plain[0] and inside == plain:
            return whole[0][:start], whole[0][ends[0] :]
    raise UserError(f"this tokenizer's special tokens cannot be told from its text: {whole[0]}")


def plain_ids(tokenizer: "PreTrainedTokenizerBase", texts: Sequence[str]) -> list[list[int]]:
    """Token ids of texts, neither cut nor padded, without special tokens."""
    rows: list[list[int]] = []
    for start in range(0, len(texts), ROWS):
        encoded = tokenizer(
            list(texts[start : start + ROWS]),
            add_special_tokens=False,
            truncation=False,
            padding=False,
            return_attention_mask=False,
            return_token_type_ids=False,
            verbose=False,
        )
        rows += encoded["input_ids"]
    return rows


def check_template(template: str, *, mask: bool) -> None:
    """Refuse a template that cannot hold a text, or whose state at the mask is not defined.

    Args:
        template: holds "{text}" once and, for pooling "mask", "[MASK]" once.
        mask: whether the state at the mask token is pooled.

    Raises:
        ValueError: see above.
    """
    if template.count(TEXT) != 1 or (mask and template.count(MASK) != 1):
        expected = f"{TEXT!r} and {MASK!r}" if mask else repr(TEXT)
        raise ValueError(f"the template needs {expected} once, got {template!r}")


def add_template(tokenizer: Any, template: str) -> None:
    """Make a tokenizer write every text into a template; cutting then shortens the text alone.

    The ids of a text stay what they are by itself. A tokenizer that has the template already, as
    one that was saved with it, is left as it is.

    Source: Jiang et al. 2022, "PromptBERT", section 4, arXiv 2201.04337 (one template).

    Args:
        tokenizer: of the transformers library, with a backend of tokenizers; it is changed.
        template: e.g. ``'This sentence : "{text}" means [MASK] .'``.

    Raises:
        UserError: a slow tokenizer, or "[MASK]" for a tokenizer without mask token.
        ValueError: see `check_template`.
    """
    check_template(template, mask=False)
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None or (MASK in template and tokenizer.mask_token is None):
        raise UserError(
            "a template needs a fast tokenizer, and a mask token where it has [MASK]: leave "
            "model.template out"
        )
    written = template.replace(MASK, str(tokenizer.mask_token))
    before, after = plain_ids(tokenizer, written.split(TEXT))
    start, end = special_tokens(tokenizer)
    if start[len(start) - len(before) :] == before and end[: len(after)] == after:
        return
    _write_around(tokenizer, {"before": start + before, "after": after + end})


def without_template(tokenizer: Any, template: str | None) -> Any:
    """A copy of a tokenizer that writes no template, for texts that are read as they are.

    Args:
        tokenizer: what `add_template` has changed; it is left as it is.
        template: of that call; None: there was none, and nothing is copied.
    """
    if template is None:
        return tokenizer
    written = template.replace(MASK, str(tokenizer.mask_token))
    before, after = plain_ids(tokenizer, written.split(TEXT))
    start, end = special_tokens(tokenizer)
    plain = copy.deepcopy(tokenizer)
    around = {"before": start[: len(start) - len(before)], "after": end[len(after) :]}
    _write_around(plain, around)
    return plain


def _write_around(tokenizer: Any, around: Mapping[str, list[int]]) -> None:
    """Make a tokenizer put the ids "before" and "after" around every text."""
    from tokenizers import processors

    tokenizer.backend_tokenizer.post_processor = processors.TemplateProcessing(
        single=[name for name in ("before", "$A", "after") if around.get(name, True)],
        special_tokens=[
            {"id": name, "ids": ids, "tokens": tokenizer.convert_ids_to_tokens(ids)}
            for name, ids in around.items()
            if ids
        ],
    )


def general_tokenizer(tokenizer: Any) -> Any:
    """A fast tokenizer in the general class; a model's own class would restore its template.

    Args:
        tokenizer: a fast tokenizer of transformers.
    """
    from transformers import PreTrainedTokenizerFast

    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer.backend_tokenizer,
        model_max_length=tokenizer.model_max_length,
        padding_side=tokenizer.padding_side,
        **tokenizer.special_tokens_map,
    )
