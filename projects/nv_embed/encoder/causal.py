"""A decoder-only language model without its causal mask, and with an end token.

Source: Lee et al. 2024, "NV-Embed", section 3.1, arXiv 2405.17428.
"""

from typing import Any

import torch

from common.config import UserError
from common.encoders.modes import evaluation_mode

_PROBE_TOKENS = 4


def set_causal(model: Any, causal: bool) -> None:
    """Choose the direction of attention of a decoder, and make sure that it took effect.

    Bidirectional attention leaves nothing but the padding mask (a sliding window of a model without
    other kinds of layers is removed as well); the setting is part of the model's config and so of
    what `save_pretrained` writes. The key-value cache is switched off in both cases.

    Args:
        model: a transformer of transformers without head.
        causal: False removes the causal mask.

    Raises:
        UserError: the first state of a probe does (not) react to its last token, so this
            architecture does not honour the setting.
    """
    config = model.config
    config.is_causal, config.use_cache = causal, False
    for module in model.modules():
        if isinstance(getattr(module, "is_causal", None), bool):
            module.is_causal = causal
    windowed = getattr(config, "sliding_window", None) is not None
    if not causal and windowed and getattr(config, "layer_types", None) is None:
        config.sliding_window = None
    if next(model.parameters()).is_meta:
        return  # there is nothing to probe
    if looks_ahead(model) == causal:
        attention = "causal" if causal else "bidirectional"
        raise UserError(
            f"{type(model).__name__} does not become {attention} with attention "
            f"{config._attn_implementation!r}; try another model.attention or architecture"
        )


def looks_ahead(model: Any) -> bool:
    """Whether the state of a first token depends on the last one (no padding involved)."""
    embedding = model.get_input_embeddings().weight
    ids = torch.arange(2 * _PROBE_TOKENS, device=embedding.device) % embedding.shape[0]
    ids = ids.reshape(2, -1)
    ids[1, :-1] = ids[0, :-1]
    with evaluation_mode(model):
        first = model(input_ids=ids, attention_mask=torch.ones_like(ids)).last_hidden_state[:, 0]
    return not torch.equal(first[0], first[1])


def append_eos(tokenizer: Any) -> None:
    """Let a fast tokenizer end every text with EOS (and begin it with BOS if it has one).

    The ending is part of the tokenizer's template: truncation counts it and never cuts it off, and
    saved tokenizers keep it. Padding goes to the right; a missing padding token becomes EOS. A
    tokenizer that ends its texts with a special token already is left as it is.

    Raises:
        UserError: a tokenizer without EOS token, or one that is not a fast one.
    """
    tokenizer.padding_side = "right"
    if tokenizer("a")["input_ids"][-1] in tokenizer.all_special_ids:
        ended = True
    else:
        ended = False
        if tokenizer.eos_token is None:
            raise UserError("the tokenizer has no EOS token to end a text with; set one")
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token
    if ended:
        return
    from tokenizers.processors import TemplateProcessing

    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None:
        raise UserError("only fast tokenizers can be told to end texts with EOS")
    used = [token for token in (tokenizer.bos_token, tokenizer.eos_token) if token]
    template = [tokenizer.bos_token] if tokenizer.bos_token else []
    template += ["$A", tokenizer.eos_token]
    backend.post_processor = TemplateProcessing(
        single=" ".join(template),
        special_tokens=[(t, tokenizer.convert_tokens_to_ids(t)) for t in dict.fromkeys(used)],
    )
