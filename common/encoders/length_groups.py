"""Passes over sequences of similar length, so that little padding is computed."""

from collections.abc import Callable

import torch
from torch import Tensor


def in_length_groups(run: Callable[..., Tensor], groups: int, **inputs: Tensor) -> Tensor:
    """Rows of a padded batch in order of length, in passes without their common padding.

    Every row gets the result that one pass over the batch gives it, up to rounding, wherever `run`
    ignores padding; dropout masks are drawn in another order.

    Args:
        run: called with the inputs of a pass by name -> (b, ...).
        groups: number of passes; at most one a row.
        inputs: (B, L) each, ``attention_mask`` (0 at padding) among them.

    Returns:
        (B, ...), rows in the given order.

    >>> ids = torch.tensor([[5, 6, 7], [8, 0, 0]])
    >>> widths = lambda input_ids, attention_mask: torch.full((len(input_ids),), input_ids.shape[1])
    >>> in_length_groups(widths, 2, input_ids=ids, attention_mask=ids.ne(0))
    tensor([3, 1])
    """
    mask = inputs["attention_mask"]
    places = torch.arange(1, mask.shape[1] + 1, device=mask.device)
    lengths = (mask.ne(0) * places).amax(1)  # up to the last real token
    order = lengths.argsort(stable=True)
    parts = []
    for rows in order.tensor_split(min(groups, len(order))):
        width = int(lengths[rows].max())
        parts.append(run(**{name: x[rows, :width] for name, x in inputs.items()}))
    return torch.cat(parts)[order.argsort()]
