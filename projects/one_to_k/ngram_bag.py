"""A text tower without attention: the mean of hashed n-gram vectors through an MLP."""

import torch
from torch import Tensor, nn


class NgramBag(nn.Module):
    """Mean of the embeddings of n-gram ids, then one hidden layer.

    Source: Joulin et al. 2017, "Bag of Tricks for Efficient Text Classification", section 2
    (hashed n-grams), arXiv 1607.01759.

    Attributes:
        width: W, dimension of the states.
        pad_id: 0.

    Args:
        num_buckets: ids are in [0, num_buckets]; 0 is padding.
        embedding_dim: of an n-gram.
        width: W.
    """

    def __init__(self, num_buckets: int, embedding_dim: int, width: int) -> None:
        super().__init__()
        self.width, self.pad_id = width, 0
        self.embedding = nn.EmbeddingBag(num_buckets + 1, embedding_dim, mode="mean", padding_idx=0)
        nn.init.normal_(self.embedding.weight, std=embedding_dim**-0.5)
        with torch.no_grad():
            self.embedding.weight[0] = 0
        self.layers = nn.Sequential(
            nn.LayerNorm(embedding_dim),
            nn.Linear(embedding_dim, width),
            nn.GELU(),
            nn.Linear(width, width),
        )

    def text(self, ids: Tensor) -> tuple[Tensor, Tensor]:
        """Ids (N, L) -> states (N, 1, W), one for the whole text, and their mask (N, 1)."""
        states = self.layers(self.embedding(ids))[:, None]
        return states, torch.ones_like(ids[:, :1], dtype=torch.bool)
