"""Parts of an open_clip model: tower features, dropout in the text blocks, projections.

# B batch, L tokens, F width
"""

from typing import Any

import torch
from open_clip.model import CLIP
from open_clip.modified_resnet import ModifiedResNet
from torch import Tensor
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from common.config import UserError
from common.encoders.image_text.clip_text import check_argmax_pool, cut_at_end
from common.encoders.image_text.open_clip_dual import OpenClipDualEncoder


def check_parts(encoder: OpenClipDualEncoder) -> None:
    """Refuse models whose towers do not end in a separate projection.

    Raises:
        UserError: a model with a foreign text tower or another text pooling than CLIP's, or with an
            attention pool that projects.
    """
    model = encoder.model
    if not isinstance(model, CLIP) or model.text_projection is None:
        raise UserError(
            "features before the projection need open_clip's own text tower (no hf_model_name)"
        )
    check_argmax_pool(model)
    if isinstance(model.visual, ModifiedResNet):
        raise UserError(
            "the attention pool of open_clip's ResNets projects at once: take a ViT, or a "
            "ResNet by vision_cfg.timm_model_name"
        )


def feature_dims(encoder: OpenClipDualEncoder) -> tuple[int, int]:
    """Width of the image and of the text features."""
    visual = encoder.model.visual
    trunk = getattr(visual, "trunk", None)
    image = trunk.num_features if trunk is not None else visual.proj.shape[0]
    return int(image), int(encoder.model.ln_final.weight.shape[0])


def text_features(
    encoder: OpenClipDualEncoder, tokens: Tensor, *, dropout: float = 0.0, drop_path: float = 0.0
) -> Tensor:
    """States at the end-of-text token before the projection, with noise in training mode.

    On the CPU see `cut_at_end`.

    Source: Fini et al. 2023 (text dropout on augmented captions), arXiv 2305.08675; drop-path:
    Huang et al. 2016, arXiv 1603.09382.

    Args:
        encoder: see `check_parts`.
        tokens: (B, L) int64, end-of-text has the highest id.
        dropout: probability on the input of every block, in [0, 1).
        drop_path: probability that a sample skips a residual branch, in [0, 1).

    Returns:
        (B, F).
    """
    model: Any = encoder.model
    tokens, ends = cut_at_end(tokens)
    length = tokens.shape[1]
    states = model.token_embedding(tokens) + model.positional_embedding[:length]
    mask = None if model.attn_mask is None else model.attn_mask[:length, :length]
    for block in model.transformer.resblocks:
        states = F.dropout(states, dropout, training=model.training)
        arguments = (block, states, mask, drop_path if model.training else 0.0)
        if model.transformer.grad_checkpointing:
            states = checkpoint(_block, *arguments, use_reentrant=False)
        else:
            states = _block(*arguments)
    rows = torch.arange(len(states), device=states.device)
    features: Tensor = model.ln_final(states[rows, ends])
    return features


def _block(block: Any, states: Tensor, mask: Tensor | None, drop_path: float) -> Tensor:
    if not drop_path:
        output: Tensor = block(states, attn_mask=mask)
        return output
    attended = block.ls_1(block.attention(q_x=block.ln_1(states), attn_mask=mask))
    states = states + _skipped(attended, drop_path)
    return states + _skipped(block.ls_2(block.mlp(block.ln_2(states))), drop_path)


def _skipped(branch: Tensor, prob: float) -> Tensor:
    """Zero for some samples, larger by 1 / (1 - prob) for the others."""
    kept = torch.rand(len(branch), 1, 1, device=branch.device) >= prob
    return branch * kept / (1 - prob)


def project_image(encoder: OpenClipDualEncoder, features: Tensor) -> Tensor:
    """Image features (B, F) -> embeddings (B, D)."""
    visual = encoder.model.visual
    embeddings: Tensor = (
        visual.head(features) if hasattr(visual, "trunk") else features @ visual.proj
    )
    return embeddings


def project_text(encoder: OpenClipDualEncoder, features: Tensor) -> Tensor:
    """Text features (B, F) -> embeddings (B, D)."""
    projection = encoder.model.text_projection
    embeddings: Tensor = (
        projection(features) if isinstance(projection, torch.nn.Module) else features @ projection
    )
    return embeddings
