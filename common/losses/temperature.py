"""The logit scale (inverse temperature) shared by all contrastive losses."""

import math

import torch
from torch import Tensor, nn


class LogitScale(nn.Module):
    """Multiplier of the similarities: `scale = exp(log_scale) = 1 / temperature`.

    The parameter is the logarithm, so gradient steps are relative. Call `clamp_` after every
    optimizer step to keep the multiplier in `[min_scale, max_scale]`.

    Source: Radford et al. 2021, "Learning Transferable Visual Models From Natural Language
    Supervision", section 2.5 (start at 1/0.07, never above 100), arXiv 2103.00020.

    Args:
        init: first multiplier, > 0 (1/0.07 is temperature 0.07; 20 is temperature 0.05).
        max_scale: upper bound of `clamp_`, or None for none.
        min_scale: lower bound of `clamp_`, > 0; CLIP trainers keep the logarithm >= 0, hence 1.
        learnable: False freezes the parameter, which stays in the state dict.

    Raises:
        ValueError: `init` is not positive and finite, or outside `[min_scale, max_scale]`.

    >>> float(LogitScale(init=20.0)().round(decimals=4))
    20.0
    """

    def __init__(
        self,
        init: float = 1 / 0.07,
        max_scale: float | None = 100.0,
        learnable: bool = True,
        *,
        min_scale: float = 1.0,
    ) -> None:
        super().__init__()
        upper = math.inf if max_scale is None else max_scale
        if not 0 < min_scale <= init <= upper or not math.isfinite(init):
            raise ValueError(
                f"LogitScale needs 0 < min_scale <= init <= max_scale; got min_scale={min_scale}, "
                f"init={init}, max_scale={max_scale}. `init` is the multiplier 1/temperature."
            )
        self.min_scale = min_scale
        self.max_scale = max_scale
        self.log_scale = nn.Parameter(torch.tensor(math.log(init)), requires_grad=learnable)

    def forward(self) -> Tensor:
        """The multiplier as a 0-dim tensor that carries the gradient."""
        return self.log_scale.exp()

    @torch.no_grad()
    def clamp_(self) -> None:
        """Clamp the parameter to its bounds, in place."""
        upper = None if self.max_scale is None else math.log(self.max_scale)
        self.log_scale.clamp_(min=math.log(self.min_scale), max=upper)

    def extra_repr(self) -> str:
        """Bounds, for printing."""
        return f"min_scale={self.min_scale}, max_scale={self.max_scale}"


class Temperature(nn.Module):
    """Divisor of the similarities, learnt directly (not as a logarithm) and kept within bounds.

    Source: Zeng et al. 2022, "X-VLM" and its descendants (start at 0.07, within [0.001, 0.5]),
    arXiv 2111.08276.

    Args:
        init: first value, > 0.
        low: smallest value, > 0.
        high: largest value.

    Raises:
        ValueError: not 0 < low <= init <= high.

    >>> float(Temperature(0.25)().detach())
    0.25
    """

    def __init__(self, init: float = 0.07, low: float = 0.001, high: float = 0.5) -> None:
        super().__init__()
        if not 0 < low <= init <= high:
            raise ValueError(
                f"Temperature needs 0 < low <= init <= high; got {low}, {init}, {high}"
            )
        self.low, self.high = low, high
        self.temperature = nn.Parameter(torch.tensor(float(init)))

    def forward(self) -> Tensor:
        """Clamp the parameter and return it as a 0-dim tensor with gradient; call once a step."""
        with torch.no_grad():
            self.temperature.clamp_(self.low, self.high)
        return self.temperature

    def extra_repr(self) -> str:
        """Bounds, for printing."""
        return f"low={self.low}, high={self.high}"
