"""Backbone, texts, pyramid and heads of DITO in one network."""

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from common.config import UserError
from common.data.text.tokenizers import ClipTokenizer
from common.encoders.heads import linear_projection
from common.encoders.image_text.text_towers import TEXT_TOWERS
from common.encoders.state_dict import read_state_dict
from common.evaluation.image_text.zeroshot import class_embeddings
from common.losses.output import unit
from common.losses.temperature import LogitScale
from projects.dito.config import ModelConfig
from projects.dito.detection.box_head import CosineBoxHead
from projects.dito.detection.localization_rpn import LocalizationRPN
from projects.dito.detection.mask_head import CROP, MaskHead
from projects.dito.detection.pyramid import SimpleFeaturePyramid
from projects.dito.detection.roi_align import multilevel_roi_align, with_image
from projects.dito.detection.windowed_vit import WindowedViT, Windows

FROM_PRETRAINING = (
    "backbone",
    "image_proj",
    "text_tower",
    "text_proj",
    "image_scale",
    "pyramid",
    "head",
    "region_scale",
    "vlm",
)
VLM_CROP = 14
SETTINGS = "dito.json"  # alongside the weights of an exported folder
TEMP_DET = 0.1  # released; of folders that do not name theirs


class DitoNetwork(nn.Module):
    """All parts; each stage trains some of them.

    Args:
        model: sizes.
        rpn_convs: convolutions of the RPN's tower.

    Attributes:
        vlm: frozen copy of backbone and projection as image-level pretraining left them; None while
            the backbone is the same. It stays through all later stages, of other runs as well, and
            is what `image_map` and `image_vectors` come from.
    """

    def __init__(self, model: ModelConfig, rpn_convs: int = 1) -> None:
        super().__init__()
        self.model = model
        self.backbone = WindowedViT(
            model.patch_size,
            model.width,
            model.depth,
            model.heads,
            position_grid=model.position_grid,
            windows_per_side=model.windows_per_side,
            global_layers=model.global_layers,
        )
        try:
            self.text_tower = TEXT_TOWERS[model.text_tower](**model.text)
        except (TypeError, ValueError) as error:
            raise UserError(f"model.text: {error}") from error
        self.tokenizer = ClipTokenizer(self.text_tower.context_length)
        self.image_proj = linear_projection(model.width, model.embed_dim)
        self.text_proj = linear_projection(self.text_tower.num_features, model.embed_dim)
        self.image_scale = LogitScale(model.logit_scale_init)
        self.pyramid = SimpleFeaturePyramid(
            model.width, model.channels, model.scales, model.patch_size
        )
        self.head = CosineBoxHead(
            model.channels,
            model.embed_dim,
            convs=model.head_convs,
            hidden=model.head_hidden,
            unit_rows=model.head_unit_rows,
        )
        self.region_scale = LogitScale(model.logit_scale_init)
        self.rpn = LocalizationRPN(model.channels, rpn_convs)
        self.log_temperature = nn.Parameter(
            torch.zeros(())
        )  # of the detector's classes, starts at 1
        self.mask_head = MaskHead(model.channels, model.head_convs) if model.masks else None
        self.vlm: FrozenVLM | None = None
        self.trained: list[str] = []  # names of finished stages
        self.base_names: list[str] = []  # classes that were trained on with boxes

    # -- image level -----------------------------------------------------------------------------

    def image_map(self, images: Tensor) -> Tensor:
        """Last map (B, W, h, w) as image-level pretraining sees it, also after later stages."""
        options = self.model
        windows: Windows = "mixed" if options.image_windows else "none"
        backbone = self.backbone if self.vlm is None else self.vlm.backbone
        grid: Tensor = backbone(
            images, shift=options.shift if options.image_shift else 0, windows=windows
        )
        return grid

    def image_vectors(self, images: Tensor) -> Tensor:
        """Global average pooling and projection, (B, D), not normalised."""
        vectors: Tensor = self.image_proj(self.image_map(images).mean((2, 3)))
        return vectors

    def text_vectors(self, tokens: Tensor) -> Tensor:
        """Ids (B, L) -> (B, D), not normalised."""
        vectors: Tensor = self.text_proj(self.text_tower(tokens))
        return vectors

    # -- regions ---------------------------------------------------------------------------------

    def detector_map(self, images: Tensor) -> Tensor:
        """Last map (B, W, h, w) as pyramid and heads see it: windows, and SWL if it is on."""
        grid: Tensor = self.backbone(images, shift=self.model.shift)
        return grid

    def crops(self, maps: Sequence[Tensor], rois: Tensor) -> Tensor:
        """Crops (N, channels, 7, 7) of regions (N, 5) in pixels."""
        size = self.model.canonical_size
        return multilevel_roi_align(maps, self.pyramid.strides, rois, canonical_size=size)

    def masks(self, maps: Sequence[Tensor], boxes: Sequence[Tensor]) -> Tensor:
        """Mask logits (N, 28, 28) of the boxes (n_i, 4) of each image, in pixels."""
        assert self.mask_head is not None, "a network without model.masks draws none"
        size = self.model.canonical_size
        crops = multilevel_roi_align(
            maps, self.pyramid.strides, with_image(boxes), CROP, canonical_size=size
        )
        logits: Tensor = self.mask_head(crops)
        return logits

    def region_vectors(self, images: Tensor, boxes: Sequence[Tensor]) -> Tensor:
        """Vectors (N, D), not normalised, of the boxes (n_i, 4) of each image, in pixels."""
        maps = self.pyramid(self.detector_map(images))
        return self.head.embed(self.crops(maps, with_image(boxes)))

    def map_vectors(self, images: Tensor, boxes: Sequence[Tensor], size: int = 7) -> Tensor:
        """The same without a head: mean of the RoIAlign crop of the image-level map, projected."""
        return pooled_regions(
            self.image_map(images), self.image_proj, boxes, self.model.patch_size, size
        )

    def vlm_vectors(self, images: Tensor, boxes: Sequence[Tensor]) -> Tensor:
        """Vectors (N, D) of the frozen branch: windows in all layers but the last, no shift."""
        branch = self.vlm or FrozenVLM(self.backbone, self.image_proj)
        with torch.no_grad():
            vectors: Tensor = branch(images, boxes)
        return vectors

    def keep_vlm(self) -> None:
        """Copy backbone and projection before a stage changes them."""
        from copy import deepcopy

        self.vlm = FrozenVLM(deepcopy(self.backbone), deepcopy(self.image_proj))
        self.vlm.requires_grad_(False)

    # -- texts -----------------------------------------------------------------------------------

    def classes(self, names: Sequence[str], templates: Sequence[str] = ("{}",)) -> Tensor:
        """Unit vectors (C + 1, D) of any names; row 0 is the background, the empty text.

        Raises:
            UserError: no names.
        """
        if not names:
            raise UserError("give at least one class name")
        device = self.log_temperature.device

        def encode(texts: list[str]) -> Tensor:
            return self.text_vectors(self.tokenizer(texts).to(device))

        with torch.no_grad():
            empty = unit(encode([""]))
            return torch.cat([empty, class_embeddings(encode, names, templates)])


