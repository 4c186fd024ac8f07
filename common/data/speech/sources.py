"""The spoken sets that a config can name: their parts, sizes and places."""

from functools import lru_cache

from common.data.lookup import data_root
from common.data.speech.options import SpokenData
from common.data.speech.spoken import (
    SpokenPart,
    SpokenSet,
    join_commands,
    load_fluent_commands,
    load_slurp,
    load_spoken_digits,
    synthetic_commands,
)

FOLDERS = {"fsc": "fluent_speech_commands_dataset", "slurp": "slurp"}
NUM_CLASSES = {"synthetic": 12, "digits": 10, "fsc": 31, "slurp": 18}
NUM_TRAIN = {"digits": 600, "fsc": 23132, "slurp": 119880}  # SLURP with synthetic recordings
NUM_TRAIN_REAL = 50628  # SLURP without these
SAMPLE_RATES = {"synthetic": 8000, "digits": 8000, "fsc": 16000, "slurp": 16000}
SYNTHETIC_TEST = 4  # utterances of each class


def spoken_part(data: SpokenData, part: SpokenPart, seed: int) -> SpokenSet:
    """Utterances of a part; read once per process.

    Args:
        data: which set, and what is dropped.
        part: train, dev, test, or the unseen speaker of the sets that have one.
        seed: draws synthetic utterances, nothing else.

    Raises:
        UserError: files are missing; the message names layout and source.
    """
    return _read(
        data.source,
        data.root,
        part,
        data.synthetic_recordings,
        data.max_samples,
        data.max_characters,
        data.train_per_class,
        data.command_words,
        seed if data.source == "synthetic" else 0,
    )


@lru_cache(maxsize=8)
def _read(
    source: str,
    root: str | None,
    part: SpokenPart,
    synthetic: bool,
    max_samples: int | None,
    max_characters: int | None,
    per_class: int,
    words: int,
    seed: int,
) -> SpokenSet:
    if source == "digits":
        return join_commands(load_spoken_digits(part, root), words)
    if source == "fsc":
        return load_fluent_commands(
            data_root(root) / FOLDERS["fsc"],
            part,
            max_samples=max_samples,
            max_characters=max_characters,
        )
    if source == "slurp":
        return load_slurp(
            data_root(root) / FOLDERS["slurp"],
            part,
            synthetic=synthetic,
            max_samples=max_samples,
            max_characters=max_characters,
        )
    number = ("train", "dev", "test", "unseen").index(part)
    size = per_class if part == "train" else SYNTHETIC_TEST
    return synthetic_commands(size, seed=seed, part=number)


def num_train(data: SpokenData) -> int:
    """Training utterances, also of a set that is not on disk."""
    if data.source == "synthetic":
        return NUM_CLASSES["synthetic"] * data.train_per_class
    if data.source == "slurp" and not data.synthetic_recordings:
        return NUM_TRAIN_REAL
    return NUM_TRAIN[data.source]
