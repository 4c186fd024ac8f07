"""Losses over tokens: masked language modelling, teacher forcing, contrast of token states.

# N or B texts, L tokens, D dim, V vocabulary
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ...distributed.differentiable import rank_mean_of_sums
from ..output import at_least_float32, full_precision

IGNORED = -100  # label of a position without a prediction, as in transformers


def masked_lm_loss(head: nn.Module, states: Tensor, labels: Tensor) -> Tensor:
    """Mean cross-entropy of a masked language model over the labelled positions of all ranks.

        L = -1/|M| sum_{i in M} log softmax(head(h_i))_{y_i}

    The head runs on the labelled positions only, a seventh of the tokens at BERT's rate. Ranks have
    different numbers of them, so a mean of the ranks' means would weight positions unequally.

    Source: Devlin et al. 2019, "BERT", section 3.1 (task 1), arXiv 1810.04805.

    Args:
        head: states (M, D) -> logits (M, V).
        states: (N, L, D) of the masked texts of this rank.
        labels: (N, L) int64, -100 for positions without a prediction.

    Returns:
        Scalar, in float32 at least: this rank's share, whose mean over ranks is the loss; 0 with a
        zero gradient if this rank has no label.

    Distributed: reduces statistics (the number of labelled positions).

    >>> states, labels = torch.zeros(1, 2, 3), torch.tensor([[-100, 1]])
    >>> head = nn.Linear(3, 4, bias=False)
    >>> f"{float(masked_lm_loss(head, states, labels).detach()):.4f}"  # log 4
    '1.3863'
    """
    chosen = labels != IGNORED
    logits: Tensor = head(states[chosen])
    total = F.cross_entropy(at_least_float32(logits), labels[chosen], reduction="sum")
    return rank_mean_of_sums(total, chosen.sum())


def labelled_token_loss(logits: Tensor, labels: Tensor) -> Tensor:
    """Mean cross-entropy of a language model over the labelled tokens of the whole batch.

    Labels mark the tokens to learn: all tokens of a text, or only those of an answer.

    Source: Ouyang et al. 2022, arXiv 2203.02155 (supervised fine-tuning); Radford et al. 2018.

    Args:
        logits: (B, L, V) of the token after each input.
        labels: (B, L) int64, that token, or -100 to ignore it.

    Returns:
        Scalar, in float32 at least; 0 with a zero gradient if nothing is labelled.

    Distributed: reduces statistics (the number of labelled tokens).

    >>> logits, labels = torch.zeros(1, 2, 4), torch.tensor([[-100, 3]])
    >>> f"{float(labelled_token_loss(logits, labels)):.4f}"  # log 4
    '1.3863'
    """
    chosen = labels != IGNORED
    wide = logits[chosen].to(torch.promote_types(logits.dtype, torch.float32))
    total = F.cross_entropy(wide, labels[chosen], reduction="sum")
    return rank_mean_of_sums(total, chosen.sum())


def token_sums(
    logits: Tensor,
    tokens: Tensor,
    *,
    pad_id: int,
    label_smoothing: float = 0.0,
    count_pad: bool = False,
) -> tuple[Tensor, Tensor]:
    """Cross-entropy of a decoder, summed over the tokens of each row, and their number.

    Source: Szegedy et al. 2016, section 7 (label smoothing), arXiv 1512.00567.

    Args:
        logits: (B, L - 1, V) of the next token under teacher forcing.
        tokens: (B, L) with the start token.
        pad_id: padding token.
        label_smoothing: in [0, 1).
        count_pad: whether padding is a token to predict.

    Returns:
        (B,) sums and (B,) counts.

    Distributed: local; `rank_mean_of_sums` takes their mean over all ranks.

    >>> sums, counts = token_sums(torch.zeros(1, 2, 4), torch.tensor([[2, 3, 0]]), pad_id=0)
    >>> f"{float(sums):.4f}", counts.tolist()  # log 4, of one token
    ('1.3863', [1.0])
    """
    target = tokens[:, 1:]
    ce = F.cross_entropy(
        logits.float().transpose(1, 2),
        target,
        reduction="none",
        label_smoothing=label_smoothing,
    )
    counts = torch.ones_like(ce) if count_pad else target.ne(pad_id).to(ce.dtype)
    return (ce * counts).sum(1), counts.sum(1)


@full_precision
def token_margin_contrastive(states: Tensor, mask: Tensor, margin: float = 0.5) -> Tensor:
    """Hinge that separates the states of different tokens of one sequence (SimCTG).

        L = sum_b sum_{i != j} max(0, rho - cos(h_i, h_i) + cos(h_i, h_j)) / sum_b n_b (n_b - 1)

    Two positions are negatives even if their tokens are equal; pairs never cross sequences.
    Gradients flow into both states of a pair.

    Source: Su et al. 2022, "A Contrastive Framework for Neural Text Generation", equation 3, arXiv
    2202.06417; the released code.

    Args:
        states: (B, L, D) last hidden states, normalised here.
        mask: (B, L), nonzero at the n_b tokens of a sequence to include.
        margin: rho, in [-1, 1]; 0 disables the term, which is then exactly 0.

    Returns:
        Scalar, the mean over the ordered pairs of the batch; 0 without pairs.

    Raises:
        ValueError: shapes that do not fit.

    Deviation: the paper divides each sequence by its own number of pairs; the released code and
        this function divide by that of the batch.

    Distributed: reduces statistics (the number of pairs).

    >>> h, mask = torch.tensor([[[1.0, 0.0], [0.0, 1.0], [1.0, 0.0]]]), torch.ones(1, 3)
    >>> f"{float(token_margin_contrastive(h, mask)):.4f}"  # 2 of 6 pairs have cosine 1: (2 / 6) 0.5
    '0.1667'
    """
    if states.ndim != 3 or mask.shape != states.shape[:2]:
        raise ValueError(
            f"states {tuple(states.shape)} need a mask of their first two dimensions, got"
            f" {tuple(mask.shape)}"
        )
    valid = mask.bool()
    pairs = (
        valid[:, :, None]
        & valid[:, None]
        & ~torch.eye(valid.shape[1], dtype=torch.bool, device=valid.device)
    )
    count = pairs.sum().to(torch.promote_types(states.dtype, torch.float32))
    if margin == 0:
        return rank_mean_of_sums(states.sum() * 0, count)
    unit = F.normalize(states.to(torch.promote_types(states.dtype, torch.float32)), dim=-1)
    hinge = F.relu(margin - 1 + unit @ unit.transpose(1, 2))  # (B, L, L)
    return rank_mean_of_sums(hinge.masked_fill(~pairs, 0).sum(), count)
