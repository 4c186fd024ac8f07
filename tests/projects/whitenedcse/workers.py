"""Inputs, and what the two processes of the tests run; importable by name in little time."""

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from common.distributed import process
from common.families.sentences.config import SentenceLoss
from projects.whitenedcse.config import SgwConfig
from projects.whitenedcse.objective import Objective, WhitenedHead
from projects.whitenedcse.whitening import Whitening


def method(temperature: float = 0.05, **options: object) -> SentenceLoss:
    """A method section."""
    return SentenceLoss(temperature=temperature, **options)  # type: ignore[arg-type]


def sgw(groups: int = 2, **options: object) -> SgwConfig:
    """A whitening section without ridge."""
    return SgwConfig(groups=groups, **{"ridge": 0.0, **options})  # type: ignore[arg-type]


def features(rows: int = 32, dim: int = 8, views: int = 3, seed: int = 0) -> Tensor:
    """Correlated, anisotropic features (views, rows, dim), float64; views of a row are alike."""
    generator = torch.Generator().manual_seed(seed)
    mixing = torch.randn(dim, dim, generator=generator, dtype=torch.float64)
    base = torch.randn(rows, dim, generator=generator, dtype=torch.float64) @ mixing
    noise = torch.randn(views, rows, dim, generator=generator, dtype=torch.float64)
    return base + 0.3 * noise + 4


class Loss(nn.Module):
    """Linear encoder, head and objective: what DDP wraps."""

    def __init__(self, position: str, sync: bool, detach: bool) -> None:
        super().__init__()
        options = {"position": position, "sync": sync, "detach_whitening": detach}
        self.encoder = nn.Linear(8, 8)
        self.head = WhitenedHead(8, sgw(4, **options), init_std=0.5)
        self.objective = Objective(method())

    def forward(self, x: Tensor) -> Tensor:
        loss: Tensor = self.objective(self.head(self.encoder(x)))[0]
        return loss


def three_steps(
    position: str, sync: bool, detach: bool, distributed: bool
) -> tuple[list[float], dict[str, Tensor]]:
    """Losses of three SGD steps of 32 sentences and the weights; each of two ranks holds 16."""
    torch.manual_seed(0)
    model = Loss(position, sync, detach).double()
    wrapped = DistributedDataParallel(model) if distributed else model
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
    own = slice(16 * process.rank(), 16 * process.rank() + 16) if distributed else slice(None)
    losses = []
    for step in range(3):
        # the permutations of rank 0 are those of the single process
        torch.manual_seed(10 * step + (process.rank() if distributed else 0))
        optimizer.zero_grad()
        loss = wrapped(features(seed=step)[:, own])
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    return losses, {name: value.clone() for name, value in model.state_dict().items()}


def correlated(rows: int = 64, dim: int = 8, blocks: int = 2, seed: int = 0) -> Tensor:
    """Blocks of channels that are correlated, of unequal variance and far from zero, float64."""
    generator = torch.Generator().manual_seed(seed)
    mixing = torch.randn(dim, dim, generator=generator, dtype=torch.float64)
    noise = torch.randn(blocks, rows, dim, generator=generator, dtype=torch.float64)
    return noise @ mixing * torch.linspace(0.1, 3, dim, dtype=torch.float64) + 5


def synchronised(sync: bool) -> tuple[Tensor, Tensor]:
    """Output and input gradient of this rank's half of every block."""
    x = correlated()[:, 32 * process.rank() : 32 * process.rank() + 32].clone().requires_grad_()
    torch.manual_seed(process.rank())  # rank 0's permutation must win
    y = Whitening(8, 2, shuffle=True, detach=False, sync=sync)(x)
    y.sin().sum().backward()
    return y.detach(), x.grad
