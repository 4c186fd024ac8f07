"""The network that is trained: a small encoder with a projection head."""

from collections.abc import Sequence

from common.encoders.heads import MLPHead, ProjectedEncoder
from common.encoders.image.towers import ConvNet


def build_network(widths: Sequence[int], out_dim: int) -> ProjectedEncoder:
    """Images (B, 3, H, W) -> embeddings (B, out_dim); its arguments are exported with it.

    Args:
        widths: channels of each stage of the encoder.
        out_dim: D.
    """
    encoder = ConvNet(widths)
    return ProjectedEncoder(encoder, MLPHead(encoder.num_features, [widths[-1]], out_dim))
