"""Options of item sequences in a config."""

from dataclasses import dataclass
from typing import Annotated, Literal

from common.config import DataConfig
from common.ranges import Count, Inner, Share, Whole, at_least


@dataclass
class SequenceData(DataConfig):
    """Item sequences, split by leave-one-out."""

    source: Literal["synthetic", "bundled", "file"] = "bundled"  # bundled: Amazon Beauty, a subset
    file: str | None = None  # of source=file, below data.root: .inter, .txt, .jsonl or .csv
    num_actions: Whole = 0  # that the file must hold after the filters; 0: any number
    min_user: Count = 5  # k-core: users and items with fewer interactions are dropped, repeatedly
    min_item: Count = 5
    num_users: Count = 200  # synthetic
    num_items: Annotated[int, at_least(20)] = 50  # synthetic: ten rings of two or more
    max_length: Count = 50  # last items of a history
    # each: every prefix is a row; one_pass: a row is a user, its prefixes are predicted together
    prefixes: Literal["each", "one_pass"] = "each"
    train_share: Share = 1.0  # of the users whose training parts are used, drawn by the seed
    crop_ratio: Inner = 0.5  # of a sequence that is cut off
    mask_ratio: Inner = 0.5
    reorder_ratio: Share = 0.8

    def __post_init__(self) -> None:
        if (self.source == "file") != (self.file is not None):
            raise ValueError("data.source=file and data.file need each other")
