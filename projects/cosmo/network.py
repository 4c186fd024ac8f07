"""The networks of a config: a language model with cross-attention, the resampler, two latent heads.

# B rows, T pictures, F frames, N tokens of a frame, L text tokens, D_v and D_t widths, E latent
width
"""

from functools import cache
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from transformers import AddedToken, AutoModelForCausalLM

from common.config import UserError
from common.encoders.pretrained import resolve_pretrained, stand_in
from common.encoders.text.tower import load_tokenizer, load_transformer
from projects.cosmo.config import Config, ModelConfig
from projects.cosmo.interleaved.documents import SPECIAL_TOKENS, VISUAL
from projects.cosmo.visual_language.gated_cross_attention import GatedCrossAttention
from projects.cosmo.visual_language.injected import InjectedLM, decoder_layers, places
from projects.cosmo.visual_language.perceiver import PerceiverResampler, QueryPooling

PAD = "<PAD>"
_LLAMA = {
    "hidden_size": 4096,
    "intermediate_size": 14336,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "vocab_size": 32000,
}
# architectures of the paper's language models, for dry runs without their weights
SIZES: dict[str, dict[str, Any]] = {
    "facebook/opt-iml-max-1.3b": {
        "model_type": "opt",
        "hidden_size": 2048,
        "ffn_dim": 8192,
        "num_hidden_layers": 24,
        "num_attention_heads": 32,
        "vocab_size": 50272,
    },
    "togethercomputer/RedPajama-INCITE-Base-3B-v1": {
        "model_type": "gpt_neox",
        "hidden_size": 2560,
        "intermediate_size": 10240,
        "num_hidden_layers": 32,
        "num_attention_heads": 32,
        "vocab_size": 50432,
    },
    "mistralai/Mistral-7B-v0.1": {"model_type": "mistral", **_LLAMA},
    "mistralai/Mixtral-8x7B-v0.1": {"model_type": "mixtral", **_LLAMA},
}


class Parts(NamedTuple):
    """Outputs for pictures and texts: logits (B, L, V), vectors (B, E) or None."""

    logits: Tensor
    visual: Tensor | None
    text: Tensor | None


