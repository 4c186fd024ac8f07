"""The network: text encoder, attention to frames, recurrent nets, late fusion.

# B questions, A candidates, N sentences, L tokens, F frames, D dim, H hidden size of both
directions
"""

from collections.abc import Mapping
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint
from transformers import PreTrainedModel

from common.config import UserError
from common.encoders.text.tiny_tokenizer import tiny_tokenizer
from common.encoders.text.tower import load_tokenizer, load_transformer
from projects.video_qa.attention import FrameAttention, Reach, frame_reach
from projects.video_qa.clips.batches import VideoQABatch
from projects.video_qa.config import Config
from projects.video_qa.sentence_rnn import SentenceRNN


class Output(NamedTuple):
    """What the network makes of a batch.

    Attributes:
        scores: (B, A), the sum of the streams' scores.
        text: (B, A, H) vector of the text stream.
        visual: (B, A, H) vector of the visual stream; None without one.
        states: (B, A, N, H or 2 H) states of the recurrent nets side by side, 0 at padding.
        looked: (B, A, N, F) attention to the frames, a mean over the tokens; None without a visual
            stream.
    """

    scores: Tensor
    text: Tensor
    visual: Tensor | None
    states: Tensor
    looked: Tensor | None


class VideoQANet(nn.Module):
    """Scores of candidates that share all weights, one candidate at a time.

    Source: Kim et al. 2021, arXiv 2009.08043 (model figure and captions; sizes are not confirmed).

    Args:
        encoder: a transformer of the BERT kind.
        feature_dim: of a frame's features.
        attention: see `frame_reach`.
        fusion: "attended": what a token h attended, u, alone; "matched": W [h; u; h * u].
        pool: over the tokens.
        streams: "both", or "text" for a network without frames.
        rnn: "lstm" or "gru".
        hidden: of a direction.
        time_sentences: places of a table of vectors that tell tokens and frames their sentence; 0:
            none.
        head_dropout: of the pooled vectors.
        localise: whether there is a head for the span.
        chunk: sequences that pass the encoder together; None: all.
        checkpointing: recompute the chunks in the backward pass.
    """

    def __init__(
        self,
        encoder: PreTrainedModel,
        *,
        feature_dim: int,
        attention: Reach = "local",
        fusion: Literal["matched", "attended"] = "attended",
        pool: Literal["max", "mean"] = "max",
        streams: Literal["both", "text"] = "both",
        rnn: Literal["lstm", "gru"] = "lstm",
        hidden: int = 300,
        time_sentences: int = 0,
        head_dropout: float = 0.0,
        localise: bool = True,
        chunk: int | None = None,
        checkpointing: bool = False,
    ) -> None:
        super().__init__()
        self.encoder, dim = encoder, int(encoder.config.hidden_size)
        self.attention, self.fusion, self.pool = attention, fusion, pool
        self.visual, self.chunk, self.checkpointing = streams == "both", chunk, checkpointing
        self.feature_dim = feature_dim
        self.text_rnn = SentenceRNN(dim, hidden, rnn)
        self.text_score = nn.Linear(2 * hidden, 1)
        self.dropout = nn.Dropout(head_dropout)
        self.time: nn.Embedding | None = None
        if self.visual:
            self.project = nn.Sequential(nn.Linear(feature_dim, dim), nn.ReLU(), nn.LayerNorm(dim))
            self.attend = FrameAttention(dim)
            self.fuse = (
                nn.Sequential(nn.Linear(3 * dim, dim), nn.ReLU()) if fusion == "matched" else None
            )
            self.visual_rnn = SentenceRNN(dim, hidden, rnn)
            self.visual_score = nn.Linear(2 * hidden, 1)
            if time_sentences:
                self.time = nn.Embedding(time_sentences, dim)
        streams_dim = 2 * hidden * (2 if self.visual else 1)
        self.span_head = nn.Linear(streams_dim, 2) if localise else None

    def forward(self, batch: VideoQABatch) -> Output:
        """Score the candidates of a batch; its masked inputs, if it has any, are not looked at."""
        sequences = batch["input_ids"], batch["attention_mask"], batch["token_type_ids"]
        return self.run(batch, *sequences, visual=self.visual)

    def run(
        self, batch: VideoQABatch, ids: Tensor, mask: Tensor, types: Tensor, *, visual: bool
    ) -> Output:
        """Score sequences (B, A, N, L) about the clips of a batch.

        Without `visual` by their text alone.
        """
        sentences = batch["sentence_mask"]
        tokens = self.tokens(ids, mask, types, sentences)
        states, text = self._over_sentences(self.text_rnn, tokens[..., 0, :], sentences)  # [CLS]
        scores = self.text_score(self.dropout(text))[..., 0]  # o_i^T
        if not visual:
            return Output(scores, text, None, states, None)
        seen, looked = self.seen(batch, tokens, mask)
        visual_states, pooled = self._over_sentences(self.visual_rnn, seen, sentences)
        scores = scores + self.visual_score(self.dropout(pooled))[..., 0]  # o_i = o_i^T + o_i^V
        return Output(scores, text, pooled, torch.cat([states, visual_states], -1), looked)

    def tokens(self, ids: Tensor, mask: Tensor, types: Tensor, sentences: Tensor) -> Tensor:
        """Encoder states (B, A, N, L, D); padding sentences are skipped and 0."""
        real = sentences[:, None].expand(ids.shape[:3])
        rows = [x[real] for x in (ids, mask, types)]
        size = self.chunk or len(rows[0])
        parts = [
            self._encode(*(x[i : i + size] for x in rows)) for i in range(0, len(rows[0]), size)
        ]
        states = torch.cat(parts)
        if bool(real.all()):
            return states.view(*ids.shape, -1)
        dense = states.new_zeros(*ids.shape, states.shape[-1])
        return dense.masked_scatter(real[..., None, None].expand(dense.shape), states)

    def seen(self, batch: VideoQABatch, tokens: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        """What the tokens of each sentence see: vectors u_ij (B, A, N, D).

        Attention (B, A, N, F).
        """
        frames = self.project(batch["frames"].to(tokens.dtype))
        if self.time is not None:  # which sentence a token or a frame belongs to
            places = torch.arange(tokens.shape[2], device=tokens.device)
            tokens = tokens + self.time(places)[:, None]
            frames = frames + self.time(batch["frame_sentence"])
        allowed = frame_reach(batch["frame_spans"], batch["frame_mask"], self.attention)
        attended, weights = self.attend(tokens, frames, allowed)
        if self.fuse is not None:
            attended = self.fuse(torch.cat([tokens, attended, tokens * attended], -1))
        real = mask.bool()[..., None]
        count = mask.sum(-1, keepdim=True).clamp(min=1)
        looked = weights.masked_fill(~real, 0.0).sum(-2) / count
        if self.pool == "mean":
            return attended.masked_fill(~real, 0.0).sum(-2) / count, looked
        lowest = torch.finfo(attended.dtype).min
        pooled = attended.masked_fill(~real, lowest).amax(-2)
        return pooled.masked_fill(~batch["sentence_mask"][:, None, :, None], 0.0), looked

    def span_logits(self, output: Output, candidates: Tensor) -> Tensor:
        """Span logits (B, N, 2), first and last sentence, by one candidate each, (B,)."""
        assert self.span_head is not None, "built without a head for spans"
        rows = torch.arange(len(candidates), device=candidates.device)
        logits: Tensor = self.span_head(output.states[rows, candidates])
        return logits

    def _over_sentences(self, rnn: SentenceRNN, x: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        b, a, n, d = x.shape
        rows = mask[:, None].expand(b, a, n).reshape(b * a, n)
        states, pooled = rnn(x.reshape(b * a, n, d), rows)
        return states.view(b, a, n, -1), pooled.view(b, a, -1)

    def _encode(self, ids: Tensor, mask: Tensor, types: Tensor) -> Tensor:
        def run(ids: Tensor, mask: Tensor, types: Tensor) -> Tensor:
            out: Tensor = self.encoder(
                input_ids=ids, attention_mask=mask, token_type_ids=types
            ).last_hidden_state
            return out

        if self.checkpointing and self.training:
            encoded: Tensor = checkpoint(run, ids, mask, types, use_reentrant=False)
            return encoded
        return run(ids, mask, types)


def network_options(cfg: Config) -> dict[str, Any]:
    """Keyword arguments of `VideoQANet` by a config; they are exported with it."""
    options = cfg.model
    return {
        "feature_dim": cfg.data.feature_dim,
        "attention": options.attention,
        "fusion": options.fusion,
        "pool": options.pool,
        "streams": options.streams,
        "rnn": options.rnn,
        "hidden": options.hidden,
        "head_dropout": options.head_dropout,
        "time_sentences": cfg.data.max_sentences if options.time_embedding else 0,
        "localise": cfg.method.localisation_weight > 0,
        "chunk": options.chunk,
        "checkpointing": options.checkpointing,
    }


def build_encoder(
    pretrained: str,
    config: Mapping[str, Any] | None,
    dropout: float | None,
    num_layers: int | None,
    vocab_size: int | None = None,
) -> PreTrainedModel:
    """The text encoder without a pooler, of its lowest `num_layers` layers.

    Raises:
        UserError: absent weights, or an encoder that is not of the BERT kind.
    """
    if config is not None and vocab_size is not None:
        config = {**config, "vocab_size": vocab_size}
    model = load_transformer(pretrained, config=config, dropout=dropout)
    if getattr(model.config, "type_vocab_size", 0) < 2:
        raise UserError(
            f"model.pretrained={pretrained}: use an encoder with two token types, as BERT has them"
        )
    if getattr(model, "pooler", None) is not None:
        model.pooler = None
    if num_layers is not None:
        layers: Any = model.encoder.layer
        if num_layers > len(layers):
            raise UserError(f"model.num_layers={num_layers}: the encoder has {len(layers)}")
        model.encoder.layer = layers[:num_layers]
        model.config.num_hidden_layers = num_layers
    return model


@torch.no_grad()
def attend_alike(model: Any) -> None:
    """Let a random encoder of BERT's architecture begin with attention to equal tokens.

    Keys begin as queries, so that a product of two equal vectors is large, and vectors of positions
    are small alongside those of words. A pre-trained encoder finds equal words in two segments; a
    small one has no time to learn it.
    """
    model.embeddings.position_embeddings.weight *= 0.3
    model.embeddings.token_type_embeddings.weight *= 0.5
    for layer in model.encoder.layer:
        attention = layer.attention.self
        attention.key.weight.copy_(attention.query.weight)


def build_tokenizer(cfg: Config) -> Any:
    """The tokenizer that the config names, that of its weights, or a small one without files."""
    options = cfg.model
    if options.tokenizer is not None:
        return load_tokenizer(options.tokenizer)
    return (
        tiny_tokenizer(1024)
        if options.pretrained == "random"
        else load_tokenizer(options.pretrained)
    )


def build_network(cfg: Config, tokenizer: Any) -> VideoQANet:
    """The network before any training.

    Raises:
        UserError: absent or unfitting weights, or an encoder with fewer positions than
            ``data.max_length``.
    """
    options = cfg.model
    vocab_size = len(tokenizer) if options.config else None
    encoder = build_encoder(
        options.pretrained, options.config, options.dropout, options.num_layers, vocab_size
    )
    places = getattr(encoder.config, "max_position_embeddings", None)
    if places is not None and cfg.data.max_length > places:
        raise UserError(
            f"data.max_length={cfg.data.max_length}: the text encoder has {places} positions; set"
            f" at most {places}"
        )
    if options.alike:
        attend_alike(encoder)
    return VideoQANet(encoder, **network_options(cfg))
