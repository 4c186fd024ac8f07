"""Training texts of SimCSE: one sentence twice, pairs, or pairs with a hard negative."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor

from common.config import UserError
from common.data.lookup import bundled
from common.data.samplers import Key, sample_rng
from common.data.tables import read_jsonl
from common.data.text.augment import Eda, synonyms_from_synsets
from common.data.text.masking import mask_tokens
from common.data.text.sets import count_text_columns
from common.data.text.views import AugmentBatch, AugmentText, TextViews
from common.families.sentences.data import text_path, text_rows
from projects.simcse.config import Config, SimcseData
from projects.simcse.mlm_substitution import MlmSubstitution

MLM_STREAM = 2**20


def num_views(data: SimcseData) -> int:
    """Rows that the encoder sees per sample; a table that is not here counts as triplets."""
    columns = 3 if data.source == "nli" else 1
    if data.source == "file":
        path = text_path(data)
        columns = count_text_columns(path) if path.is_file() else 1 if path.suffix == ".txt" else 3
    return max(2, columns if data.hard_negatives else min(columns, 2))


def train_set(cfg: Config, tokenizer: Any) -> TextViews:
    """Two or three views of every row; with masked copies if the objective has that term."""
    data = cfg.data
    rows = text_rows(data, cfg.seed)
    if not data.hard_negatives:
        rows = [row[:2] for row in rows]
    if len(rows[0]) > 1 and cfg.method.same_dropout_mask:
        raise UserError("method.same_dropout_mask is for two views of one sentence, not for pairs")
    if len(rows[0]) < 3 and cfg.method.hard_negative_logit:
        raise UserError("method.hard_negative_logit needs rows with a hard negative")
    kind = MaskedTextViews if cfg.method.mlm_weight else TextViews
    views = kind(
        rows,
        tokenizer,
        max_length=data.max_length,
        seed=cfg.seed,
        views=max(2, len(rows[0])),
        augment_text=augmentation(data),
        augment_batch=substitution(cfg, tokenizer),
    )
    if isinstance(views, MaskedTextViews):
        views.probability = cfg.method.mlm_probability
    return views


def augmentation(data: SimcseData) -> AugmentText | None:
    """Discrete noise of the second view."""
    if data.augment in ("none", "mlm"):
        return None
    change: Callable[[str, np.random.Generator], str]
    if data.augment == "crop":
        change = partial(crop, rate=data.augment_rate)
    elif data.augment == "delete":
        change = Eda(alpha=data.augment_rate, operations=("delete",))
    else:
        synsets = read_jsonl(bundled("wordnet", data.root) / "synsets.jsonl.gz", ("lemmas", "pos"))
        change = Eda(synonyms_from_synsets(synsets), data.augment_rate, ("replace",))
    return lambda text, rng, view: change(text, rng) if view else text


def substitution(cfg: Config, tokenizer: Any) -> AugmentBatch | None:
    """Replacement of tokens of the second view by a masked language model."""
    if cfg.data.augment != "mlm":
        return None
    from transformers import AutoModelForMaskedLM

    from common.encoders.text.tower import load_transformer

    model = load_transformer(
        cfg.model.pretrained, config=cfg.model.config, auto_class=AutoModelForMaskedLM
    )
    replace = MlmSubstitution(model, tokenizer, cfg.data.augment_rate, cfg.data.max_length)
    return lambda rows, rngs, view: replace(rows, rngs) if view else rows


def crop(text: str, rng: np.random.Generator, rate: float) -> str:
    """Leave out `rate` of the words at the two ends, at least one word stays.

    >>> crop("a b c d", np.random.default_rng(0), 0.5) in ("a b", "b c", "c d")
    True
    """
    words = text.split()
    keep = max(1, round(len(words) * (1 - rate)))
    start = int(rng.integers(len(words) - keep + 1)) if words else 0
    return " ".join(words[start : start + keep])


class MaskedTextViews(TextViews):
    """`TextViews` whose batches also hold ``mlm_input_ids`` and ``mlm_labels``, (V * B, L)."""

    probability = 0.15

    def __getitem__(self, keys: Sequence[Key]) -> Any:
        """Batch of the given keys."""
        batch: dict[str, Tensor] = {**super().__getitem__(keys)}  # type: ignore[dict-item]
        ids, real = batch["input_ids"].numpy(), batch["attention_mask"].numpy() != 0
        masked, labels = ids.copy(), np.full_like(ids, -100)
        for row in range(len(ids)):
            index, epoch = keys[row % len(keys)]
            tokens = ids[row, real[row]]  # without padding, whose width is that of the batch
            masked[row, real[row]], labels[row, real[row]] = mask_tokens(
                tokens,
                np.isin(tokens, self.tokenizer.all_special_ids),
                sample_rng(self.seed, epoch, index, MLM_STREAM + row // len(keys)),
                mask_id=int(self.tokenizer.mask_token_id),
                vocab_size=len(self.tokenizer),
                probability=self.probability,
            )
        return {
            **batch,
            "mlm_input_ids": torch.from_numpy(masked),
            "mlm_labels": torch.from_numpy(labels),
        }
