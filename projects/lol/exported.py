"""An exported folder as a decoder: settings of its run, on its original model."""

import json
from dataclasses import replace
from pathlib import Path

from common import config
from common.config import UserError
from common.damage import reading
from common.models import about
from projects.lol.config import Config
from projects.lol.decoder import Decoder
from projects.lol.stages import AMATEUR, ORIGINAL, build_decoder
from projects.lol.stages import load as load_module


def load_decoder(folder: str | Path) -> Decoder:
    """Original and amateur of a folder that `common.engine.trained.export` wrote.

    Raises:
        UserError: another kind of folder, or absent weights of an original that is not in it.
    """
    place = Path(folder)
    run = about(place)
    cfg = config.load(Config, "lol", run.config, run.overrides)
    cfg = replace(cfg, model=replace(cfg.model, pretrained=original_of(place, cfg)))
    return build_decoder(cfg, load_module(cfg, place), "lol")


def original_of(folder: Path, cfg: Config) -> str:
    """What an amateur that lies alone is put on.

    Adapters name the model that they were trained on. That is the `model.pretrained` of their run,
    which a folder of an older version, without the run's overrides, does not tell otherwise.

    Raises:
        UserError: adapters that do not say, or whose original was in this folder and is gone.
    """
    path = folder / AMATEUR / "adapter_config.json"
    if (folder / ORIGINAL).is_dir() or not path.is_file():
        return cfg.model.pretrained
    with reading(path, "description of adapters"):
        base = json.loads(path.read_text(encoding="utf-8"))["base_model_name_or_path"]
        if not isinstance(base, str):
            raise ValueError("it names no model that they belong to")
    if base == ORIGINAL:
        raise UserError(f"{folder} has lost {ORIGINAL}/, the model that its adapters belong to")
    return base
