"""Spans of a text that a token-classification model marks, such as names or skills."""

from collections.abc import Callable, Sequence
from typing import Any

from common.config import UserError

SpanTagger = Callable[[Sequence[str]], list[list[str]]]


def span_tagger(model: str, batch_size: int, device: str = "auto") -> SpanTagger:
    """Texts -> the marked spans of each, as the text writes them, in their order.

    Pieces of equal labels that follow one another are one span (transformers' "simple"
    aggregation). A text longer than the model reads is read in windows, each of which repeats a
    quarter of the last.

    Args:
        model: folder or hub id of a token-classification model of transformers.
        batch_size: texts of a forward pass.
        device: "auto" or a device of torch.

    Raises:
        UserError: absent weights, or a model without a tokenizer that knows character offsets.
    """
    from transformers import AutoModelForTokenClassification, pipeline

    from common.encoders.text.tower import length_limit, load_tokenizer, load_transformer

    network: Any = load_transformer(model, auto_class=AutoModelForTokenClassification)
    tokenizer = load_tokenizer(model)
    if not tokenizer.is_fast:
        raise UserError(f"{model} has no fast tokenizer, which spans of characters need")
    windows: dict[str, Any] = {}
    limit = length_limit(network, tokenizer)
    if limit is not None:
        tokenizer.model_max_length = limit  # the pipeline's window
        windows = {"stride": limit // 4}
    tagger: Any = pipeline(
        "token-classification",
        model=network.eval(),
        tokenizer=tokenizer,
        device=None if device == "auto" else device,
        aggregation_strategy="simple",
        **windows,
    )

    def spans(texts: Sequence[str]) -> list[list[str]]:
        tagged = tagger(list(texts), batch_size=batch_size)
        pairs = zip(texts, tagged, strict=True)
        return [[text[s["start"] : s["end"]] for s in row] for text, row in pairs]

    return spans
