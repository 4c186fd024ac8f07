"""Passes over sequences of similar length, so that little padding is computed."""

from collections.abc import Callable, Iterable, Sequence

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


Progress = Callable[[Iterable[slice], str, int], Iterable[slice]]


def in_batches_by_length(
    run: Callable[[list[int]], Tensor],
    lengths: Sequence[int],
    batch_size: int,
    progress: Progress | None = None,
    description: str = "encode",
) -> Tensor:
    """Results of N rows, computed in batches of similar length, the longest first.

    Args:
        run: places of a batch's rows -> (b, ...) on any device.
        lengths: N, of the rows.
        batch_size: rows of a batch.
        progress: wraps the loop, called with (iterable, description, total).
        description: shown with the progress.

    Returns:
        (N, ...) on the CPU in the given order, float32 (float64 of a float64 model).

    Raises:
        ValueError: no rows.

    >>> in_batches_by_length(lambda rows: torch.tensor(rows).float(), [1, 3, 2], 2)
    tensor([0., 1., 2.])
    """
    order = sorted(range(len(lengths)), key=lambda i: -lengths[i])
    batches = [slice(i, i + batch_size) for i in range(0, len(order), batch_size)]
    shown = batches if progress is None else progress(batches, description, len(batches))
    result: Tensor | None = None
    for part in shown:
        rows = order[part]
        outputs = run(rows).cpu()
        outputs = outputs if outputs.dtype == torch.float64 else outputs.float()
        if result is None:
            result = outputs.new_empty(len(order), *outputs.shape[1:])
        result[torch.tensor(rows)] = outputs
    if result is None:
        raise ValueError("there are no rows")
    return result
