"""An encoder of dialogues: tokens with positions, roles and turns, and a vector in front of them.

# B dialogues, L tokens, D hidden size, V vocabulary
"""

from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.activations import ACT2FN

from common.config import UserError
from common.encoders.text.mlm_head import word_prediction

NUM_ROLES = 2
MAX_TURNS = 17  # turn ids 0 ... 16


def table(weight: Tensor) -> nn.Embedding:
    """A trainable table with these rows."""
    embedding: nn.Embedding = nn.Embedding.from_pretrained(weight, freeze=False)  # type: ignore[no-untyped-call]
    return embedding


class DialogEmbeddings(nn.Module):
    """Sum of token, position, role and turn with dropout, then LayerNorm (BERT: reversed).

    Source: He et al. 2022, released `embedder`, arXiv 2209.06638.

    Args:
        word: (V, D) table.
        position: (P, D) table.
        role: (2, D) table.
        turn: (T, D) table.
        norm: of D features.
        dropout: probability.
    """

    def __init__(
        self,
        word: nn.Embedding,
        position: nn.Embedding,
        role: nn.Embedding,
        turn: nn.Embedding,
        norm: nn.LayerNorm,
        dropout: float,
    ) -> None:
        super().__init__()
        self.word_embeddings = word  # the name by which transformers finds the table
        self.position_embeddings, self.role_embeddings, self.turn_embeddings = position, role, turn
        self.LayerNorm, self.dropout = norm, nn.Dropout(dropout)

    def summed(self, ids: Tensor, positions: Tensor, roles: Tensor, turns: Tensor) -> Tensor:
        """(B, L, D) of (B, L) ids, after dropout."""
        total: Tensor = self.word_embeddings(ids) + self.position_embeddings(positions)
        total = total + self.role_embeddings(roles) + self.turn_embeddings(turns)
        dropped: Tensor = self.dropout(total)
        return dropped

    def forward(self, inputs_embeds: Tensor | None = None, **_: Any) -> Tensor:
        """What enters the first layer, of the sum and the slot in front; called by the backbone."""
        assert inputs_embeds is not None
        normalised: Tensor = self.LayerNorm(inputs_embeds)
        return normalised


class DialogEncoder(nn.Module):
    """A BERT whose input embeddings know who speaks and how long ago.

    A slot in front of the tokens holds the token embedding of [CLS] and nothing else; what comes
    out of it is the sentence vector.

    Source: He et al. 2022, section 3.3 and released `UnifiedTransformer`, arXiv 2209.06638.

    Args:
        backbone: BERT of transformers, without pooler; its weights are taken over, its token types
            as roles. Turns, and rows of tokens beyond its vocabulary, begin at N(0,
            initializer_range).
        vocab_size: of the tokenizer, at least that of the backbone.
        cls_id: id of [CLS].
        num_turns: turn ids; 0 is padding.

    Raises:
        UserError: another architecture than BERT.
    """

    def __init__(
        self, backbone: PreTrainedModel, vocab_size: int, cls_id: int, num_turns: int = MAX_TURNS
    ) -> None:
        super().__init__()
        config: Any = backbone.config
        if config.model_type != "bert":
            raise UserError(
                f"a dialogue encoder starts from BERT's architecture, not from {config.model_type}"
            )
        old: Any = backbone.embeddings
        std = config.initializer_range
        size = config.hidden_size
        new_rows = max(0, vocab_size - len(old.word_embeddings.weight))
        word = torch.cat([old.word_embeddings.weight.detach(), torch.randn(new_rows, size) * std])
        types = old.token_type_embeddings.weight.detach()[:NUM_ROLES]
        role = torch.cat([types, torch.randn(NUM_ROLES - len(types), size) * std])
        config.vocab_size = len(word)
        backbone.embeddings = DialogEmbeddings(
            table(word),
            old.position_embeddings,
            table(role),
            table(torch.randn(num_turns, size) * std),
            old.LayerNorm,
            config.hidden_dropout_prob,
        )
        if getattr(backbone, "pooler", None) is not None:
            backbone.pooler = None
        self.backbone, self.cls_id, self.num_features = backbone, cls_id, int(size)

    @property
    def embeddings(self) -> DialogEmbeddings:
        """The input embeddings."""
        embeddings: DialogEmbeddings = self.backbone.embeddings
        return embeddings

    def set_dropout(self, probability: float) -> None:
        """One probability for embeddings, attention, feed-forward and residual parts."""
        for part in self.modules():
            if isinstance(part, nn.Dropout):
                part.p = probability
            elif hasattr(part, "attention_dropout") and isinstance(part.attention_dropout, float):
                setattr(part, "attention_dropout", probability)  # noqa: B010, a plain number
        config: Any = self.backbone.config
        config.hidden_dropout_prob = config.attention_probs_dropout_prob = probability

    def forward(
        self,
        input_ids: Tensor,
        position_ids: Tensor,
        role_ids: Tensor,
        turn_ids: Tensor,
        attention_mask: Tensor,
        sentence: bool = True,
    ) -> Tensor:
        """States of the last layer.

        Args:
            input_ids: (B, L) int64.
            position_ids: (B, L), begin at 0 in every utterance.
            role_ids: (B, L) in {0, 1}.
            turn_ids: (B, L), 1 is the current utterance.
            attention_mask: (B, L), 0 at padding.
            sentence: put the slot of the sentence vector in front.

        Returns:
            (B, 1 + L, D), the sentence vector at place 0; without `sentence` (B, L, D).
        """
        total = self.embeddings.summed(input_ids, position_ids, role_ids, turn_ids)
        if sentence:
            # the token embedding alone: no position, no role, no turn, and no dropout
            slot = self.embeddings.word_embeddings.weight[self.cls_id].expand(len(total), 1, -1)
            total = torch.cat([slot, total], 1)
            attention_mask = torch.cat([attention_mask.new_ones(len(total), 1), attention_mask], 1)
        states: Tensor = self.backbone(
            inputs_embeds=total, attention_mask=attention_mask
        ).last_hidden_state
        return states


class DialogWordHead(nn.Module):
    """Masked prediction: dense, GELU, LayerNorm, the encoder's own token embeddings, a bias.

    Args:
        encoder: whose table is read; it is not a parameter of this module.
        pretrained: checkpoint whose head is taken over; None: a random one.
    """

    def __init__(self, encoder: DialogEncoder, pretrained: str | None = None) -> None:
        super().__init__()
        config: Any = encoder.backbone.config
        size = encoder.num_features
        self.dense, self.norm = nn.Linear(size, size), nn.LayerNorm(size, eps=config.layer_norm_eps)
        nn.init.normal_(self.dense.weight, std=config.initializer_range)
        nn.init.zeros_(self.dense.bias)
        self.bias = nn.Parameter(torch.zeros(config.vocab_size))
        self.act = ACT2FN[config.hidden_act]
        self._table = [encoder.embeddings.word_embeddings]  # a list: not registered a second time
        if pretrained is not None:
            stored = word_prediction(pretrained)
            self.dense.load_state_dict(stored.dense.state_dict())
            self.norm.load_state_dict(stored.norm.state_dict())
            with torch.no_grad():
                self.bias[: len(stored.bias)] = stored.bias

    def forward(self, states: Tensor) -> Tensor:
        """Logits (..., V) of states (..., D)."""
        hidden = self.norm(self.act(self.dense(states)))
        logits: Tensor = nn.functional.linear(hidden, self._table[0].weight, self.bias)
        return logits
