"""TransFusion-L: box queries at the peaks of a heat map, refined by one decoder layer."""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from projects.trend.encoders.bev import CODE, BevGrid, Detections, decode_boxes, heat_peaks


class QueryOutput(NamedTuple):
    """What the head predicts.

    Attributes:
        heat: (B, K, H, W) logits.
        logits: (B, Q, K) class logits of the queries.
        codes: (B, Q, 10) box codes relative to the queries' cells.
        cells: (B, Q, 2) column and row of the queries.
        scores: (B, Q) heat at the queries.
    """

    heat: Tensor
    logits: Tensor
    codes: Tensor
    cells: Tensor
    scores: Tensor


class TransFusionHead(nn.Module):
    """Queries start from the features and the class at heat-map peaks and attend to the map.

    Source: Bai et al. 2022, "TransFusion: robust LiDAR-camera fusion for 3D object detection with
    transformers", sections 3.1 and 3.2 (LiDAR branch), arXiv 2203.11496.

    Args:
        in_channels: of the map.
        width: of queries and keys, a multiple of 8.
        num_classes: K.
        grid: cells of the map.
        proposals: Q.
        crowded: classes whose queries may start from neighbouring cells, see `heat_peaks`.
    """

    def __init__(
        self,
        in_channels: int,
        width: int,
        num_classes: int,
        grid: BevGrid,
        proposals: int = 200,
        crowded: Sequence[int] = (),
    ) -> None:
        super().__init__()
        self.grid, self.proposals, self.crowded = grid, proposals, crowded
        self.shared = nn.Conv2d(in_channels, width, 3, padding=1)
        self.heat = nn.Sequential(
            nn.Conv2d(width, width, 3, padding=1, bias=False),
            nn.BatchNorm2d(width),
            nn.ReLU(),
            nn.Conv2d(width, num_classes, 3, padding=1),
        )
        nn.init.constant_(self.heat[-1].bias, -2.19)  # type: ignore[arg-type]  # sigmoid 0.1
        self.of_class = nn.Linear(num_classes, width)
        self.of_place = nn.Sequential(nn.Linear(2, width), nn.ReLU(), nn.Linear(width, width))
        self.decoder = nn.TransformerDecoderLayer(
            width, 8, 2 * width, dropout=0.1, batch_first=True
        )
        self.classes = nn.Linear(width, num_classes)
        self.code = nn.Sequential(nn.Linear(width, width), nn.ReLU(), nn.Linear(width, CODE))
        nn.init.constant_(self.classes.bias, -2.19)

    def forward(self, x: Tensor) -> QueryOutput:
        """Map (B, C, H, W) -> predictions of Q queries."""
        shared = self.shared(x)
        heat = self.heat(shared)
        scores, labels, index = heat_peaks(heat.detach().sigmoid(), self.proposals, self.crowded)
        rows, columns = self.grid.shape
        size = shared.new_tensor([columns, rows])
        keys = shared.flatten(2).transpose(1, 2)
        every = torch.arange(rows * columns, device=x.device)
        place = torch.stack([every % columns, every // columns], dim=-1)
        position = self.of_place((place + 0.5) / size)
        keys = keys + position
        cells = place[index]
        one_hot = torch.nn.functional.one_hot(labels, heat.shape[1]).to(keys.dtype)
        query = keys.gather(1, index[..., None].expand(-1, -1, keys.shape[2]))
        query = self.decoder(query + self.of_class(one_hot), keys)
        return QueryOutput(heat, self.classes(query), self.code(query), cells, scores)

    def decode(
        self, out: QueryOutput, *, max_boxes: int = 60, threshold: float = 0.1
    ) -> list[Detections]:
        """Boxes; scores are geometric means of class probability and heat at the query's peak.

        Args:
            out: of `forward`.
            max_boxes: of an image, the best ones.
            threshold: scores are above it.

        Returns:
            For each of B images.
        """
        scores, labels = out.logits.sigmoid().max(-1)
        scores = (scores * out.scores).sqrt()
        boxes = decode_boxes(out.codes, out.cells, self.grid)
        detections = []
        for b, s, k in zip(boxes, scores, labels, strict=True):
            order = s.argsort(descending=True)[:max_boxes]
            order = order[s[order] > threshold]
            detections.append(Detections(b[order], s[order], k[order]))
        return detections
