"""Momentum (key, target) encoder: a slowly following copy of the trained encoder."""

import copy
from typing import Any

import torch
from torch import Tensor, nn

from common.config import UserError


class MomentumEncoder(nn.Module):
    """Exponential moving average of an encoder's parameters; never receives a gradient.

        theta_k <- m * theta_k + (1 - m) * theta_q

    Buffers (batch-norm statistics) are the copy's own, from its own forward passes, as in MoCo.
    Source: He et al. 2020 (MoCo), equation 2, arXiv 1911.05722.

    Args:
        encoder: copied as it is now; also the structure that `update` expects.
        momentum: m in [0, 1]; 0 copies the encoder at every update.

    Raises:
        ValueError: `momentum` out of range.

    >>> encoder = nn.Linear(1, 1, bias=False)
    >>> average = MomentumEncoder(encoder, momentum=0.75)
    >>> _ = encoder.weight.data.fill_(4.0), average.network.weight.data.fill_(0.0)
    >>> average.update(encoder)
    >>> float(average.network.weight)
    1.0
    """

    def __init__(self, encoder: nn.Module, momentum: float = 0.999) -> None:
        super().__init__()
        if not 0 <= momentum <= 1:
            raise ValueError(f"momentum must lie in [0, 1], got {momentum}")
        self.network = copy.deepcopy(encoder).requires_grad_(False)
        self.momentum = momentum

    def compile(self, *args: Any, **kwargs: Any) -> None:
        """Compile the copy, which some callers call by itself."""
        self.network.compile(*args, **kwargs)

    @torch.no_grad()
    def forward(self, *inputs: Any) -> Tensor:
        """Output of the averaged encoder, without gradient."""
        output: Tensor = self.network(*inputs)
        return output

    @torch.no_grad()
    def update(self, encoder: nn.Module) -> None:
        """One step towards the encoder; call it after each optimiser step.

        Raises:
            ValueError: the encoder has other parameters than the one that was copied.
            UserError: trained parameters of half precision, which round the small steps of an
                average away, so that it would stand still.
        """
        copied, source = dict(self.network.named_parameters()), dict(encoder.named_parameters())
        if copied.keys() != source.keys():
            raise ValueError(
                f"the encoder's parameters differ: {sorted(copied.keys() ^ source.keys())}"
            )
        for name, parameter in copied.items():
            moves = source[name].requires_grad and 0 < self.momentum < 1
            if moves and parameter.dtype in (torch.float16, torch.bfloat16):
                raise UserError(
                    f"a momentum encoder does not move with parameters in {parameter.dtype}: set "
                    "trainer.precision=bf16-mixed"
                )
            parameter.lerp_(source[name].detach().to(parameter.dtype), 1 - self.momentum)
