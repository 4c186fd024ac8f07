"""What `make run` does: captions rewritten by a language model."""

from common.engine.workspace import Workspace
from projects.laclip.config import Config
from projects.laclip.rewrite import rewrite_file


def rewrite(cfg: Config, workspace: Workspace) -> None:
    """``TASK=rewrite``: the captions of a CSV, one rewrite of each."""
    mapped = rewrite_file(cfg.rewrite, workspace, task=cfg.task, server=cfg.generator)
    workspace.say(f"{cfg.rewrite.output}: {mapped.summary}")