class CosmoNetwork(nn.Module):
    """A frozen language model, split into text and cross-attention layers, and the trained parts.

    Source: Wang et al. 2024, "COSMO", arXiv 2401.00849.

    Args:
        cfg: the experiment's config.
        model: causal language model of transformers with rows for all tokens; frozen.
        visual_dim: D_v.
        first_row: first token that the language model was not trained with.
        media_token: id of ``<visual>``.

    Attributes:
        queries: 1 with a contrastive loss: latent 0 of the resampler is the contrastive query; else
            0.
        text_depth: text states are the input of layer text_depth - 1 (entry text_depth - 1 of
            transformers' hidden states).

    Raises:
        UserError: depths that the language model does not have.
    """

    def __init__(
        self, cfg: Config, model: Any, visual_dim: int, first_row: int, media_token: int
    ) -> None:
        super().__init__()
        options, count = cfg.model, len(decoder_layers(model))
        self.text_depth = options.text_depth or options.unimodal_depth
        self.contrastive = cfg.method.contrastive_weight > 0
        if options.unimodal_depth >= count or self.text_depth > count:
            raise UserError(
                f"the language model has {count} layers: lower model.unimodal_depth or text_depth"
            )
        if self.contrastive and not self.text_depth:
            raise UserError("without text layers the contrastive loss needs model.text_depth")
        self.split = options.unimodal_depth
        self.mask_padding, self.queries = options.mask_padding, int(self.contrastive)
        width = int(model.get_input_embeddings().weight.shape[1])
        layers = places(options.unimodal_depth, options.interval, count)
        sizes = options.cross
        blocks = [
            GatedCrossAttention(
                width,
                visual_dim,
                dim_head=sizes.dim_head,
                heads=sizes.heads,
                ff_mult=sizes.ff_mult,
                compression=options.compression,
                immediate=options.immediate,
                qk_norm=options.qk_norm,
            )
            for _ in layers
        ]
        self.language = InjectedLM(
            model,
            blocks,
            layers,
            media_token=media_token,
            first_row=first_row,
            trained_rows=options.trained_rows,
        )
        sizes = options.resampler
        self.resampler = PerceiverResampler(
            visual_dim,
            depth=options.resampler_depth,
            dim_head=sizes.dim_head,
            heads=sizes.heads,
            num_latents=options.num_latents + self.queries,
            ff_mult=sizes.ff_mult,
        )
        if self.contrastive:
            sizes = options.pooling
            self.text_pooling = QueryPooling(width, sizes.dim_head, sizes.heads, sizes.ff_mult)
            self.visual_head = nn.Linear(visual_dim, options.latent_dim, bias=False)
            self.text_head = nn.Linear(width, options.latent_dim, bias=False)
            self.log_scale = nn.Parameter(torch.tensor(float(cfg.method.logit_scale_init)))  # theta

    def media(self, patches: Tensor) -> tuple[Tensor, Tensor | None]:
        """(B, T, F, N, D_v) -> media tokens (B, T, Q, D_v), pooled query (B, D_v)."""
        latents = self.resampler(patches)
        pooled = latents[:, :, 0].mean(1) if self.queries else None  # latent 0, over pictures
        return latents[:, :, self.queries :], pooled

    def forward(
        self, patches: Tensor, ids: Tensor, mask: Tensor, *, contrast: bool = True
    ) -> Parts:
        """One pass of pictures and texts.

        Args:
            patches: (B, T, F, N, D_v).
            ids: (B, L) int64.
            mask: (B, L).
            contrast: also the two vectors, if there are heads.
        """
        media, pooled = self.media(patches)
        contrast = contrast and self.contrastive
        shared = self.text_depth <= self.split  # no picture has been seen there
        below = self.text_depth - 1 if contrast and shared else None
        logits, states = self.language(ids, mask, media, below)
        if not contrast or pooled is None:
            return Parts(logits, None, None)
        if states is None:
            states = self.language.states(ids, mask, self.text_depth - 1)
        return Parts(logits, self.visual_head(pooled), self._pooled(states, mask))

    def embed_images(self, patches: Tensor) -> Tensor:
        """(B, T, F, N, D_v) -> (B, E), not normalised."""
        _, pooled = self._with_heads().media(patches)
        embedded: Tensor = self.visual_head(pooled)
        return embedded

    def embed_texts(self, ids: Tensor, mask: Tensor) -> Tensor:
        """(B, L) -> (B, E), not normalised; layers above the text layers are not computed."""
        states = self._with_heads().language.states(ids, mask, self.text_depth - 1)
        return self._pooled(states, mask)

    def _pooled(self, states: Tensor, mask: Tensor) -> Tensor:
        kept = mask if self.mask_padding else None
        embedded: Tensor = self.text_head(
            self.text_pooling(states.to(self.text_head.weight.dtype), kept)
        )
        return embedded

    def _with_heads(self) -> "CosmoNetwork":
        if not self.contrastive:
            raise UserError(
                "a model without contrastive loss has no embeddings: train with"
                " method.contrastive_weight > 0"
            )
        return self

    def touch_contrastive(self) -> Tensor:
        """0 with a gradient of 0 for the contrastive parts, so that DDP waits for none of them."""
        if not self.contrastive:
            return torch.zeros(())
        parts = (self.text_pooling, self.visual_head, self.text_head)
        unused = [p for part in parts for p in part.parameters()] + [self.log_scale]
        return sum((p.sum() * 0 for p in unused), torch.zeros((), device=self.log_scale.device))


