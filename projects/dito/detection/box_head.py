"""A Fast R-CNN head whose class scores are cosines with texts."""

from torch import Tensor, nn
from torch.nn import functional as F


class UnitRows(nn.Linear):
    """A linear layer without bias whose rows have norm 1; the scale of its outputs has no effect.

    Source: Wang et al. 2021, "Seesaw Loss" (normalised linear activation), arXiv 2008.10032.
    """

    def __init__(self, in_features: int, out_features: int) -> None:
        super().__init__(in_features, out_features, bias=False)

    def forward(self, input: Tensor) -> Tensor:
        """(N, in) -> (N, out)."""
        return F.linear(input, F.normalize(self.weight, dim=1))


class CosineBoxHead(nn.Module):
    """Convolutions and a linear layer on a region's crop.

    From these a vector in the space of texts, and offsets.

    Offsets are the same whatever the class is, so that names without boxes in training have them
    too.

    Source: Kuo et al. 2023, "F-VLM" (text embeddings as classifier), arXiv 2209.15639; without
    batch norm.

    Args:
        channels: of the crop.
        embed_dim: D of the texts.
        convs: 3x3 convolutions before the linear layer.
        hidden: outputs of the linear layer.
        size: side of the crop.
        unit_rows: of the layer into the space of texts, which then has no bias, as released.
    """

    def __init__(
        self,
        channels: int = 256,
        embed_dim: int = 512,
        *,
        convs: int = 4,
        hidden: int = 1024,
        size: int = 7,
        unit_rows: bool = False,
    ) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for _ in range(convs):
            layers += [nn.Conv2d(channels, channels, 3, padding=1), nn.ReLU()]
        self.trunk = nn.Sequential(
            *layers, nn.Flatten(), nn.Linear(channels * size * size, hidden), nn.ReLU()
        )
        layer_to_text = UnitRows if unit_rows else nn.Linear
        self.to_text = layer_to_text(hidden, embed_dim)
        self.to_offsets = nn.Linear(hidden, 4)
        for layer in self.trunk:
            if isinstance(layer, nn.Conv2d | nn.Linear):
                nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")
                assert layer.bias is not None
                nn.init.zeros_(layer.bias)
        nn.init.normal_(self.to_offsets.weight, std=0.001)
        nn.init.zeros_(self.to_offsets.bias)

    def embed(self, crops: Tensor) -> Tensor:
        """Crops (N, channels, size, size) -> vectors (N, D), not normalised."""
        vectors: Tensor = self.to_text(self.trunk(crops))
        return vectors

    def forward(self, crops: Tensor) -> tuple[Tensor, Tensor]:
        """Vectors (N, D), not normalised, and offsets (N, 4)."""
        states = self.trunk(crops)
        return self.to_text(states), self.to_offsets(states)
