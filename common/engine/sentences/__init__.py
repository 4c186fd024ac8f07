"""What every sentence-embedding experiment shares: data, module, STS evaluation, export, search.

A project adds a loss: it subclasses `SentenceModule` and calls `sentence_experiment`.
"""

from common.engine.sentences.data import (
    StsPairs,
    sentence_data,
    sts_set,
    text_path,
    text_requirements,
    text_rows,
)
from common.engine.sentences.evaluation import (
    before_and_after,
    encoding,
    evaluate_sentences,
    sentence_geometry,
    untrained_encoder,
)
from common.engine.sentences.experiment import sentence_experiment, train_stage
from common.engine.sentences.module import SentenceModule, build_encoder, planned_encoder
from common.engine.sentences.protocol import SentenceExperimentConfig
from common.engine.sentences.search import search_texts

__all__ = [
    "SentenceExperimentConfig",
    "SentenceModule",
    "StsPairs",
    "before_and_after",
    "build_encoder",
    "encoding",
    "evaluate_sentences",
    "planned_encoder",
    "search_texts",
    "sentence_data",
    "sentence_experiment",
    "sentence_geometry",
    "sts_set",
    "text_path",
    "text_requirements",
    "text_rows",
    "train_stage",
    "untrained_encoder",
]
