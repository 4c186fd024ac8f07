"""An encoder as a folder of sentence-transformers and in the layout of the released checkpoints."""

import json
from pathlib import Path

from common.config import UserError
from common.encoders.pretrained import resolve_pretrained
from common.encoders.state_dict import load_state_dict_file
from common.encoders.text.tower import TextTower, load_tokenizer, load_transformer, quiet
from common.export.files import write_files, write_json, write_tensors
from common.export.sentence_transformers import write_modules
from projects.rankgen.encoder import (
    MARKERS,
    POOLERS,
    RELEASED,
    PrefixSuffixEncoder,
    build_encoder,
    encoder_class,
    released_state,
    stored_config,
)

SETTINGS = "prefix_suffix_encoder.json"
_KINDS = (("Transformer", ""), ("Pooling", "1_Pooling"), ("Dense", "2_Dense"))
_FLAGS = ("max_tokens", "mean_sqrt_len_tokens", "weightedmean_tokens", "lasttoken")


def save_encoder(encoder: PrefixSuffixEncoder, folder: Path) -> None:
    """Write a folder that ``SentenceTransformer(folder)`` loads.

    There ``encode(texts, prompt_name="prefix")`` and ``"suffix"`` give our vectors, and
    ``similarity`` is the dot product. That library has one length for both sides, the prefix's, and
    keeps the end-of-text token of a text that it cuts: vectors of texts beyond our lengths differ.
    A T5 encoder is also written to ``released/``, in the layout of the released checkpoints.
    """
    write_files(folder, lambda new: _write_model(encoder, new))
    width = encoder.tower.num_features
    pooling = {f"pooling_mode_{flag}": False for flag in _FLAGS}
    first = encoder.tower.pooling == POOLERS["first"]
    pooling |= {"pooling_mode_cls_token": first, "pooling_mode_mean_tokens": not first}
    pooled = {"word_embedding_dimension": width, **pooling}
    write_json(folder / "1_Pooling" / "config.json", pooled | {"include_prompt": True})
    write_json(
        folder / "2_Dense" / "config.json",
        {
            "in_features": width,
            "out_features": width,
            "bias": False,
            "activation_function": "torch.nn.modules.linear.Identity",
        },
    )
    weight = {"linear.weight": encoder.projection.weight}
    write_tensors(folder / "2_Dense" / "model.safetensors", weight)
    reads = {"max_seq_length": encoder.lengths["prefix"], "do_lower_case": False}
    write_json(folder / "sentence_bert_config.json", reads)
    prompts = {str(kind): marker for kind, marker in MARKERS.items()}
    write_modules(folder, _KINDS, prompts=prompts, similarity="dot")
    sizes = {str(kind): n for kind, n in encoder.lengths.items()}
    write_json(folder / SETTINGS, {**sizes, "pooling": "first" if first else "mean"})
    if first and encoder.tower.model.config.model_type == "t5":
        save_released(encoder, folder / "released")


def save_released(encoder: PrefixSuffixEncoder, folder: Path) -> None:
    """Write ``config.json``, weights and tokenizer as the released checkpoints have them.

    Raises:
        UserError: the backbone is not a T5.
    """
    config = encoder.tower.model.config
    if config.model_type != "t5":
        raise UserError(f"the released layout is that of a T5 encoder, not {config.model_type}")
    write_tensors(folder / "model.safetensors", released_state(encoder))
    write_json(folder / "config.json", config.to_dict() | {"architectures": [RELEASED]})
    encoder.tokenizer.save_pretrained(folder)


def load_encoder(folder: Path) -> PrefixSuffixEncoder:
    """Build the encoder that `save_encoder` wrote, in eval mode and float32.

    A folder in the layout of the released checkpoints is read as well, with their lengths.

    Raises:
        UserError: not such a folder, or other weights.
    """
    if not (folder / SETTINGS).is_file() and (folder / "config.json").is_file():
        stored = stored_config(resolve_pretrained(str(folder)))
        if RELEASED in (stored.architectures or []):
            return build_encoder(str(folder)).eval()
    try:
        lengths = json.loads((folder / SETTINGS).read_text("utf-8"))
        sizes = int(lengths["prefix"]), int(lengths["suffix"])
        pooling = POOLERS[lengths["pooling"]]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(
            f"{folder} is not an exported prefix and suffix encoder: {error!r}"
        ) from error
    place = str(folder)
    stored = stored_config(resolve_pretrained(place))
    model = load_transformer(place, auto_class=encoder_class(stored.model_type))
    encoder = PrefixSuffixEncoder(TextTower(model, pooling), load_tokenizer(place), *sizes)
    path = folder / "2_Dense" / "model.safetensors"
    load_state_dict_file(path, encoder.projection, prefix="linear.")
    return encoder.eval()


def _write_model(encoder: PrefixSuffixEncoder, folder: Path) -> None:
    with quiet():
        encoder.tower.model.save_pretrained(folder)
    encoder.tokenizer.save_pretrained(folder)
