"""What answers a composed query: an image tower, a projection phi and a text tower.

# B batch, P joint space (of images and texts), F width of the text tower
"""

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from common.config import UserError
from common.encoders.image_text.dual import build_dual_encoder
from common.encoders.image_text.open_clip_dual import OpenClipDualEncoder
from common.encoders.state_dict import load_state, read_state_dict
from projects.rtd.config import ClipConfig, HostConfig
from projects.rtd.inversion import PhiKind, build_phi, phi_state
from projects.rtd.pseudo_tokens import (
    ClipText,
    encode_text,
    placeholder_id,
    without_placeholder,
)

PHI_ENTRIES = ("Phi", "state_dict_img2text")  # of the checkpoints of LinCIR and SEARLE, of Pic2Word


class Composer(nn.Module):
    """CLIP, phi, and the text tower that queries pass through.

    Args:
        encoder: CLIP; both its towers are frozen, its text tower is the anchor.
        phi: (B, P) -> (B, F).
        template: of a composed query, with ``$`` and ``{}``.
        l2_normalize: unit vectors before phi.

    Attributes:
        student: text tower of queries, equal to the anchor at first.
        has_anchor: whether CLIP's own text tower is still there; an export has the student's in its
            place.
    """

    def __init__(
        self,
        encoder: OpenClipDualEncoder,
        phi: nn.Module,
        template: str = "a photo of $ that {}",
        *,
        l2_normalize: bool = False,
    ) -> None:
        super().__init__()
        self.encoder, self.phi = encoder.requires_grad_(False), phi
        self.student = ClipText(encoder.model)
        self.template, self.l2_normalize, self.has_anchor = template, l2_normalize, True
        tokenizer = encoder.tokenizer
        assert tokenizer is not None
        self.placeholder = placeholder_id(tokenizer)
        with torch.device("cpu"):
            needed = tokenizer([template.format("x")])[0]
        if not bool((needed == self.placeholder).any()):
            raise UserError(f"the tokenizer cuts '{template}' before its $: take a longer context")

    @property
    def device(self) -> torch.device:
        """Of the text tower."""
        return self.student.positional_embedding.device  # type: ignore[return-value]

    def freeze(self, *, phi: bool, student: bool) -> None:
        """Say what learns; what does not is in evaluation mode. CLIP itself never learns."""
        for part, learns in ((self.encoder, False), (self.phi, phi), (self.student, student)):
            part.requires_grad_(learns).train(learns)

    def tokens(self, texts: Sequence[str]) -> Tensor:
        """Ids (B, L) on the text tower's device."""
        assert self.encoder.tokenizer is not None
        return self.encoder.tokenizer(list(texts)).to(self.device)

    def pseudo_words(self, embeddings: Tensor) -> Tensor:
        """Phi of image or text embeddings, (B, P) not normalised -> (B, F)."""
        inputs = F.normalize(embeddings, dim=1) if self.l2_normalize else embeddings
        words: Tensor = self.phi(inputs)
        return words

    def anchor(self, ids: Tensor, pseudo: Tensor | None = None) -> Tensor:
        """Embeddings (B, P) of CLIP's own text tower."""
        return encode_text(self.encoder.model, ids, pseudo, self.placeholder)

    def query(self, ids: Tensor, pseudo: Tensor | None = None) -> Tensor:
        """Embeddings (B, P) of the text tower that learns."""
        embeddings: Tensor = self.student(ids, pseudo, self.placeholder)
        return embeddings

    def compose(
        self,
        images: Tensor,
        texts: Sequence[str],
        *,
        anchor: bool = False,
        template: str | None = None,
    ) -> Tensor:
        """Composed embeddings of references and what to change.

        Args:
            images: (B, P) image embeddings of the references, not normalised.
            texts: conditions, which continue after "a photo of $ that".
            anchor: with CLIP's own text tower: the host alone.
            template: another sentence, such as one without condition.

        Returns:
            (B, P), not normalised.
        """
        sentence = template or self.template
        ids = self.tokens([sentence.format(without_placeholder(text)) for text in texts])
        pseudo = self.pseudo_words(images.to(self.device))
        return (self.anchor if anchor else self.query)(ids, pseudo)


def build_clip(model: ClipConfig, image_size: int) -> OpenClipDualEncoder:
    """The open_clip model of a config, in evaluation mode.

    Raises:
        UserError: weights that are missing or don't fit, or another image size.
    """
    encoder = build_dual_encoder(open_clip=model.open_clip, pretrained=model.pretrained)
    assert isinstance(encoder, OpenClipDualEncoder)
    if encoder.image_size != image_size:
        raise UserError(
            f"data.image_size={image_size}, but the model takes images of {encoder.image_size}"
            " pixels: make them equal"
        )
    return encoder.eval()


def prepare_as_trained(encoder: OpenClipDualEncoder, pretrained: str) -> None:
    """Read pictures as the weights of an ``open_clip:<model>/<tag>`` do, which need not be here."""
    from open_clip.pretrained import get_pretrained_cfg

    name, _, tag = pretrained.removeprefix("open_clip:").partition("/")
    preprocessing = get_pretrained_cfg(name, tag)
    encoder.image_mean = tuple(preprocessing.get("mean") or encoder.image_mean)
    encoder.image_std = tuple(preprocessing.get("std") or encoder.image_std)
    encoder.interpolation = preprocessing.get("interpolation") or encoder.interpolation
    encoder.resize_mode = preprocessing.get("resize_mode") or encoder.resize_mode


def new_phi(options: HostConfig, encoder: OpenClipDualEncoder, width: int) -> nn.Module:
    """Phi of the config's host, with the weights of a checkpoint if one is named."""
    kind: PhiKind = "relu" if options.host == "pic2word" else "gelu"
    phi = build_phi(
        kind, encoder.embed_dim, width, hidden_dim=options.hidden_dim, dropout=options.dropout
    )
    if options.weights is not None:
        load_phi(phi, kind, Path(options.weights))
    return phi


def load_phi(phi: nn.Module, kind: PhiKind, path: Path) -> None:
    """Load a checkpoint of phi: ours, or one that LinCIR, SEARLE or Pic2Word released.

    Raises:
        UserError: no such file, another kind of phi, or other sizes.
    """
    stored, state = phi_state(read_state_dict(path, entries=PHI_ENTRIES))
    if not state or stored != kind:
        hosts = {"gelu": "lincir or searle", "relu": "pic2word"}
        raise UserError(f"{path} has no phi of this host; set phi.host={hosts[stored]}")
    load_state(phi, state, source=str(path))


def build_composer(
    model: ClipConfig,
    host: HostConfig,
    image_size: int,
    template: str,
    *,
    l2_normalize: bool = False,
) -> Composer:
    """CLIP of a config with a phi of its host."""
    encoder = build_clip(model, image_size)
    width = int(encoder.model.ln_final.weight.shape[0])
    composer = Composer(encoder, new_phi(host, encoder, width), template, l2_normalize=l2_normalize)
    if model.activation_checkpointing:
        composer.student.transformer.grad_checkpointing = True  # type: ignore[union-attr]
    return composer
