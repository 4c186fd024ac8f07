"""The shared encoder: tokenizer with types and prefix, both sides of a search, folders on disk."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from torch import Tensor

from common.config import UserError
from common.encoders.pretrained import ARCHITECTURES
from common.encoders.text.sentence import SentenceEncoder
from common.encoders.text.template import TEXT, add_template, general_tokenizer
from common.export.sentence_transformers import (
    load_sentence_transformers,
    save_sentence_transformers,
)
from common.families.retrieval.dense import build_dense
from projects.cocosoda.code.lexer import INNER_BORDERS
from projects.cocosoda.code.types import TYPES, type_token
from projects.cocosoda.config import ModelConfig

_ROBERTA: dict[str, Any] = {
    "model_type": "roberta",
    "vocab_size": 50265,
    "pad_token_id": 1,
    "max_position_embeddings": 514,
}
_UNIXCODER = {**_ROBERTA, "vocab_size": 51416, "max_position_embeddings": 1026}
# what `make check` builds for weights that are not on this machine
BASES: dict[str, dict[str, Any]] = {
    **ARCHITECTURES,
    "microsoft/unixcoder-base": _UNIXCODER,
    "DeepSoftwareAnalytics/CoCoSoDa": _UNIXCODER,
    "microsoft/graphcodebert-base": _ROBERTA,
    "microsoft/codebert-base": _ROBERTA,
    "roberta-base": _ROBERTA,
}


def build_encoder(model: ModelConfig) -> SentenceEncoder:
    """Encoder of the config before training.

    Raises:
        UserError: see `sentence_encoder` and `prepare_encoder`.
    """
    return prepare_encoder(build_dense(model), model)


def prepare_encoder(encoder: SentenceEncoder, model: ModelConfig) -> SentenceEncoder:
    """Give an encoder what the config asks of its tokenizer, and embeddings of the new pieces.

    Pieces and prefix that a tokenizer has already are left as they are; embeddings of new ones
    start at random (N(0, initializer_range)), as in the released code.

    Args:
        encoder: changed in place.
        model: section of the config.

    Raises:
        UserError: a slow tokenizer, or a prefix that is not a piece of it.
    """
    from tokenizers import AddedToken, Regex, normalizers

    tokenizer = encoder.tokenizer
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None:
        raise UserError(
            f"{model.pretrained}: code needs a fast tokenizer, which tells where pieces stand"
        )
    if model.split_identifiers:
        split = normalizers.Replace(Regex(INNER_BORDERS), " ")
        existing = [] if backend.normalizer is None else [backend.normalizer]
        backend.normalizer = normalizers.Sequence([split, *existing])
    if model.prefix is not None:
        if model.prefix not in tokenizer.get_vocab():
            raise UserError(
                f"model.prefix={model.prefix} is not a piece of this tokenizer: set it to null for"
                " encoders other than UniXcoder"
            )
        tokenizer.add_special_tokens({"additional_special_tokens": [model.prefix]})
        add_template(tokenizer, f"{model.prefix}{tokenizer.sep_token}{TEXT}")
    if model.split_identifiers or model.prefix is not None:
        encoder.tokenizer = tokenizer = general_tokenizer(tokenizer)
    if model.type_tokens:
        tokenizer.add_tokens([AddedToken(type_token(name), normalized=False) for name in TYPES])
        transformer = encoder.tower.model
        embedding: Any = transformer.get_input_embeddings()
        if len(tokenizer) > embedding.num_embeddings:
            transformer.resize_token_embeddings(len(tokenizer), mean_resizing=False)
    return encoder


def encode_queries(
    encoder: SentenceEncoder, model: ModelConfig, texts: Sequence[str], batch_size: int = 64
) -> Tensor:
    """N queries -> (N, D) unit vectors on the CPU."""
    return _encode(encoder, texts, model.query_length, batch_size)


def encode_codes(
    encoder: SentenceEncoder, model: ModelConfig, texts: Sequence[str], batch_size: int = 64
) -> Tensor:
    """N functions, as `plain_code` writes them -> (N, D) unit vectors on the CPU."""
    return _encode(encoder, texts, model.code_length, batch_size)


def _encode(encoder: SentenceEncoder, texts: Sequence[str], length: int, batch_size: int) -> Tensor:
    before, encoder.max_length = encoder.max_length, length
    try:
        return encoder.encode(texts, batch_size, normalize=True)
    finally:
        encoder.max_length = before


def save_encoder(encoder: SentenceEncoder, folder: Path) -> None:
    """Write a folder of sentence-transformers that gives unit vectors."""
    before, encoder.normalize = encoder.normalize, True
    try:
        save_sentence_transformers(encoder, folder, "cosine")
    finally:
        encoder.normalize = before


def load_encoder(model: ModelConfig, folder: Path) -> SentenceEncoder:
    """The encoder of such a folder, or of a plain one of transformers such as the released weights.

    Raises:
        UserError: another kind of folder.
    """
    if (folder / "modules.json").is_file():
        return load_sentence_transformers(folder)
    plain = replace(model, pretrained=str(folder), config=None, tokenizer=None, type_tokens=False)
    return build_encoder(plain).eval()
