"""Files and weights that a config names: where they lie, and what is missing."""

from dataclasses import replace
from pathlib import Path

from common.config import UserError
from common.data.lookup import data_root
from common.encoders.pretrained import resolve_pretrained
from common.engine.experiment import Requirement, bundled_requirement, weights_requirement
from projects.vacancysbert.config import Config, VacancyData

WORD_VECTORS = ".vec"


def file_path(data: VacancyData, name: str) -> Path:
    """A file of the config: as named, or below the data root."""
    path = Path(name).expanduser()
    return path if path.is_file() else data_root(data.root) / path


def requirements(cfg: Config) -> list[Requirement]:
    """Weights and data that the config needs, those of ``eval.references`` included."""
    needs = list(weights_requirement(cfg.model.pretrained))
    if cfg.data.source == "esco":
        needs.append(bundled_requirement("esco-occupations"))
    for what in ("train", "test", "dev", "candidates"):
        name = getattr(cfg.data, what)
        if name is not None:
            path = file_path(cfg.data, name)
            needs.append(
                Requirement(f"data: {what}", str(path), path.is_file(), "see the card, Data")
            )
    for name, place in cfg.eval.references.items():
        title = f"eval.references.{name}"
        if place.endswith(WORD_VECTORS):
            path = file_path(cfg.data, place)
            needs.append(Requirement(title, str(path), path.is_file(), "see the card, Data"))
        else:
            needs += [replace(need, name=title) for need in weights_requirement(place)]
    return needs


def check_references(cfg: Config) -> None:
    """Refuse a reference that the evaluation could not open, before anything is trained.

    Raises:
        UserError: word vectors that are missing, or weights that are not here and cannot be had.
    """
    for name, place in cfg.eval.references.items():
        if not place.endswith(WORD_VECTORS):
            resolve_pretrained(place)
        elif not (path := file_path(cfg.data, place)).is_file():
            raise UserError(
                f"eval.references.{name}: {path} does not exist; put the word vectors there, or"
                f" name another file or pretrained model in eval.references.{name}"
            )
