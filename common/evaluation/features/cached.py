"""Features of a frozen tower, computed once per folder and tower."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save
from torch import Tensor, nn

from common.data.offline import claim
from common.encoders.state_dict import weights_digest
from common.files import write_bytes

FILE = "features.safetensors"
Rows = tuple[Tensor, Tensor]  # features (K, F) and their indices (K,)


def cached_features(
    compute: Callable[[], Rows],
    folder: str | Path | None,
    tower: nn.Module,
    about: Mapping[str, Any],
) -> Rows:
    """Features from a folder, or computed and written there.

    Args:
        compute: gives features (K, F) and indices (K,), see `frozen.source_features`.
        folder: of this set and tower; None keeps nothing.
        tower: its weights belong to the cache.
        about: what else the features depend on (data, transform), as plain values.

    Returns:
        Features (K, F) and indices (K,).

    Raises:
        UserError: the folder was made for other weights, data or settings.

    Distributed: local; ranks that compute at once write the same bytes.
    """
    if folder is None:
        return compute()
    folder = Path(folder)
    claim(folder, {**about, "tower": weights_digest(tower)}, "feature cache")
    path = folder / FILE
    if not path.is_file():
        features, kept = compute()
        write_bytes(path, save({"features": features.contiguous(), "kept": kept}))
    stored = load_file(path)
    return stored["features"], stored["kept"].to(torch.long)
