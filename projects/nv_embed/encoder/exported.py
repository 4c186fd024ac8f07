"""An instructed encoder as a folder, which transformers and sentence-transformers read too.

| file | content |
|---|---|
| model files and tokenizer | the language model with merged adapters; ``is_causal`` in its config |
| ``pooler/model.safetensors`` | the pooling layer, if it has weights |
| ``instructed_encoder.json`` | how texts become embeddings |
| ``modules.json`` | the folder as one module of sentence-transformers, and normalisation |

The module of sentence-transformers is a class of this repository, not code in the folder. That
library imports classes of other packages only with ``trust_remote_code=True``; without it,
`open_in_sentence_transformers` builds the model from the same folder.
"""

import copy
import json
from pathlib import Path
from typing import Any

from common.config import UserError
from common.encoders.state_dict import load_state_dict_file
from common.encoders.text.template import general_tokenizer
from common.encoders.text.tower import load_tokenizer, load_transformer, quiet
from common.export.files import write_files, write_json, write_tensors
from common.export.sentence_transformers import write_modules
from projects.nv_embed.encoder.causal import append_eos, set_causal
from projects.nv_embed.encoder.instructed import InstructedEncoder, instruction_prefix
from projects.nv_embed.encoder.latent_attention import LatentAttention, SelfAttention, TokenPooler

SETTINGS = "instructed_encoder.json"
MODULE = "projects.nv_embed.encoder.sentence_modules.InstructedModule"
_POOLER = Path("pooler") / "model.safetensors"


def save_instructed(
    encoder: InstructedEncoder, folder: str | Path, prompts: dict[str, str] | None = None
) -> Path:
    """Write the encoder with its adapters merged; the encoder itself does not change.

    Args:
        encoder: its weights are written in their dtype.
        folder: created if needed; other files in it stay.
        prompts: name -> instruction, for ``encode(texts, prompt_name=...)`` of
            sentence-transformers.

    Returns:
        The folder.
    """
    folder, merged = Path(folder), copy.deepcopy(encoder).merge()

    def write(new: Path) -> None:
        with quiet():
            merged.model.save_pretrained(new)
        merged.tokenizer.save_pretrained(new)
        # the classes of some models (GPT-NeoX) restore their own template when they are read, so
        # that other readers would lose the end of the texts
        if load_tokenizer(str(new))("a")["input_ids"] != merged.tokenizer("a")["input_ids"]:
            general_tokenizer(merged.tokenizer).save_pretrained(new)

    write_files(folder, write)
    if weights := merged.pooler.state_dict():
        write_tensors(folder / _POOLER, weights)
    write_json(folder / SETTINGS, _settings(merged))
    prefixes = {name: instruction_prefix(text) for name, text in (prompts or {}).items()}
    write_modules(folder, [(MODULE, ""), ("Normalize", "1_Normalize")], prompts=prefixes)
    return folder


def load_instructed(folder: str | Path) -> InstructedEncoder:
    """Build the encoder that `save_instructed` wrote, in eval mode and float32.

    Raises:
        UserError: not such a folder, or weights that do not fill the model.
    """
    folder = Path(folder)
    try:
        settings: dict[str, Any] = json.loads((folder / SETTINGS).read_text("utf-8"))
        pooling, causal = settings.pop("pooling"), bool(settings.pop("causal"))
        max_length, span = int(settings.pop("max_length")), settings.pop("span")
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(f"{folder} is not an exported instructed encoder: {error!r}") from error
    model = load_transformer(str(folder))
    set_causal(model, causal)
    try:
        pooler = TokenPooler(pooling, int(model.config.hidden_size), **settings)
    except (ValueError, TypeError) as error:
        raise UserError(f"{folder / SETTINGS}: {error}") from error
    if pooler.state_dict():
        load_state_dict_file(folder / _POOLER, pooler)
    tokenizer = load_tokenizer(str(folder))
    append_eos(tokenizer)  # folders of earlier versions may have lost it
    return InstructedEncoder(model, pooler, tokenizer, max_length=max_length, span=span).eval()


def _settings(encoder: InstructedEncoder) -> dict[str, Any]:
    settings: dict[str, Any] = {
        "pooling": encoder.pooler.pooling,
        "causal": encoder.causal,
        "max_length": encoder.max_length,
        "span": encoder.span,
    }
    layer = encoder.pooler.layer
    if isinstance(layer, LatentAttention):
        attention: Any = layer.cross_attend_blocks[0].fn
        settings["num_latents"] = layer.latents.shape[0]
    elif isinstance(layer, SelfAttention):
        attention = layer.attend.fn
    else:
        return settings
    dim_head = attention.to_q.out_features // attention.heads
    return settings | {"heads": attention.heads, "dim_head": dim_head}
