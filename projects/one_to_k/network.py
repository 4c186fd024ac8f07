"""Towers, projections and matching head, and how they are built from plain options."""

from collections.abc import Callable, Mapping
from typing import Any

from torch import Tensor, nn

from common.encoders.heads import linear_projection
from common.encoders.image.grid import grid_tower
from common.losses.output import unit
from projects.one_to_k.config import Config
from projects.one_to_k.ngram_bag import NgramBag
from projects.one_to_k.split_fusion import SplitFusionEncoder, split_fusion_encoder

TextEncoder = NgramBag | SplitFusionEncoder


class TextAsImage(nn.Module):
    """A text tower in the place of the image tower, for captions without pictures."""

    def __init__(self, text: NgramBag) -> None:
        super().__init__()
        self.text, self.width = text, text.width

    def forward(self, ids: Tensor) -> Tensor:
        """Ids (B, L) -> one token (B, 1, W)."""
        states: Tensor = self.text.text(ids)[0]
        return states


class CrossLingualNetwork(nn.Module):
    """Image tokens, text states, their joint space, and the fusion of both.

    Attributes:
        options: what `build_network` makes an equal network from, without pretrained weights.

    Args:
        image_encoder: images -> tokens (B, S, W), the mean first.
        text_encoder: its `text` gives states of text alone.
        embed_dim: D.
        options: see above.
        fusion: whether there is a matching head.
        projection_bias: plain linear layers instead of `linear_projection`.
    """

    def __init__(
        self,
        image_encoder: Any,
        text_encoder: TextEncoder,
        embed_dim: int,
        options: dict[str, Any],
        fusion: bool,
        projection_bias: bool = False,
    ) -> None:
        super().__init__()
        self.image_encoder, self.text_encoder = image_encoder, text_encoder
        projection: Callable[[int, int], nn.Linear]
        projection = nn.Linear if projection_bias else linear_projection
        self.image_projection = projection(image_encoder.width, embed_dim)
        self.text_projection = projection(text_encoder.width, embed_dim)
        self.matching = matching_head(text_encoder.width) if fusion else None
        self.options = options

    def image_embeddings(self, tokens: Tensor) -> Tensor:
        """Unit vectors (B, D) of the mean tokens."""
        return unit(self.image_projection(tokens[:, 0]))

    def text_embeddings(self, states: Tensor) -> Tensor:
        """Unit vectors (N, D) of the first states."""
        return unit(self.text_projection(states[:, 0]))

    def fuse(self, states: Tensor, mask: Tensor, tokens: Tensor) -> Tensor:
        """States (N, L, W) of text that has seen the image tokens (N, S, W) of its row."""
        assert isinstance(self.text_encoder, SplitFusionEncoder)
        return self.text_encoder.fuse(states, mask, tokens)

    def match(self, states: Tensor, mask: Tensor, tokens: Tensor) -> Tensor:
        """Logits (N, 2): index 1 says that text and image of a row belong together."""
        assert self.matching is not None
        logits: Tensor = self.matching(self.fuse(states, mask, tokens)[:, 0])
        return logits


def network_options(cfg: Config) -> dict[str, Any]:
    """Options of `build_network` that a config describes."""
    model = cfg.model
    if model.text == "ngrams":
        text: dict[str, Any] = {"kind": "ngrams", "num_buckets": model.ngram_buckets}
        text |= {"embedding_dim": model.ngram_dim, "width": model.ngram_width}
    else:
        text = {"kind": "transformer", "pretrained": model.text_pretrained, "split": model.split}
        text |= {"config": model.text_config or None, "keep": model.keep_layers}
    image: dict[str, Any] = {"name": model.image, "pretrained": model.image_pretrained}
    image |= {"image_size": cfg.data.image_size, "widths": list(model.image_widths)}
    if cfg.data.source == "captions":
        image = dict(text)
    return {
        "image": image,
        "text": text,
        "embed_dim": model.embed_dim,
        "fusion": cfg.method.fusion,
        "projection_bias": model.projection_bias,
    }


def build_network(
    image: Mapping[str, Any],
    text: Mapping[str, Any],
    embed_dim: int,
    fusion: bool,
    projection_bias: bool = False,
) -> CrossLingualNetwork:
    """Build a network from `network_options` or from the options of an export.

    Older exports have no `projection_bias`: their projections are without.

    Raises:
        UserError: unknown or absent weights, wrong architecture.
    """
    if "kind" in image:
        image_encoder: Any = TextAsImage(_ngrams(image))
    else:
        sizes = {"image_size": image["image_size"], "widths": tuple(image["widths"])}
        image_encoder = grid_tower(image["name"], image["pretrained"], **sizes)
        if image.get("window") is not None:
            image_encoder.resize(image["resized"], image["window"])
    text_encoder: TextEncoder
    if text["kind"] == "ngrams":
        text_encoder = _ngrams(text)
        stored = dict(text)
    else:
        text_encoder = split_fusion_encoder(
            text["pretrained"],
            split=text["split"],
            config=text["config"],
            keep=text["keep"],
            context_dim=image_encoder.width if fusion else None,
        )
        stored = {**text, "pretrained": "random", "keep": None}
        stored["config"] = text_encoder.config.to_dict()
    options = {
        "image": {**image, "pretrained": "random"} if "kind" not in image else dict(image),
        "text": stored,
        "embed_dim": embed_dim,
        "fusion": fusion,
        "projection_bias": projection_bias,
    }
    return CrossLingualNetwork(
        image_encoder, text_encoder, embed_dim, options, fusion, projection_bias
    )


def resize_images(network: CrossLingualNetwork, image_size: int, window: int) -> None:
    """Take images of another size (Swin); tables of relative positions are interpolated."""
    network.image_encoder.resize(image_size, window)
    network.options["image"] |= {"resized": image_size, "window": window}


def _ngrams(options: Mapping[str, Any]) -> NgramBag:
    return NgramBag(options["num_buckets"], options["embedding_dim"], options["width"])


def matching_head(width: int) -> nn.Sequential:
    """Logits (N, 2) of "does not match" and "matches" from the first state of a fused pair.

    Source: Zeng et al. 2022, "X-VLM", released head, arXiv 2111.08276.

    Args:
        width: of the states.
    """
    return nn.Sequential(
        nn.Linear(width, 2 * width), nn.LayerNorm(2 * width), nn.GELU(), nn.Linear(2 * width, 2)
    )
