"""Recurrent embedding: the volume of the next frame from this one and the ego action."""

import torch
from torch import Tensor, nn

from projects.trend.encoders.flat_conv import constant_conv3d, flat_conv3d
from projects.trend.encoders.sinusoidal import sinusoidal
from projects.trend.encoders.voxel_backbone import Norm, norm_3d


def embed_action(actions: Tensor, dim: int = 32) -> Tensor:
    """Parameter-free embedding: sinusoids of the translation, sine and cosine of the yaw.

    Source: Chen et al. 2025, "TREND", section 3.2 (f_tl and f_rot), arXiv 2412.03054.

    Args:
        actions: (..., 3) dx, dy in metres and dyaw in radians.
        dim: d_sin, dim / 2 values for each of dx and dy.

    Returns:
        (..., dim + 2).
    """
    shift = sinusoidal(actions[..., :2], dim // 2).flatten(-2)  # f_tl
    yaw = actions[..., 2:]
    return torch.cat([shift, yaw.sin(), yaw.cos()], dim=-1)


def conditioned(actions: Tensor, kind: str) -> Tensor:
    """Actions (B, L, 3) as an arm trains with them: true, zero, or those of the sample before."""
    if kind == "zero":
        return torch.zeros_like(actions)
    return actions.roll(1, dims=0) if kind == "shuffled" else actions


class RecurrentEmbedding(nn.Module):
    """P_{n+1} = f_3D([P_n, f_act(A_{n -> n+1})]); the weights are the same at every step.

    The volume stays in the frame of t_0, the action only conditions. Its code is constant in space:
    the first convolution is applied to volume and code apart, which gives the same sum.

    Source: Chen et al. 2025, "TREND", section 3.2, arXiv 2412.03054.

    Args:
        channels: d-hat of the volume.
        time_dim: d_sin.
        hidden_dim: of the action MLP.
        action_dim: d_act.
        norm: between the two convolutions.
        residual: add the input volume (not in the paper).
    """

    def __init__(
        self,
        channels: int,
        *,
        time_dim: int = 32,
        hidden_dim: int = 32,
        action_dim: int = 16,
        norm: Norm = "group",
        residual: bool = False,
    ) -> None:
        super().__init__()
        self.time_dim, self.residual = time_dim, residual
        self.action = nn.Sequential(
            nn.Linear(time_dim + 2, hidden_dim), nn.ReLU(), nn.Linear(hidden_dim, action_dim)
        )
        self.volume = nn.Sequential(
            nn.Conv3d(channels + action_dim, channels, 3, padding=1, bias=False),
            norm_3d(channels, norm),
            nn.ReLU(inplace=True),
            nn.Conv3d(channels, channels, 3, padding=1),
        )

    def step(self, volume: Tensor, action: Tensor) -> Tensor:
        """One frame on: volume (B, C, D, H, W), action (B, 3)."""
        code = self.action(embed_action(action, self.time_dim).to(volume.dtype))
        first, norm, act, second = self.volume
        assert isinstance(first, nn.Conv3d)
        assert isinstance(second, nn.Conv3d)
        assert second.bias is not None
        kernel, channels = first.weight, volume.shape[1]
        after = flat_conv3d(volume, kernel[:, :channels])
        after = after + constant_conv3d(code, kernel[:, channels:], volume.shape[2:])
        after = flat_conv3d(act(norm(after)), second.weight) + second.bias[:, None, None, None]
        return volume + after if self.residual else after

    def forward(self, volume: Tensor, actions: Tensor, steps: Tensor) -> Tensor:
        """Volumes of different frames; a sample is only carried as far as it needs.

        Args:
            volume: (B, C, D, H, W) at t_0.
            actions: (B, L, 3); those beyond a sample's steps are not read.
            steps: (B,) int64, frames ahead, at most L; 0 returns the volume itself.
        """
        out, rows, current = volume, torch.arange(len(volume), device=volume.device), volume
        for n in range(int(steps.max()) if len(steps) else 0):
            going = steps[rows] > n
            rows, current = rows[going], current[going]
            current = self.step(current, actions[rows, n])
            out = out.index_copy(0, rows, current.to(out.dtype))
        return out
