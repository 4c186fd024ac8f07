"""An encoder that is one table, for golden values of losses on top of encoders."""

from torch import Tensor, nn

from tests.unit.losses.golden import fill


class Table(nn.Module):
    """Masked mean of rows of a golden table."""

    def __init__(self, rows: int, dim: int, phase: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(fill((rows, dim), phase).detach())

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        keep = attention_mask[..., None].to(self.weight)
        return (self.weight[input_ids] * keep).sum(1) / keep.sum(1)


class TableEncoder(nn.Module):
    """What the modules of retrieval projects need of an encoder, around `Table`.

    Args:
        rows: of the table.
        dim: of the vectors.
        phase: of the golden values.
    """

    def __init__(self, rows: int, dim: int = 6, phase: float = 0.3) -> None:
        super().__init__()
        self.tower, self.num_features = Table(rows, dim, phase), dim

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        actual: Tensor = self.tower(input_ids, attention_mask)
        return actual
