"""An exported folder in sentence-transformers."""

import json
from pathlib import Path
from typing import Any

from common.config import UserError


def open_in_sentence_transformers(folder: str | Path) -> Any:
    """The folder as a ``SentenceTransformer``, without ``trust_remote_code``.

    Raises:
        UserError: sentence-transformers is not installed, or not such a folder.
    """
    try:
        from sentence_transformers import SentenceTransformer
        from sentence_transformers.models import Normalize

        from projects.nv_embed.encoder.sentence_modules import InstructedModule
    except ImportError as error:
        raise UserError("install sentence-transformers, or the 'eval' group") from error
    about = Path(folder) / "config_sentence_transformers.json"
    try:
        prompts = json.loads(about.read_text("utf-8"))["prompts"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(f"{folder} is not an exported instructed encoder: {error!r}") from error
    modules = [InstructedModule.load(str(folder)), Normalize()]
    return SentenceTransformer(modules=modules, prompts=prompts, device="cpu")
