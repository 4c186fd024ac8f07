"""A sequential recommender as a folder: weights, sizes, names of the items.

And what is asked of it.
"""

import json
import logging
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from common.config import UserError
from common.encoders.modes import evaluation_mode
from common.export.files import write_json
from common.export.safetensors import load_safetensors, save_safetensors
from projects.mclrec.leave_one_out import right_padded
from projects.mclrec.sasrec import SASRec

ITEMS = "items.json"
NAMED = 5  # items that a message names

_log = logging.getLogger(__name__)


class Recommender:
    """Ranked items for lists of item names.

    Args:
        encoder: scores items.
        items: their names; item i has id i + 1.
    """

    def __init__(self, encoder: SASRec, items: Sequence[str]) -> None:
        self.encoder, self.items = encoder, list(items)
        self.ids = {name: number for number, name in enumerate(self.items, start=1)}

    def __call__(
        self, history: Sequence[str], k: int = 10, *, mask_history: bool = True
    ) -> list[tuple[str, float]]:
        """The k items with the highest scores, best first.

        Args:
            history: names of items, oldest first; the last ones are read. Unknown ones are left
                out, with a warning that counts and names them.
            k: how many.
            mask_history: leave out the items of the history.

        Raises:
            UserError: no known item in the history.
        """
        items = self.known(history)
        if not len(items):
            raise UserError(
                f"none of {len(history)} items is known ({_some(self.unknown(history))}): give names "
                f"as in training, such as {_some(self.items)}"
            )
        if unknown := self.unknown(history):
            _log.warning(
                "%d of %d items are unknown and left out: %s",
                len(unknown),
                len(history),
                _some(unknown),
            )
        scores = self.scores([items])[0]
        scores[0] = -torch.inf
        if mask_history:
            scores[torch.from_numpy(items)] = -torch.inf
        best = scores.topk(min(k, int(scores.isfinite().sum())))
        pairs = zip(best.indices.tolist(), best.values.tolist(), strict=True)
        return [(self.items[item - 1], value) for item, value in pairs]

    def known(self, history: Sequence[str]) -> np.ndarray:
        """(l,) int64 ids of the items that have one."""
        ids = [self.ids[str(item)] for item in history if str(item) in self.ids]
        return np.array(ids, dtype=np.int64)

    def unknown(self, history: Sequence[str]) -> list[str]:
        """The items that training did not know, in their order."""
        return [str(item) for item in history if str(item) not in self.ids]

    def scores(self, histories: Sequence[np.ndarray]) -> Tensor:
        """Ids of B histories, none empty -> scores (B, I + 1), column 0 of the padding."""
        with evaluation_mode(self.encoder):
            return self.encoder.scores(self.user_vectors(histories))

    def user_vectors(self, histories: Sequence[np.ndarray]) -> Tensor:
        """Ids of B histories, none empty -> (B, D); products with `item_matrix` are the scores."""
        items, lengths = right_padded(histories, self.encoder.max_length)
        device = self.encoder.item_embedding.weight.device
        with evaluation_mode(self.encoder):
            return self.encoder.user_vectors(items.to(device), lengths.to(device))

    @property
    def item_matrix(self) -> Tensor:
        """(I, D), row i belongs to ``items[i]``: what a vector index is built of."""
        return self.encoder.item_embedding.weight.detach()[1:]


def _some(items: Sequence[str]) -> str:
    return ", ".join(items[:NAMED]) + (", ..." if len(items) > NAMED else "")


def save_recommender(recommender: Recommender, folder: Path, options: dict[str, object]) -> Path:
    """Write ``model.safetensors`` (names as RecBole's SASRec), ``config.json``, ``items.json``.

    Args:
        recommender: what is written.
        folder: created if needed.
        options: arguments of `SASRec` alongside the number of items.
    """
    size = recommender.encoder.num_items
    save_safetensors(recommender.encoder, folder, {"num_items": size, **options})
    write_json(folder / ITEMS, recommender.items)
    return folder


def load_recommender(folder: str | Path) -> Recommender:
    """Read what `save_recommender` wrote.

    Raises:
        UserError: not such a folder.
    """
    encoder = load_safetensors(folder, SASRec)
    path = Path(folder) / ITEMS
    try:
        items = json.loads(path.read_text("utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(f"{path} is not readable: {error}; export the run again") from error
    if not isinstance(items, list) or len(items) != encoder.num_items:
        raise UserError(f"{path} must list {encoder.num_items} items; export the run again")
    return Recommender(encoder, [str(item) for item in items])
