"""The plain dense retriever: one transformer for both sides, pooled; built, stored and queried."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

from torch import Tensor

from common.data.text.normalize import text_preparation
from common.encoders.pretrained import ARCHITECTURES, stand_in
from common.encoders.text.sentence import SentenceEncoder, sentence_encoder
from common.export.sentence_transformers import (
    load_sentence_transformers,
    save_sentence_transformers,
)
from common.families.retrieval.config import DenseModel, RetrievalEval
from common.families.retrieval.encoder import EncoderRecipe


def build_dense(model: DenseModel) -> SentenceEncoder:
    """Encoder of the config, before training.

    Raises:
        UserError: see `sentence_encoder`.
    """
    return sentence_encoder(
        model.pretrained,
        model.pooling,
        config=model.config,
        tokenizer=model.tokenizer,
        dropout=model.dropout,
        attention=model.attention,
        max_length=model.max_length,
    )


def planned_dense(model: DenseModel) -> SentenceEncoder:
    """As `build_dense`, but random weights of the same shape where the weights are not here."""
    config = stand_in(model.pretrained, ARCHITECTURES)
    if config is None:
        return build_dense(model)
    return sentence_encoder("random", model.pooling, config=config)


def dense_recipe(
    model: DenseModel, options: RetrievalEval, *, norm_query: bool, norm_document: bool
) -> EncoderRecipe[SentenceEncoder]:
    """Recipe of an encoder whose scores are dot products.

    It is written as a folder of sentence-transformers, and read from one, or from a plain folder of
    transformers such as a released checkpoint, which takes the pooling of the config.

    Args:
        model: section of the config.
        options: section of the config: batch size and preparation of texts.
        norm_query: queries get unit length.
        norm_document: documents do; with both, scores are cosines, as the export records.
    """
    prepare = text_preparation(options.normalize_text, options.lower_case)

    def side(normalize: bool) -> Callable[[SentenceEncoder, Sequence[str]], Tensor]:
        return lambda encoder, texts: encoder.encode(
            [prepare(text) for text in texts], options.batch_size, normalize
        )

    def save(encoder: SentenceEncoder, folder: Path) -> None:
        before, encoder.normalize = encoder.normalize, norm_query and norm_document
        try:
            save_sentence_transformers(encoder, folder, "dot")
        finally:
            encoder.normalize = before

    def load(folder: Path) -> SentenceEncoder:
        if (folder / "modules.json").is_file():
            return load_sentence_transformers(folder)
        released = replace(model, pretrained=str(folder), config=None, tokenizer=None)
        return build_dense(released).eval()

    return EncoderRecipe(
        lambda: build_dense(model),
        lambda: planned_dense(model),
        save,
        load,
        side(norm_query),
        side(norm_document),
        "dot",
    )
