"""Training sentences in two views, which differ in their dropout masks only."""

from arena.sentences.config import Config
from common.data.text.views import TextViews
from common.encoders.text.sentence import SentenceEncoder
from common.families.sentences.data import text_rows


def train_set(cfg: Config, encoder: SentenceEncoder) -> TextViews:
    """Every sentence twice; rows of two columns are pairs already."""
    rows = text_rows(cfg.data, cfg.seed)
    return TextViews(
        rows, encoder.tokenizer, max_length=cfg.data.max_length, seed=cfg.seed, views=2
    )