def parameter_counts(network: CosmoNetwork, vision: int) -> tuple[int, int]:
    """Learnable parameters, and all of them: with both frozen towers, a row of the vocabulary once.

    Args:
        network: the trained parts and the language model.
        vision: parameters of the image tower, see `visual_dim_of`.
    """
    learnable = sum(p.numel() for p in network.parameters() if p.requires_grad)
    rows = network.language.rows
    shared = rows.numel() if rows.requires_grad else 0  # of the language model too
    language = sum(p.numel() for p in network.language.model.parameters())
    return learnable, learnable - shared + language + vision


# -- building ------------------------------------------------------------------------------------


def load_language(options: ModelConfig) -> tuple[Any, Any, int]:
    """Language model and tokenizer with the special tokens, and the first token that is new.

    Raises:
        UserError: absent weights or tokenizer.
    """
    tokenizer = load_tokenizer(options.language)
    first = len(tokenizer)
    new = [t for t in SPECIAL_TOKENS if t not in tokenizer.get_vocab()]
    tokenizer.add_tokens(
        [AddedToken(t, special=True, normalized=False) for t in new], special_tokens=True
    )
    if tokenizer.pad_token_id is None:
        tokenizer.add_special_tokens({"pad_token": PAD})
    if tokenizer.eos_token_id is None:
        raise UserError(f"the tokenizer of {options.language} has no end of text")
    four_bit = options.language_dtype == "nf4"
    model = load_transformer(
        options.language,
        dropout=None,
        auto_class=AutoModelForCausalLM,
        dtype=torch.bfloat16 if four_bit else getattr(torch, options.language_dtype),
        four_bit=four_bit,
    )
    table: Any = model.get_input_embeddings()
    if len(tokenizer) > table.num_embeddings:
        model.resize_token_embeddings(len(tokenizer), mean_resizing=False)  # new rows are drawn
    return model, tokenizer, first


def build_network(cfg: Config, visual_dim: int) -> tuple[CosmoNetwork, Any]:
    """The network before training, and its tokenizer."""
    model, tokenizer, first = load_language(cfg.model)
    token = int(tokenizer.convert_tokens_to_ids(VISUAL))
    return CosmoNetwork(cfg, model, visual_dim, first, token), tokenizer


def dry_network(cfg: Config, visual_dim: int) -> tuple[CosmoNetwork, Any]:
    """As `build_network` where weights are available.

    Else, on the meta device, their shapes without a tokenizer.
    """
    config = stand_in(cfg.model.language, SIZES)
    if config is None:
        return build_network(cfg, visual_dim)
    new = len(SPECIAL_TOKENS) + 1
    first = int(config["vocab_size"])
    model = load_transformer(
        "random", config={**config, "vocab_size": first + new}, auto_class=AutoModelForCausalLM
    )
    return CosmoNetwork(cfg, model, visual_dim, first, first + 1), None


@cache  # a report asks for a dozen settings of one tower
def visual_dim_of(vision: str) -> tuple[int, int, int]:
    """Width, tokens and parameters of an image tower, without its weights if open_clip can."""
    ref = resolve_pretrained(vision, require=False)
    if ref.kind == "open_clip" and not ref.present:
        import open_clip

        sizes = (open_clip.get_model_config(ref.name) or {}).get("vision_cfg", {})
        if isinstance(sizes.get("layers"), int) and "patch_size" in sizes:
            width, side = int(sizes["width"]), int(sizes["image_size"]) // int(sizes["patch_size"])
            body = (
                sizes["layers"] * 12 * width**2 + (3 * sizes["patch_size"] ** 2 + side**2) * width
            )
            return width, side**2, body
    from projects.cosmo.visual_language.patch_tokens import PatchTower

    with torch.device("cpu"):
        tower = PatchTower(vision)
        tokens = tower(torch.zeros(1, 3, tower.image_size, tower.image_size))
    count = sum(p.numel() for p in tower.encoder.model.visual.parameters())
    return tower.width, tokens.shape[1], count
