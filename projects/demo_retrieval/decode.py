"""Decoding with K copies of a question: one prefix, probabilities mixed at every step."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from transformers import GenerationConfig, LogitsProcessor, LogitsProcessorList
from transformers.modeling_outputs import BaseModelOutput

from projects.demo_retrieval.batches import label_rows
from projects.demo_retrieval.objective import (
    IGNORED,
    demonstration_log_probs,
    rag_sequence_nll,
    rag_token_nll,
    token_log_probs,
)


class MixCopies(LogitsProcessor):
    """log sum_k p_eta(z_k | x) p_theta(y_i | x, z_k, y_<i), given to each of the K copies.

    All copies of a question then have the same distribution over the next token, so greedy and
    beam search of the library choose the same token, or the same beams, for all of them.

    Args:
        scores: (B, K) dot products.
        num_beams: hypotheses of each copy.
    """

    def __init__(self, scores: Tensor, num_beams: int = 1) -> None:
        self.prior, self.num_beams = demonstration_log_probs(scores), num_beams

    def __call__(self, input_ids: Any, scores: Any) -> Any:
        """Scores (B K beams, V) of the next token."""
        count, k = self.prior.shape
        copies = scores.float().log_softmax(-1).view(count, k, self.num_beams, -1)
        mixed = torch.logsumexp(self.prior[:, :, None, None] + copies, dim=1)  # Eq. 1, one i
        return mixed[:, None].expand_as(copies).reshape(scores.shape)


@torch.no_grad()
def generate(
    network: Any,
    input_ids: Tensor,
    attention_mask: Tensor,
    scores: Tensor,
    *,
    start: int,
    end: int,
    pad: int,
    max_new_tokens: int,
    num_beams: int = 1,
) -> Tensor:
    """Token ids (B, L) of the best hypothesis of each question, without the decoder's start.

    Args:
        network: encoder-decoder in evaluation mode.
        input_ids: (B K, S), question-major.
        attention_mask: (B K, S).
        scores: (B, K) dot products.
        start: the decoder's first id.
        end: ends a text.
        pad: fills up.
        max_new_tokens: at most so many ids.
        num_beams: 1 is greedy.
    """
    options: Any = GenerationConfig(
        do_sample=False,
        num_beams=num_beams,
        max_new_tokens=max_new_tokens,
        pad_token_id=pad,
        eos_token_id=end,
        decoder_start_token_id=start,
        bos_token_id=start,
    )
    out = network.generate(
        input_ids=input_ids,
        attention_mask=attention_mask,
        generation_config=options,
        logits_processor=LogitsProcessorList([MixCopies(scores, num_beams)]),
    )
    tokens: Tensor = out[:, 1:].view(len(scores), scores.shape[1], -1)[:, 0]
    return tokens


@torch.no_grad()
def generate_sequence(
    network: Any,
    input_ids: Tensor,
    attention_mask: Tensor,
    scores: Tensor,
    *,
    start: int,
    end: int,
    pad: int,
    max_new_tokens: int,
    num_beams: int = 1,
) -> Tensor:
    """`generate` with RAG-Sequence: each copy writes a text, the likeliest under all wins.

    Source: Lewis et al. 2020, section 2.5 (thorough decoding), arXiv 2005.11401; an ablation here.

    Args: see `generate`.

    Returns:
        (B, L).
    """
    (count, k), alone = scores.shape, scores.new_zeros(scores.numel(), 1)
    texts = generate(
        network,
        input_ids,
        attention_mask,
        alone,
        start=start,
        end=end,
        pad=pad,
        max_new_tokens=max_new_tokens,
        num_beams=num_beams,
    ).view(count, k, -1)
    ended = texts.eq(end).cumsum(2) - texts.eq(end).long() > 0  # behind the end
    gold = texts.masked_fill(ended, IGNORED)
    states = network.get_encoder()(input_ids=input_ids, attention_mask=attention_mask)[0]
    losses = []
    for c in range(k):  # the c-th text of each question, under its K copies
        inputs = torch.cat([torch.full_like(texts[:, c, :1], start), texts[:, c, :-1]], 1)
        logits = network(
            encoder_outputs=BaseModelOutput(last_hidden_state=states),
            attention_mask=attention_mask,
            decoder_input_ids=inputs.repeat_interleave(k, 0),
        ).logits
        losses.append(rag_sequence_nll(logits, scores, gold[:, c]))
    best = torch.stack(losses, 1).argmin(1)
    return texts[torch.arange(count, device=texts.device), best]


@torch.no_grad()
def label_log_likelihoods(
    network: Any,
    input_ids: Tensor,
    attention_mask: Tensor,
    scores: Tensor,
    head: Sequence[int],
    labels: Sequence[Sequence[int]],
    *,
    start: int,
    sequence: bool = False,
) -> Tensor:
    """Log p(label | x, repeated question) of every candidate, mixed over the K copies.

    The encoder and the repeated question are read once for all candidates. RAG-Token's likelihood
    of the question itself is left out, a factor that is the same for all; in RAG-Sequence each
    copy's own one weighs its share of the label.

    Args:
        network: encoder-decoder in evaluation mode.
        input_ids: (B K, S), question-major.
        attention_mask: (B K, S).
        scores: (B, K) dot products.
        head: ids of the target before the answer, the same for all B.
        labels: C rows of ids, the end included.
        start: the decoder's first id.
        sequence: RAG-Sequence in place of RAG-Token: log sum_k p_eta p_theta(question, label) less
            log sum_k p_eta p_theta(question).

    Returns:
        (B, C), sums over the tokens of a label.
    """
    (count, copies), many = scores.shape, len(labels)
    states = network.get_encoder()(input_ids=input_ids, attention_mask=attention_mask)[0]
    prefix = torch.tensor([[start, *head]], device=states.device).expand(len(states), -1)
    out = network(
        encoder_outputs=BaseModelOutput(last_hidden_state=states),
        attention_mask=attention_mask,
        decoder_input_ids=prefix,
        use_cache=True,
    )
    if sequence:
        question = prefix[::copies, 1:]  # (B, H)
        scores = demonstration_log_probs(scores) + token_log_probs(
            out.logits[:, :-1], question
        ).sum(2)
    gold = label_rows(labels).to(states.device)
    logits = out.logits[:, -1:].repeat_interleave(many, 0)
    if gold.shape[1] > 1:
        cache = out.past_key_values
        cache.batch_repeat_interleave(many)
        more = network(
            encoder_outputs=BaseModelOutput(last_hidden_state=states.repeat_interleave(many, 0)),
            attention_mask=attention_mask.repeat_interleave(many, 0),
            past_key_values=cache,
            use_cache=True,
            decoder_input_ids=gold[:, :-1].clamp(min=0).repeat(len(states), 1),
        ).logits
        logits = torch.cat([logits, more], 1)
    # (B, K, C) rows become B C questions of K copies
    rows = logits.view(count, copies, many, *logits.shape[1:]).transpose(1, 2).flatten(0, 2)
    nll = rag_sequence_nll if sequence else rag_token_nll
    log_likelihoods = -nll(rows, scores.repeat_interleave(many, 0), gold.repeat(count, 1))
    return log_likelihoods.view(count, many)
