"""What VacancySBERT has to beat: words, character n-grams, and its encoder without the training."""

from dataclasses import replace

from torch import Tensor

from common.encoders.modes import evaluated
from common.encoders.modes import untrained as as_training_begins
from common.encoders.text.sentence import SentenceEncoder
from common.encoders.text.tower import load_config
from common.engine.workspace import Workspace
from common.evaluation.features.postprocessing import fit_whitening
from common.families.retrieval.baselines import RIDGE
from common.families.retrieval.config import DenseModel
from common.families.retrieval.dense import build_dense
from projects.vacancysbert.config import Config
from projects.vacancysbert.data import load_data
from projects.vacancysbert.evaluate import lexical_compare, score_row, text_compare


def tfidf(cfg: Config, workspace: Workspace) -> dict[str, float]:
    """Cosine of TF-IDF vectors of words."""
    return score_row(cfg, lexical_compare("tfidf"), workspace)


def char_ngrams(cfg: Config, workspace: Workspace) -> dict[str, float]:
    """Cosine of TF-IDF vectors of three to five characters within words."""
    return score_row(cfg, lexical_compare("char_ngrams"), workspace)


def raw(cfg: Config, workspace: Workspace) -> dict[str, float]:
    """The pretrained encoder of the config, mean pooling, see `_pretrained`."""
    return _encoder(cfg, workspace, _pretrained(cfg.model))


def whitened(cfg: Config, workspace: Workspace) -> dict[str, float]:
    """The same, whitened on the candidates.

    Source: Su et al. 2021, "Whitening Sentence Representations", arXiv 2103.15316.
    """
    return _encoder(cfg, workspace, _pretrained(cfg.model), whiten=True)


def untrained(cfg: Config, workspace: Workspace) -> dict[str, float]:
    """The encoder's architecture and tokenizer with random weights."""
    model: DenseModel = cfg.model
    if model.pretrained != "random":
        shape = load_config(model.pretrained).to_dict()
        model = replace(model, pretrained="random", config=shape, tokenizer=model.pretrained)
    return _encoder(cfg, workspace, model)


def _pretrained(model: DenseModel) -> DenseModel:
    """Where training starts from random weights, the weights that its tokenizer belongs to."""
    if model.pretrained != "random" or model.tokenizer is None:
        return model
    return replace(model, pretrained=model.tokenizer, config=None, tokenizer=None)


def _encoder(
    cfg: Config, workspace: Workspace, model: DenseModel, *, whiten: bool = False
) -> dict[str, float]:
    encoder: SentenceEncoder = as_training_begins(lambda: build_dense(model), cfg.seed)
    with evaluated(encoder, cfg.trainer.accelerator):

        def encode(texts: list[str]) -> Tensor:
            return encoder.encode(texts, cfg.eval.batch_size)

        if not whiten:
            return score_row(cfg, text_compare(encode), workspace)
        candidates = load_data(cfg).benchmark(cfg.eval.part).candidates
        transform = fit_whitening(encode(candidates), ridge=RIDGE)
        return score_row(cfg, text_compare(lambda texts: transform(encode(texts))), workspace)
