"""BERTScore: greedy matching of the contextual states of two texts' tokens."""

from collections.abc import Sequence

from torch import Tensor
from torch.nn import functional as F
from transformers import GPT2Tokenizer, RobertaTokenizer

from common.encoders.modes import evaluation_mode
from common.encoders.text.tower import load_tokenizer, load_transformer


def greedy_match(
    text: Tensor, reference: Tensor, text_counts: Tensor, reference_counts: Tensor
) -> tuple[float, float, float]:
    """Precision, recall, F1: every counted token with its most similar one of the other text.

        P = 1/|x| sum_{x_i in x} max_j x_i . y_j,  R with the roles exchanged,  F = 2 P R / (P + R)

    All three are 0 where either side has no counted token, as in the authors' package.

    Source: Zhang et al. 2020, "BERTScore", section 3, arXiv 1904.09675.

    Args:
        text: (M, D) states of the text's tokens, special ones included.
        reference: (N, D) of the reference.
        text_counts: (M,) bool, tokens that the mean is taken over; all of them may be matched with.
        reference_counts: (N,) likewise.

    >>> import torch
    >>> a, yes = torch.eye(2), torch.ones(2, dtype=torch.bool)
    >>> greedy_match(a, a, yes, yes)
    (1.0, 1.0, 1.0)
    """
    if not (text_counts.any() and reference_counts.any()):
        return 0.0, 0.0, 0.0
    similar = F.normalize(text, dim=1) @ F.normalize(reference, dim=1).T
    precision = float(similar.amax(1)[text_counts].mean())
    recall = float(similar.amax(0)[reference_counts].mean())
    total = precision + recall
    return precision, recall, 2 * precision * recall / total if total else 0.0


class BertScore:
    """BERTScore by any encoder of transformers, without idf weights and without rescaling.

    The paper's English default is the 17th layer of ``roberta-large``; values of other encoders are
    not comparable with it. As in the authors' package, texts of RoBERTa and GPT-2 begin with a
    space: their pieces of a word differ with and without one before it.

    Args:
        pretrained: folder, hub id or ``bundled:<name>``.
        layer: hidden states that are compared; 0 is the embeddings, -1 the last layer.

    Raises:
        UserError: absent or unfitting weights.
    """

    def __init__(self, pretrained: str, layer: int = -1) -> None:
        self.model, self.layer = load_transformer(pretrained), layer
        self.tokenizer = load_tokenizer(pretrained)

    def __call__(
        self, texts: Sequence[str], references: Sequence[str]
    ) -> list[tuple[float, float, float]]:
        """Precision, recall and F1 of every text with its reference."""
        return [self._pair(a, b) for a, b in zip(texts, references, strict=True)]

    def _pair(self, text: str, reference: str) -> tuple[float, float, float]:
        states, counts = self._states(text)
        other, other_counts = self._states(reference)
        return greedy_match(states, other, counts, other_counts)

    def _states(self, text: str) -> tuple[Tensor, Tensor]:
        """States of a text's tokens (L, D), and which of them are no special tokens."""
        limit = min(int(self.tokenizer.model_max_length), 512)
        text = text.strip()
        if text and isinstance(self.tokenizer, GPT2Tokenizer | RobertaTokenizer):
            text = f" {text}"
        batch = self.tokenizer(
            text,
            truncation=True,
            max_length=limit,
            return_special_tokens_mask=True,
            return_tensors="pt",
        )
        with evaluation_mode(self.model):
            out = self.model(
                input_ids=batch["input_ids"],
                attention_mask=batch["attention_mask"],
                output_hidden_states=True,
            )
        return out.hidden_states[self.layer][0].float(), batch["special_tokens_mask"][0].eq(0)
