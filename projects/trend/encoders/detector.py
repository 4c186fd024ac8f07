"""LiDAR detectors: 3-D encoder, neck, 2-D backbone, and a centre or TransFusion head."""

from typing import Any

import torch
from torch import Tensor, nn

from projects.trend.encoders.bev import BevBackbone, BevNeck, CenterHead, Detections, bev_grid
from projects.trend.encoders.options import DetectorOptions
from projects.trend.encoders.transfusion_head import TransFusionHead
from projects.trend.encoders.voxel_backbone import build_voxel_encoder

CODE_WEIGHTS = (1, 1, 1, 1, 1, 1, 1, 1, 0.2, 0.2)  # of the box code's entries, as OpenPCDet


class Detector(nn.Module):
    """Points -> boxes.

    Source: Yin, Zhou & Krahenbuhl 2021, "Center-based 3D object detection and tracking", section 4,
    arXiv 2006.11275; Bai et al. 2022, "TransFusion", section 3, arXiv 2203.11496 (LiDAR branch).

    Args:
        encoder: options of `build_voxel_encoder`.
        options: head, widths, classes, and what of the boxes is kept.
    """

    code_weights: Tensor

    def __init__(self, encoder: dict[str, Any], options: DetectorOptions) -> None:
        super().__init__()
        self.max_boxes, self.threshold = options.max_boxes, options.score_threshold
        self.encoder = build_voxel_encoder(**encoder)
        depth, rows, columns = self.encoder.volume_shape
        self.neck = BevNeck(self.encoder.channels, depth)
        self.backbone = BevBackbone(self.neck.out_channels, options.bev_width, options.bev_layers)
        grid = bev_grid(self.encoder.grid, (rows, columns))
        size = self.backbone.out_channels, options.head_width, len(options.classes)
        crowded = [options.classes.index(name) for name in options.crowded]
        self.head: Any = (
            CenterHead(*size, grid)
            if options.detector == "center"
            else TransFusionHead(*size, grid, options.proposals, crowded)
        )
        for layer in (*self.neck.modules(), *self.backbone.modules(), *self.head.modules()):
            if isinstance(layer, nn.modules.batchnorm._BatchNorm):
                layer.momentum = options.norm_momentum
        weights = torch.tensor(CODE_WEIGHTS, dtype=torch.float32)
        self.register_buffer("code_weights", weights, persistent=False)

    def forward(self, points: Tensor, owner: Tensor, batch_size: int) -> Any:
        """Points (N, 3 + d) of `batch_size` frames, their frames (N,) -> the head's predictions."""
        return self.head(self.backbone(self.neck(self.encoder(points, owner, batch_size))))

    def detect(self, points: Tensor, owner: Tensor, batch_size: int) -> list[Detections]:
        """Boxes of each frame."""
        out = self(points, owner, batch_size)
        parts = out if isinstance(self.head, CenterHead) else (out,)
        detections: list[Detections] = self.head.decode(
            *parts, max_boxes=self.max_boxes, threshold=self.threshold
        )
        return detections
