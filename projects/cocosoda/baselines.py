"""What CoCoSoDa has to beat: words, the encoder before training, raw vectors of a bundled model."""

from dataclasses import replace

from torch import Tensor
from torch.nn import functional as F

from common.encoders.modes import evaluated
from common.encoders.modes import untrained as as_training_begins
from common.encoders.pooling import mean_pool
from common.engine.workspace import Workspace
from projects.cocosoda.code.search_sets import CodeSearchSet
from projects.cocosoda.config import Config
from projects.cocosoda.data import evaluation_sets
from projects.cocosoda.encoder import build_encoder
from projects.cocosoda.evaluate import (
    cosines,
    encoded,
    geometry,
    lexical_compare,
    score_sets,
    whitened,
)


def tfidf(cfg: Config, workspace: Workspace) -> dict[str, float]:
    """Cosine of TF-IDF vectors of words and parts of identifiers."""
    return score_sets(cfg, lexical_compare("tfidf"), workspace)


def bm25(cfg: Config, workspace: Workspace) -> dict[str, float]:
    """BM25 of the same words."""
    return score_sets(cfg, lexical_compare("bm25"), workspace)


def untrained(cfg: Config, workspace: Workspace) -> dict[str, float]:
    """The encoder before training, with its geometry on the first set."""
    encoder = as_training_begins(lambda: build_encoder(cfg.model), cfg.seed)
    with evaluated(encoder, cfg.trainer.accelerator):
        vectors, data = encoded(cfg, encoder), evaluation_sets(cfg)
        metrics = geometry(vectors(data[0]), data[0], cfg.eval.sample)
        return score_sets(cfg, cosines(vectors), workspace, sets=data) | metrics


def word_embeddings(cfg: Config, workspace: Workspace) -> dict[str, float]:
    """Mean of the input embeddings of the tokenizer's model, whitened on the code.

    Source: Su et al. 2021, "Whitening Sentence Representations", arXiv 2103.15316.
    """
    model = cfg.model
    if model.pretrained == "random" and model.tokenizer is not None:
        model = replace(model, pretrained=model.tokenizer, config=None, tokenizer=None)
    encoder = as_training_begins(lambda: build_encoder(replace(model, type_tokens=False)), cfg.seed)
    table = encoder.tower.model.get_input_embeddings()

    def side(texts: list[str], length: int) -> Tensor:
        encoder.max_length = length
        inputs = encoder.tokenize(texts)
        return F.normalize(mean_pool(table(inputs["input_ids"]), inputs["attention_mask"]), dim=1)

    def vectors(data: CodeSearchSet) -> tuple[Tensor, Tensor]:
        return whitened(side(data.queries, model.query_length), side(data.codes, model.code_length))

    with evaluated(encoder, "cpu"):
        return score_sets(cfg, cosines(vectors), workspace)
