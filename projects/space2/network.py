"""Encoder of dialogues, the ten sub-spaces, masked prediction.

# B examples, L tokens, D hidden size, K views, d dim of a sub-space
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from common.config import UserError
from common.encoders.length_groups import in_length_groups
from common.encoders.modes import evaluated
from common.encoders.pretrained import stand_in
from common.encoders.text.tiny_tokenizer import tiny_tokenizer
from common.encoders.text.tower import load_tokenizer, load_transformer
from common.losses.auxiliary.tokens import masked_lm_loss
from projects.space2.config import Config, DialogData, ModelConfig
from projects.space2.dialog_encoder import MAX_TURNS, DialogEncoder, DialogWordHead
from projects.space2.dialogs.encoding import DialogTokenizer
from projects.space2.dialogs.trees import VIEWS
from projects.space2.exported import SETTINGS, fill, load_dialog_encoder, save_dialog_encoder

# what `make check` builds for weights that are not on this machine
_NAMES = ("bert-base-uncased", "convbert", "space2", "space2-intent", "space2-slot")
SIZES: dict[str, dict[str, Any]] = {name: {"model_type": "bert"} for name in _NAMES}


class Space2Network(nn.Module):
    """See the equations in the card.

    Args:
        encoder: of dialogues.
        texts: its tokenizer and lengths.
        dim: of each of the ten sub-spaces.
        pretrained: checkpoint whose head for masked prediction is taken over; None: a new one.
        length_groups: passes over a training batch, by length.
        shared: the first sub-space is that of every view.
        views: those that are trained, or were.
    """

    def __init__(
        self,
        encoder: DialogEncoder,
        texts: DialogTokenizer,
        dim: int,
        pretrained: str | None = None,
        length_groups: int = 1,
        shared: bool = False,
        views: Sequence[str] = VIEWS,
    ) -> None:
        super().__init__()
        self.encoder, self.texts, self.dim = encoder, texts, dim
        self.projection = nn.Linear(encoder.num_features, len(VIEWS) * dim)
        nn.init.normal_(self.projection.weight, std=encoder.backbone.config.initializer_range)
        nn.init.zeros_(self.projection.bias)
        self.words = DialogWordHead(encoder, pretrained)
        self.length_groups, self.shared, self.views = length_groups, shared, tuple(views)

    @property
    def device(self) -> torch.device:
        """Where the parameters are."""
        return self.projection.weight.device

    def sentence(self, inputs: Mapping[str, Tensor]) -> Tensor:
        """Sentence vectors (B, D)."""
        groups = self.length_groups if self.training else 1
        return in_length_groups(lambda **x: self.encoder(**x)[:, 0], groups, **inputs)

    def twice(self, inputs: Mapping[str, Tensor]) -> Tensor:
        """Sentence vectors (2B, D) of two dropout copies, in one forward pass over 2B rows."""
        return self.sentence({name: x.repeat(2, 1) for name, x in inputs.items()})

    def view_vectors(self, sentence: Tensor, views: Sequence[str] = VIEWS) -> Tensor:
        """(B, K, d) of sentence vectors (B, D).

        Only the named views' slices of the matrix are read.
        """
        places = [0 if self.shared else VIEWS.index(view) for view in views]
        rows = torch.cat([torch.arange(self.dim) + self.dim * place for place in places])
        rows = rows.to(self.projection.weight.device)
        weight, bias = self.projection.weight[rows], self.projection.bias[rows]
        return nn.functional.linear(sentence, weight, bias).tanh().view(-1, len(views), self.dim)

    def masked_lm(self, inputs: Mapping[str, Tensor], masked: Tensor, labels: Tensor) -> Tensor:
        """Mean cross-entropy of the hidden tokens, over all ranks; no slot in front here."""
        states = self.encoder(**{**inputs, "input_ids": masked}, sentence=False)
        return masked_lm_loss(self.words, states, labels)

    def encode(
        self, rows: Sequence[Any], batch_size: int = 128, accelerator: str = "cpu"
    ) -> Tensor:
        """Sentence vectors (N, D) of tokenised dialogues in eval mode, on the CPU."""
        from common.encoders.length_groups import in_batches_by_length

        def part(places: list[int]) -> Tensor:
            inputs = self.texts.pad([rows[i] for i in places])
            return self.sentence({k: x.to(self.device) for k, x in inputs.items()})  # type: ignore[attr-defined]

        with evaluated(self, accelerator):
            return in_batches_by_length(part, [len(r.ids) for r in rows], batch_size)


def build_network(cfg: Config, planned: bool = False) -> Space2Network:
    """The network before training, from the global random state.

    Raises:
        UserError: absent weights, another architecture than BERT's, inputs longer than its
            positions, an export with other sub-spaces than are wanted.
    """
    model, data = cfg.model, cfg.data
    views = trained_views(cfg)
    if (Path(model.pretrained) / SETTINGS).is_file():
        network = load_network(model.pretrained, data, model.attention)
        if cfg.train == "pretrain":
            if (model.dim, model.shared) != (network.dim, network.shared):
                raise UserError(
                    f"{model.pretrained} has model.dim={network.dim} and"
                    f" model.shared={network.shared}: set them so"
                )
            network.views = views
        network.length_groups = model.length_groups
        _set_dropout(network, model)
        return network.train()
    absent = stand_in(model.pretrained, SIZES) if planned else None
    pretrained = model.pretrained if absent is None else "random"
    config = model.config if absent is None else {"vocab_size": 30522, **absent}
    if pretrained == "random":
        size = int((config or {}).get("vocab_size", 256))
        tokenizer = tiny_tokenizer(size)
        config = {**(config or {}), "vocab_size": size}
    else:
        tokenizer = load_tokenizer(pretrained)
    texts = DialogTokenizer(tokenizer, data.max_length, data.max_turns)
    backbone = load_transformer(pretrained, config=config, attention=model.attention)
    check_lengths(data, int(backbone.config.max_position_embeddings), MAX_TURNS)
    vocab = max(texts.vocab_size, int(backbone.config.vocab_size))
    encoder = DialogEncoder(backbone, vocab, int(tokenizer.cls_token_id))
    network = Space2Network(
        encoder,
        texts,
        model.dim,
        None if pretrained == "random" else pretrained,
        model.length_groups,
        model.shared,
        views,
    )
    _set_dropout(network, model)
    return network.train()


def trained_views(cfg: Config) -> tuple[str, ...]:
    """Views whose sub-spaces a run trains."""
    trains = cfg.train == "pretrain" and cfg.method.score != "combined"
    return tuple(cfg.method.views) if trains else ()


def check_lengths(data: DialogData, positions: int, num_turns: int) -> None:
    """Refuse inputs that have more positions or turns than the tables.

    Raises:
        UserError: says how many there are.
    """
    if data.max_length > positions or data.max_turns >= num_turns:
        raise UserError(
            f"data.max_length must be at most {positions} and data.max_turns at most"
            f" {num_turns - 1} with these weights"
        )


def _set_dropout(network: Space2Network, model: ModelConfig) -> None:
    if model.dropout is not None:
        network.encoder.set_dropout(model.dropout)


def save_network(
    network: Space2Network, folder: Path, settings: dict[str, Any], parts: dict[str, nn.Module]
) -> Path:
    """Export: a BERT for transformers, projection and heads alongside it."""
    description = {
        "dim": network.dim,
        "shared": network.shared,
        "views": list(network.views),
        "max_length": network.texts.max_length,
        "max_turns": network.texts.max_turns,
    }
    modules = {"projection": network.projection, "words": network.words, **parts}
    return save_dialog_encoder(
        network.encoder, network.texts.tokenizer, folder, {**description, **settings}, modules
    )


def load_network(
    folder: str | Path, data: DialogData | None = None, attention: str = "auto"
) -> Space2Network:
    """The network of an exported folder in eval mode; lengths of the folder, or those of `data`.

    Raises:
        UserError: see `load_dialog_encoder` and `check_lengths`.
    """
    encoder, tokenizer, settings, tensors = load_dialog_encoder(folder, attention)
    if data is not None:
        num_turns = len(encoder.embeddings.turn_embeddings.weight)
        check_lengths(data, len(encoder.embeddings.position_embeddings.weight), num_turns)
    lengths = (
        settings if data is None else {"max_length": data.max_length, "max_turns": data.max_turns}
    )
    texts = DialogTokenizer(tokenizer, int(lengths["max_length"]), int(lengths["max_turns"]))
    network = Space2Network(
        encoder, texts, int(settings["dim"]), shared=settings["shared"], views=settings["views"]
    )
    for name, part in (("projection", network.projection), ("words", network.words)):
        fill(part, name, tensors, folder)
    return network.eval()