class FrozenVLM(nn.Module):
    """Backbone and projection as image-level pretraining left them; scores regions at test time.

    Source: Kuo et al. 2023, "F-VLM", section 3.2, arXiv 2209.15639.
    """

    def __init__(self, backbone: nn.Module, projection: nn.Module) -> None:
        super().__init__()
        self.backbone, self.projection = backbone, projection

    def forward(self, images: Tensor, boxes: Sequence[Tensor]) -> Tensor:
        """Vectors (N, D) of the boxes of all images."""
        grid = self.backbone(images, windows="all_but_last")
        patch = int(self.backbone.patch_size)  # type: ignore[arg-type]
        return pooled_regions(grid, self.projection, boxes, patch, VLM_CROP)


def pooled_regions(
    grid: Tensor, projection: nn.Module, boxes: Sequence[Tensor], stride: int, size: int
) -> Tensor:
    """Mean of the RoIAlign crops of one map, projected."""
    crops = multilevel_roi_align([grid], [stride], with_image(boxes), size)
    vectors: Tensor = projection(crops.mean((2, 3)))
    return vectors


def settings_of(network: DitoNetwork) -> dict[str, Any]:
    """What is needed to build the network again, as plain values."""
    plain = asdict(network.model) | {"init_from": None}
    convs = sum(isinstance(layer, nn.Conv2d) for layer in network.rpn.tower)
    return {
        "model": plain,
        "rpn_convs": convs,
        "trained": network.trained,
        "vlm": network.vlm is not None,
        "base_names": network.base_names,
    }


def build_network(model: ModelConfig, rpn_convs: int = 1) -> DitoNetwork:
    """The network, with the weights of an earlier stage if the config names one.

    The detector takes over backbone, texts, pyramid and box head; its RPN starts at random.

    Raises:
        UserError: no such folder, or weights of another size.
    """
    network = DitoNetwork(model, rpn_convs)
    if model.init_from is None or torch.get_default_device().type == "meta":
        return network
    path = Path(model.init_from).expanduser() / "model.safetensors"
    load_pretraining(network, read_state_dict(path), str(path))
    return network


def load_pretraining(network: DitoNetwork, state: dict[str, Tensor], source: str) -> None:
    """Weights of an earlier stage, all but RPN, box offsets and the detector's temperature.

    A frozen VLM that the earlier stage kept is the one of this network: the backbone next to it has
    been trained since.

    Raises:
        UserError: a part is missing or has another size.
    """
    if any(name.startswith("vlm.") for name in state):
        network.keep_vlm()
    state_before = network.state_dict()
    names = [
        name
        for name in state_before
        if name.split(".")[0] in FROM_PRETRAINING and ".to_offsets." not in name
    ]
    bad = [n for n in names if n not in state or state[n].shape != state_before[n].shape]
    if bad:
        raise UserError(
            f"{source} does not hold {bad[0]} of this size ({len(bad)} tensors differ): use the"
            " model section that it was trained with"
        )
    network.load_state_dict({**state_before, **{name: state[name] for name in names}})


def read_trained(folder: str | None) -> list[str]:
    """Stages that an exported folder has been through; none without a folder.

    Raises:
        UserError: not an exported folder.
    """
    if folder is None:
        return []
    return [str(name) for name in read_settings(Path(folder).expanduser())["trained"]]


def read_settings(folder: Path) -> dict[str, Any]:
    """What an exported folder says of its network.

    Raises:
        UserError: not such a folder.
    """
    try:
        settings = json.loads((folder / SETTINGS).read_text(encoding="utf-8"))
        parts = {"model": dict(settings["model"]), "trained": list(settings["trained"])}
        return {"temp_det": TEMP_DET, "base_names": [], **settings, **parts}
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(f"{folder} is not an exported DITO model: {error!r}") from error
