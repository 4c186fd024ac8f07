"""Which tokens of captions, documents, clips and instructions are predicted.

Source: Wang et al. 2024, "COSMO", released code, arXiv 2401.00849.

# B rows, L tokens
"""

import torch
from torch import Tensor

IGNORED = -100


def _without(ids: Tensor, *tokens: int) -> Tensor:
    left_out = torch.isin(ids, torch.tensor(tokens, device=ids.device))
    return ids.masked_fill(left_out, IGNORED)


def _since(ids: Tensor, begin: int, end: int) -> Tensor:
    """(B, L) bool: whether the last `begin` or `end` at or before a place is a `begin`."""
    steps = torch.arange(1, ids.shape[1] + 1, device=ids.device)
    last = [(torch.where(ids == token, steps, 0)).cummax(dim=1).values for token in (begin, end)]
    return last[0] > last[1]


def caption_labels(ids: Tensor, *, pad: int, visual: int) -> Tensor:
    """Image-text and video-text: all but padding, the first token and the place of the picture.

    Args:
        ids: (B, L) int64.
        pad: id of padding.
        visual: id of ``<visual>``.

    >>> caption_labels(torch.tensor([[0, 9, 5, 1]]), pad=1, visual=9).tolist()
    [[-100, -100, 5, -100]]
    """
    labels = _without(ids, pad, visual)
    labels[:, 0] = IGNORED
    return labels


def document_labels(ids: Tensor, *, pad: int, visual: int, end_of_chunk: int, bos: int) -> Tensor:
    """Interleaved images: from a ``<visual>`` to the end of its chunk, the end included.

    Args:
        ids: (B, L) int64.
        pad: id of padding.
        visual: id of ``<visual>``.
        end_of_chunk: id of ``<|endofchunk|>``.
        bos: id of the start of a text.

    >>> ids = torch.tensor([[0, 5, 9, 6, 8, 7, 1]])
    >>> document_labels(ids, pad=1, visual=9, end_of_chunk=8, bos=0).tolist()
    [[-100, -100, -100, 6, 8, -100, -100]]
    """
    inside = _since(ids, visual, end_of_chunk)
    chunk_end = (ids == end_of_chunk) & torch.nn.functional.pad(inside, (1, -1))
    return _without(ids, pad, visual, bos).masked_fill(~(inside | chunk_end), IGNORED)


def clip_labels(ids: Tensor, *, pad: int, visual: int) -> Tensor:
    """Interleaved video: all but padding and the places of clips."""
    return _without(ids, pad, visual)


def instruction_labels(
    ids: Tensor, *, pad: int, visual: int, bos: int, human: int, gpt: int
) -> Tensor:
    """Instructions: all answers with the ends of their chunks, and the end of the text.

    Nothing from ``<human>`` to ``<gpt>``, both included, and no padding, start or picture. Unlike
    in documents an answer after the first one needs no further picture.

    Args:
        ids: (B, L) int64.
        pad: id of padding.
        visual: id of ``<visual>``.
        bos: id of the start of a text.
        human: id of ``<human>``.
        gpt: id of ``<gpt>``.

    >>> ids = torch.tensor([[0, 9, 6, 11, 7, 12, 8, 2]])
    >>> instruction_labels(ids, pad=1, visual=9, bos=0, human=6, gpt=7).tolist()
    [[-100, -100, -100, -100, -100, 12, 8, 2]]
    """
    asked = _since(ids, human, gpt) | (ids == gpt)
    return _without(ids, pad, visual, bos).masked_fill(asked, IGNORED)
