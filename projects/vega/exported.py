"""Exported folders: a transformers classifier, an encoder with a head, a sentence encoder."""

import json
from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig, AutoModelForSequenceClassification
from transformers.models.deberta_v2.modeling_deberta_v2 import ContextPooler

from common.config import UserError
from common.encoders.text.sentence import SentenceEncoder
from common.encoders.text.tower import load_tokenizer, load_transformer, quiet
from common.encoders.text.tuned.classifier import TextClassifier
from common.export.files import write_files, write_json
from common.export.sentence_encoders import load_sentence_encoder
from common.export.tuned_classifier import SETTINGS as HEAD_SETTINGS
from common.export.tuned_classifier import load_classifier, save_classifier

SETTINGS = "sequence_classifier.json"


def save_finetuned(classifier: TextClassifier, folder: Path) -> Path:
    """Write a folder for ``AutoModelForSequenceClassification``, or an encoder with a head.

    The first for disentangled encoders with their dense layer, the second (see `save_classifier`)
    for bare vectors.
    """
    if not isinstance(getattr(classifier.backbone, "pooler", None), ContextPooler):
        return save_classifier(classifier, folder)
    model = _sequence_classifier(classifier)

    def write(new: Path) -> None:
        with quiet():
            model.save_pretrained(new)
        classifier.tokenizer.save_pretrained(new)

    folder = write_files(folder, write)
    write_json(
        folder / SETTINGS,
        {"classes": list(classifier.classes), "max_length": classifier.max_length},
    )
    return folder


def load_finetuned(folder: Path) -> TextClassifier:
    """The classifier of a folder of `save_finetuned`, in evaluation mode.

    Raises:
        UserError: no such folder, or one that is damaged.
    """
    if not (folder / SETTINGS).is_file():
        return load_classifier(folder)
    try:
        stored = json.loads((folder / SETTINGS).read_text("utf-8"))
        classes, length = [str(x) for x in stored["classes"]], int(stored["max_length"])
    except (OSError, ValueError, KeyError) as error:
        raise UserError(f"{folder} is damaged, export the model again: {error}") from error
    model: Any = load_transformer(str(folder), auto_class=AutoModelForSequenceClassification)
    backbone = model.deberta
    backbone.pooler = model.pooler
    loaded = TextClassifier(
        backbone,
        load_tokenizer(str(folder)),
        classes,
        pooling="pooler",
        dropout=model.dropout.p,
        max_length=length,
    )
    loaded.head.load_state_dict(model.classifier.state_dict())
    return loaded.eval()


def load_exported(folder: Path) -> TextClassifier | SentenceEncoder:
    """What the folder holds: a classifier, or the encoder of pre-training."""
    place = Path(folder)
    if (place / SETTINGS).is_file() or (place / HEAD_SETTINGS).is_file():
        return load_finetuned(place)
    return load_sentence_encoder(place)


def _sequence_classifier(classifier: TextClassifier) -> Any:
    """The same network as transformers' own class, which has its parts under other names."""
    old: Any = classifier.backbone
    settings = AutoConfig.for_model(**{**old.config.to_dict(), "model_type": "deberta-v2"})
    settings.num_labels = len(classifier.classes)
    names = dict(enumerate(classifier.classes))
    settings.id2label, settings.label2id = names, {v: k for k, v in names.items()}
    settings.cls_dropout = classifier.dropout.p
    settings.problem_type = "regression" if len(names) == 1 else "single_label_classification"
    kind: Any = AutoModelForSequenceClassification
    with torch.random.fork_rng():
        model: Any = kind.from_config(settings)
    weights = {k: v for k, v in old.state_dict().items() if not k.startswith("pooler.")}
    model.deberta.load_state_dict(weights)
    model.pooler.load_state_dict(old.pooler.state_dict())
    model.classifier.load_state_dict(classifier.head.state_dict())
    return model.to(next(old.parameters()).dtype).eval()
