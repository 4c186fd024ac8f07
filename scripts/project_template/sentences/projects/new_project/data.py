"""Training sentences in two views, which differ in their dropout masks only."""

from common.config import UserError
from common.data.text.views import TextViews
from common.encoders.text.sentence import SentenceEncoder
from common.families.sentences.data import text_rows
from projects.new_project.config import Config


def train_set(cfg: Config, encoder: SentenceEncoder) -> TextViews:
    """Every sentence twice; rows of two columns are pairs already.

    Raises:
        UserError: files are missing, or rows have three columns.
    """
    rows = text_rows(cfg.data, cfg.seed)
    if len(rows[0]) > 2:
        raise UserError(
            f"data.source={cfg.data.source} has rows of {len(rows[0])} texts, not 1 or 2"
        )
    return TextViews(
        rows, encoder.tokenizer, max_length=cfg.data.max_length, seed=cfg.seed, views=2
    )
