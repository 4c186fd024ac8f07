"""Exported folders: an encoder for titles and skills, or a linear map for each side."""

from pathlib import Path

from common import config
from common.config import UserError
from common.encoders.text.sentence import SentenceEncoder
from common.export.projected import load_projected
from common.export.sentence_transformers import load_sentence_transformers
from common.models import about
from projects.vacancysbert.config import Config
from projects.vacancysbert.encoder import SIDES, TitleSkillEncoder

MODULES, MAP = "modules.json", "2_Dense"  # of sentence-transformers


def load_exported(folder: str | Path) -> SentenceEncoder | TitleSkillEncoder:
    """What the folder holds, in evaluation mode.

    Raises:
        UserError: neither of both, one side alone, or a folder that is damaged.
    """
    place = Path(folder)
    if (place / MODULES).is_file() and not (place / MAP).is_dir():
        return load_sentence_transformers(place)
    if not all((place / side / MODULES).is_file() for side in SIDES):
        raise UserError(
            f"{place} is neither an exported encoder ({MODULES}, without {MAP}/) nor the folder of "
            f"both sides of one with linear maps ({SIDES[0]}/ and {SIDES[1]}/)"
        )
    return load_sides(place)


def load_sides(folder: Path) -> TitleSkillEncoder:
    """The encoder of ``model.asymmetric_head``; titles are cleaned as its run's settings say.

    Raises:
        UserError: a folder that `common.engine.trained.export` did not write, or one that is damaged.
    """
    settings = about(folder)
    data = config.load(Config, "vacancysbert", settings.config, settings.overrides).data
    sides = {side: load_projected(folder / side, head=True) for side in SIDES}
    encoder, head = sides[SIDES[0]]  # the encoder is the same in both
    assert head is not None
    loaded = TitleSkillEncoder(
        encoder, head.out_features, clean=data.clean_titles, max_skills=data.max_skills
    )
    for side, (_, side_head) in sides.items():
        assert side_head is not None
        loaded.heads[side] = side_head
    return loaded.eval()
