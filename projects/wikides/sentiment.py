"""Polarity of texts by a local classifier, and how well descriptions keep it."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForSequenceClassification

from common.config import UserError
from common.data.tables import read_jsonl
from common.encoders.modes import evaluation_mode
from common.encoders.text.tower import load_tokenizer, load_transformer
from projects.wikides.config import SentimentConfig

Classify = Callable[[Sequence[str]], list[str]]


def classifier(options: SentimentConfig) -> Classify:
    """Texts -> names of their polarity.

    Raises:
        UserError: neither a model nor labelled texts, or both; absent weights; one label only.
    """
    if (options.model is None) == (options.labelled is None):
        raise UserError(
            "set either sentiment.model (folder or hub id of a sequence classifier) or "
            "sentiment.labelled (JSON lines of text and label to train a bag of words on)"
        )
    if options.model is not None:
        return _transformer(options.model, options.batch_size)
    return _bag_of_words(Path(str(options.labelled)).expanduser())


def polarity_table(polarities: Mapping[str, Sequence[str]]) -> dict[str, float]:
    """Shares of each polarity by kind of text, and how often two kinds agree.

    Args:
        polarities: kind (source, gold, phase1, ...) -> polarity of N texts.

    Returns:
        ``<kind>_<polarity>`` and ``<kind>_agrees_<kind>``, in [0, 1].

    >>> polarity_table({"source": ["+", "-"], "gold": ["+", "+"]})["source_agrees_gold"]
    0.5
    """
    kinds = list(polarities)
    names = sorted({name for labels in polarities.values() for name in labels})
    table = {
        f"{kind}_{name}": sum(p == name for p in polarities[kind]) / max(1, len(polarities[kind]))
        for kind in kinds
        for name in names
    }
    for i, kind in enumerate(kinds):
        for other in kinds[i + 1 :]:
            pairs = list(zip(polarities[kind], polarities[other], strict=True))
            table[f"{kind}_agrees_{other}"] = sum(a == b for a, b in pairs) / max(1, len(pairs))
    return table


def _transformer(pretrained: str, batch_size: int) -> Classify:
    model: Any = load_transformer(pretrained, auto_class=AutoModelForSequenceClassification)
    tokenizer = load_tokenizer(pretrained)
    limit = min(int(tokenizer.model_max_length), 512)

    def classify(texts: Sequence[str]) -> list[str]:
        labels: list[str] = []
        with evaluation_mode(model):
            for start in range(0, len(texts), batch_size):
                inputs = tokenizer(
                    list(texts[start : start + batch_size]),
                    padding=True,
                    truncation=True,
                    max_length=limit,
                    return_tensors="pt",
                    return_token_type_ids=False,
                )
                best = torch.argmax(model(**inputs).logits, dim=1).tolist()
                labels += [str(model.config.id2label[i]).lower() for i in best]
        return labels

    return classify


def _bag_of_words(path: Path) -> Classify:
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline

    rows = read_jsonl(path, ("text", "label"))
    if not all(isinstance(row["text"], str) for row in rows):
        raise UserError(f"{path}: every text is a text, in quotes")
    labels = [str(row["label"]) for row in rows]
    if len(set(labels)) < 2:
        raise UserError(f"{path} needs texts of at least two labels")
    words = TfidfVectorizer(ngram_range=(1, 2), sublinear_tf=True)
    model: Any = make_pipeline(words, LogisticRegression(max_iter=1000))
    model.fit([row["text"] for row in rows], labels)
    return lambda texts: [str(label) for label in model.predict(list(texts))]
