"""The text transformer of CLIP, in any size."""

from typing import Any

import torch
from open_clip.transformer import QuickGELU, TextTransformer
from torch import Tensor, nn

from common.config import UserError
from common.encoders.image.vit import Activation


def check_argmax_pool(clip: Any) -> None:
    """Refuse an open_clip model that does not pool its texts as CLIP: CLIPA's, for example.

    Args:
        clip: an `open_clip.model.CLIP`.

    Raises:
        UserError: a text feature other than the state at the highest id, or attention that sees
            what comes later.
    """
    if clip.text_pool_type != "argmax" or clip.attn_mask is None:
        mask = "no causal mask" if clip.attn_mask is None else "a causal mask"
        raise UserError(
            f"this model pools its texts by {clip.text_pool_type!r} with {mask}; CLIP's text tower,"
            " which is needed here, pools at the end of text ('argmax') under a causal mask: take"
            " another open_clip model, such as ViT-B-32"
        )


def cut_at_end(ids: Tensor) -> tuple[Tensor, Tensor]:
    """On the CPU, cut the columns behind the last end of text; causal attention makes that exact.

    A GPU would have to wait for the number, and a compiled graph would break at it: there nothing
    is cut.

    Args:
        ids: (B, L) int64; the end of text has the highest id of its row.

    Returns:
        Ids (B, L') and the positions (B,) of the ends of text.
    """
    ends = ids.argmax(dim=1)
    if ids.device.type == "cpu" and not torch.compiler.is_compiling():
        ids = ids[:, : int(ends.max()) + 1]
    return ids, ends


class ClipTextTransformer(nn.Module):
    """Causal pre-norm transformer; the feature is the state at the end-of-text token.

    The end-of-text token is found as the arg-max of the ids, so it must have the highest id; what
    stands behind it cannot influence the feature. Parameters carry open_clip's names (in `trunk`).

    Init (w width, L layers): tokens N(0, 0.02^2), positions N(0, 0.01^2), attention input
    N(0, 1/w), attention output and MLP output std w^-1/2 (2L)^-1/2, MLP input std (2w)^-1/2.

    Source: Radford et al. 2021, section 2.4, arXiv 2103.00020, and its official code.

    Args:
        vocab_size: number of token ids.
        context_length: positions L.
        width: state dimension F, a multiple of `heads`.
        heads: attention heads.
        layers: number of blocks.
        mlp_ratio: hidden size of the MLP over `width`.
        activation: of the MLP; "quick_gelu" is x * sigmoid(1.702 x).

    Raises:
        ValueError: `width` is not a multiple of `heads`.
    """

    def __init__(
        self,
        vocab_size: int = 49408,
        context_length: int = 77,
        width: int = 512,
        heads: int = 8,
        layers: int = 12,
        mlp_ratio: float = 4.0,
        *,
        activation: Activation = "quick_gelu",
    ) -> None:
        super().__init__()
        if width % heads:
            raise ValueError(f"width must be a multiple of heads, got {width} and {heads}")
        self.vocab_size, self.context_length = vocab_size, context_length
        self.num_features, self.heads, self.layers = width, heads, layers
        self.mlp_ratio, self.activation = mlp_ratio, activation
        self.trunk = TextTransformer(
            context_length=context_length,
            vocab_size=vocab_size,
            width=width,
            heads=heads,
            layers=layers,
            mlp_ratio=mlp_ratio,
            output_dim=None,
            act_layer=QuickGELU if activation == "quick_gelu" else nn.GELU,
        )

    def set_grad_checkpointing(self, enable: bool = True) -> None:
        """Recompute the blocks in the backward pass to save memory."""
        self.trunk.set_grad_checkpointing(enable)

    def forward(self, tokens: Tensor) -> Tensor:
        """Ids (B, L) int64 with L <= context_length, zero-padded -> features (B, width).

        On the CPU see `cut_at_end`.

        Raises:
            ValueError: longer than the context, or not a matrix.
        """
        if tokens.ndim != 2 or tokens.shape[1] > self.context_length:
            raise ValueError(
                f"tokens must be (B, L) with L <= {self.context_length}, got {tuple(tokens.shape)}"
            )
        tokens, ends = cut_at_end(tokens)
        length = tokens.shape[1]
        trunk = self.trunk
        states = trunk.token_embedding(tokens) + trunk.positional_embedding[:length]
        states = trunk.transformer(states, attn_mask=trunk.attn_mask[:length, :length])
        rows = torch.arange(len(states), device=states.device)
        features: Tensor = trunk.ln_final(states[rows, ends])
        return features
