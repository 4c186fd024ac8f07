"""What `make run` does: captions translated into further languages."""

from common.engine.workspace import Workspace
from projects.one_to_k.config import Config
from projects.one_to_k.translate import translate_file


def translate(cfg: Config, workspace: Workspace) -> None:
    """``TASK=translate``: each line of a caption file, with more languages."""
    mapped = translate_file(cfg.translate, workspace, cfg.task)
    workspace.say(f"{cfg.translate.output}: {mapped.summary}")
