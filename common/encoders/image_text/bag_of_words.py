"""A text tower without order: the mean of word vectors."""

import torch
from torch import Tensor, nn


class BagOfWords(nn.Module):
    """Mean embedding of the tokens between start and end of text.

    Args:
        vocab_size: number of token ids; the end of text has the highest one in every row.
        width: feature dimension F.
        context_length: longest row; kept for the plan of memory, order plays no part.
    """

    def __init__(self, vocab_size: int = 49408, width: int = 64, context_length: int = 77) -> None:
        super().__init__()
        self.embedding = nn.Embedding(vocab_size, width)
        nn.init.normal_(self.embedding.weight, std=width**-0.5)
        self.num_features, self.context_length = width, context_length

    def forward(self, tokens: Tensor) -> Tensor:
        """Ids (B, L) int64, zero-padded -> features (B, F); a text without words gives zeros."""
        place = torch.arange(tokens.shape[1], device=tokens.device)
        inside = (place > 0) & (place < tokens.argmax(1, keepdim=True))
        weights = inside.to(self.embedding.weight.dtype).unsqueeze(-1)
        total = (self.embedding(tokens) * weights).sum(1)
        features: Tensor = total / weights.sum(1).clamp(min=1)
        return features
