"""Training sentences of WhitenedCSE: every sentence m times."""

from common.config import UserError
from common.data.text.repeated_views import repeated_views, repetition
from common.data.text.views import TextViews
from common.encoders.text.sentence import SentenceEncoder
from common.families.sentences.data import text_rows
from projects.whitenedcse.config import Config


def train_set(cfg: Config, encoder: SentenceEncoder) -> TextViews:
    """`num_pos` copies of every sentence; with repetition on, all but the first are changed.

    Raises:
        UserError: files that are missing, rows of more than one column, or repeated sub-words that
            the encoder cannot read.
    """
    rows = text_rows(cfg.data, cfg.seed)
    if len(rows[0]) > 1:
        raise UserError(f"{cfg.data.file} has {len(rows[0])} columns; give one sentence per line")
    return repeated_views(
        rows,
        encoder.tokenizer,
        repetition(cfg.repetition),
        max_length=cfg.data.max_length,
        seed=cfg.seed,
        views=cfg.num_pos,
        limit=encoder.max_length,
    )
