"""RAG-Token and RAG-Sequence likelihoods over K demonstrations.

# B questions, K demonstrations of each, T target tokens, V vocabulary
"""

import torch
from torch import Tensor

IGNORED = -100  # a label without loss: padding


def demonstration_log_probs(scores: Tensor) -> Tensor:
    """Log p_eta(z_k | x) = s_k - log sum_j exp(s_j), over the K retrieved items alone.

    Source: Mueller et al. 2023, arXiv 2307.00119; Lewis et al. 2020, "RAG", arXiv 2005.11401.

    Args:
        scores: (B, K) dot products of question and demonstration vectors.

    Returns:
        (B, K); their exponentials sum to 1 in each row.

    >>> demonstration_log_probs(torch.zeros(1, 2)).exp().tolist()
    [[0.5, 0.5]]
    """
    wide = torch.promote_types(scores.dtype, torch.float32)
    return scores.to(wide).log_softmax(dim=1)


def next_targets(targets: Tensor, pad_id: int) -> Tensor:
    """Labels aligned with the logits, of targets that are also the decoder's input.

    Position j is scored against target j + 1, as in transformers' RAG. The project's own batches
    don't need it: their labels are aligned already.

    Args:
        targets: (B, T) int64.
        pad_id: padding, which becomes -100.

    >>> next_targets(torch.tensor([[5, 6, 0]]), 0).tolist()
    [[6, -100, -100]]
    """
    shifted = torch.cat([targets[:, 1:], targets.new_full((len(targets), 1), pad_id)], dim=1)
    return shifted.masked_fill(shifted == pad_id, IGNORED)


def token_log_probs(logits: Tensor, labels: Tensor) -> Tensor:
    """Log p_theta(y_i | x, z_k, y_<i) of each copy; 0 at padding.

    Args:
        logits: (B K, T, V), question-major.
        labels: (B, T) int64, aligned with the logits; -100 at padding.

    Returns:
        (B, K, T), float32 or wider.

    Raises:
        ValueError: rows that are no multiple of B, or another length.
    """
    count = len(labels)
    if logits.dim() != 3 or len(logits) % count or logits.shape[1] != labels.shape[1]:
        raise ValueError(
            f"logits {tuple(logits.shape)} are not K copies of labels {tuple(labels.shape)}"
        )
    wide = logits.to(torch.promote_types(logits.dtype, torch.float32))
    copies = labels.clamp(min=0).repeat_interleave(len(logits) // count, dim=0)
    log_probs = wide.gather(2, copies[:, :, None]).squeeze(2) - wide.logsumexp(2)
    return log_probs.view(count, -1, labels.shape[1]) * labels.ne(IGNORED)[:, None]


def rag_token_nll(logits: Tensor, scores: Tensor, labels: Tensor) -> Tensor:
    """-log prod_i sum_k p_eta(z_k | x) p_theta(y_i | x, z_k, y_<i).

    Source: Mueller et al. 2023, arXiv 2307.00119; Lewis et al. 2020, section 2.1 (RAG-Token).

    Args:
        logits: (B K, T, V), question-major.
        scores: (B, K) dot products; constants with a frozen retriever.
        labels: (B, T) int64, aligned with the logits; -100 at padding.

    Returns:
        (B,), a sum over each question's tokens.

    Raises:
        ValueError: see `token_log_probs`.

    >>> logits = torch.tensor([[[0.0, 0.0]], [[0.0, -100.0]]])  # p(0) = .5 and 1
    >>> round(float(rag_token_nll(logits, torch.zeros(1, 2), torch.tensor([[0]])).exp()), 4)
    1.3333
    """
    prior = demonstration_log_probs(scores)
    mixed = torch.logsumexp(prior[:, :, None] + token_log_probs(logits, labels), dim=1)  # Eq. 1
    return -(mixed * labels.ne(IGNORED)).sum(dim=1)  # a pad counts 0, not log sum_k p_eta


def rag_sequence_nll(logits: Tensor, scores: Tensor, labels: Tensor) -> Tensor:
    """-log sum_k p_eta(z_k | x) prod_i p_theta(y_i | x, z_k, y_<i).

    Source: Lewis et al. 2020, section 2.1 (RAG-Sequence), arXiv 2005.11401; an ablation here.

    Args and errors: see `rag_token_nll`.

    Returns:
        (B,).
    """
    whole = token_log_probs(logits, labels).sum(dim=2)
    return -torch.logsumexp(demonstration_log_probs(scores) + whole, dim=1)
