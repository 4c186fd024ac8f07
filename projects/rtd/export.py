"""An exported folder: open_clip's format with the trained text tower, and phi."""

import json
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from common.config import UserError
from common.encoders.image_text.open_clip_dual import OpenClipDualEncoder
from common.encoders.state_dict import load_state, read_state_dict
from common.export.files import write_json, write_tensors
from common.export.open_clip import save_open_clip
from projects.rtd.composer import Composer
from projects.rtd.config import Config
from projects.rtd.inversion import GeluPhi, ReluPhi, build_phi
from projects.rtd.module import RTD, ComposedModule

PHI_WEIGHTS, PHI_CONFIG = "phi.safetensors", "phi.json"
PROBES = ["has dark skin tone", "is red"]


def export(cfg: Config, module: ComposedModule, folder: Path) -> None:
    """Write the folder.

    It opens in open_clip under ``local-dir:<folder>``: its image tower is CLIP's own, so an index
    of pictures that exists stays as it is.
    """
    composer = module.composer
    encoder = composer.encoder
    clip_state = {k: v.clone() for k, v in encoder.model.state_dict().items()}
    composer.student.write_to(encoder.model)
    try:
        save_open_clip(
            encoder,
            folder,
            log_scale=encoder.log_scale,
            mean=encoder.image_mean,
            std=encoder.image_std,
            interpolation=encoder.interpolation,
            resize_mode=encoder.resize_mode,
        )
    finally:
        encoder.model.load_state_dict(clip_state)
    phi = composer.phi
    hidden = phi.layers[0].out_features if isinstance(phi, GeluPhi) else phi.fc_out.in_features  # type: ignore[union-attr]
    write_tensors(folder / PHI_WEIGHTS, {k: v.detach().cpu() for k, v in phi.state_dict().items()})
    write_json(
        folder / PHI_CONFIG,
        {
            "kind": "relu" if isinstance(phi, ReluPhi) else "gelu",
            "hidden_dim": hidden,
            "template": composer.template,
            "l2_normalize": composer.l2_normalize,
        },
    )


def load_composer(folder: Path) -> Composer:
    """The composer of an exported folder, in evaluation mode.

    Raises:
        UserError: not such a folder.
    """
    encoder = OpenClipDualEncoder.from_folder(folder).eval()
    try:
        options: dict[str, Any] = json.loads((folder / PHI_CONFIG).read_text(encoding="utf-8"))
        width = int(encoder.model.ln_final.weight.shape[0])
        phi = build_phi(options["kind"], encoder.embed_dim, width, hidden_dim=options["hidden_dim"])
        composer = Composer(encoder, phi, options["template"], l2_normalize=options["l2_normalize"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(
            f"{folder} is not an export of this project (make export PROJECT=rtd): {error}"
        ) from error
    load_state(phi, read_state_dict(folder / PHI_WEIGHTS), source=str(folder / PHI_WEIGHTS))
    composer.freeze(phi=False, student=False)
    return composer


def load_export(cfg: Config, folder: Path) -> ComposedModule:
    """A module around an exported folder; CLIP's own text tower is not in it."""
    module: ComposedModule = RTD(cfg, load_composer(folder))
    module.composer.has_anchor = False
    return module


def embed(cfg: Config, module: ComposedModule) -> dict[str, Tensor]:
    """Images, texts and composed queries of a small fixed input."""
    composer, size = module.composer, module.composer.encoder.image_size
    pixels = torch.linspace(-2, 2, 2 * 3 * size * size).sin().reshape(2, 3, size, size)
    image = composer.encoder.encode_image(pixels.to(composer.device)).float()
    return {
        "image": image.cpu(),
        "text": composer.query(composer.tokens(PROBES)).float().cpu(),
        "composed": composer.compose(image, PROBES).float().cpu(),
    }
