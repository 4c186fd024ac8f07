"""Several decoders on the same prompts with the same budget; sampling decoders draw often."""

from collections.abc import Mapping, Sequence

from common.data.row_map.chunks import RowSeed
from common.decoding.language_model import LanguageModel, Progress
from common.decoding.options import Policy

Ids = list[int]
_STREAM = 71


def decode_side_by_side(
    lm: LanguageModel,
    rows: Sequence[Ids],
    policies: Mapping[str, Policy],
    max_new_tokens: int,
    *,
    seeds: Sequence[RowSeed],
    draws: int = 1,
    batch_size: int = 64,
    stop: str | None = None,
    progress: Progress = lambda items, description, total: items,
) -> dict[str, list[list[Ids]]]:
    """Continuations of all prompts by every decoder.

    Args:
        lm: the language model.
        rows: N prompts as token ids, equal for all decoders.
        policies: decoders by name.
        max_new_tokens: budget of each continuation.
        seeds: of the N rows; a row's draws depend on its seed alone.
        draws: continuations of each prompt by a decoder that samples; others give one.
        batch_size: prompts per pass.
        stop: a character that ends a continuation.
        progress: wraps the loop over the batches.

    Returns:
        Name -> draw -> N rows of new token ids, up to and with their end.

    Raises:
        UserError: a prompt that does not fit the model's context alongside the new tokens.
    """
    return {
        name: [
            lm.continue_ids(
                rows,
                policy,
                [seed.rng(_STREAM, attempt=draw) for seed in seeds],
                max_new_tokens,
                batch_size=batch_size,
                stop=stop,
                progress=progress,
            )
            for draw in range(draws if policy.samples else 1)
        ]
        for name, policy in policies.items()
    }
