"""Two ranks of the official LaCLIP loss, recorded from its code: own rows, gather with gradient."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from common.distributed import process
from common.losses.image_text import ClipLoss

GOLDEN = Path(__file__).parents[1] / "golden" / "laclip.json"
RECORDS = json.loads(GOLDEN.read_text())["outputs"]["clip_loss"]["world_size_2"]
PAIRS = list(zip(RECORDS[::2], RECORDS[1::2], strict=True))


def clip_worker(rows: int, dim: int, scale: float, backend: str) -> dict[str, Any]:
    """Loss of the own rows and the gradients before any averaging, as the file records them."""
    grid = torch.arange(2 * rows * dim, dtype=torch.float64).view(2 * rows, dim)
    own = slice(process.rank() * rows, (process.rank() + 1) * rows)
    image, text = (torch.sin(start + grid)[own].clone().requires_grad_() for start in (1, 2))
    multiplier = torch.tensor(scale, dtype=torch.float64, requires_grad=True)
    out = ClipLoss(backend=backend)(image, text, multiplier)
    out.loss.backward()
    return {
        "loss": out.loss.detach(),
        "grad_norm_image": image.grad.norm(),
        "grad_norm_text": text.grad.norm(),
        "grad_image_first5": image.grad.flatten()[:5],
        "grad_logit_scale": multiplier.grad,
        "clip_acc": 100 * out.hits.double().mean(),
    }


@pytest.mark.parametrize("backend", ["auto", "blocked"])
@pytest.mark.parametrize("pair", PAIRS, ids=lambda pair: f"N{pair[0]['local_N']}")
def test_official_values_of_two_ranks(pool, pair, backend):
    first = pair[0]
    results = pool(2).run(
        clip_worker,
        rows=first["local_N"],
        dim=first["d"],
        scale=first["logit_scale"],
        backend=backend,
    )
    for recorded, actual in zip(pair, results, strict=True):
        assert recorded["rank"] in (0, 1)
        for name, value in actual.items():
            if name == "grad_logit_scale":
                continue
            truth = torch.tensor(recorded[name], dtype=torch.float64)
            torch.testing.assert_close(value, truth, rtol=1e-9, atol=1e-12)
    # The official loss splits d scale into own rows and own columns, ours into own rows of the one
    # matrix: the shares of a rank differ, what DDP makes of them does not.
    shares = [
        mean([record["grad_logit_scale"] for record in pair]),
        mean([float(actual["grad_logit_scale"]) for actual in results]),
    ]
    assert shares[0] == pytest.approx(shares[1], rel=1e-9)


def mean(values: list[float]) -> float:
    """Arithmetic mean."""
    return sum(values) / len(values)


def test_the_file_holds_three_pairs():
    assert [[r["rank"] for r in pair] for pair in PAIRS] == [[0, 1]] * 3
    assert isinstance(RECORDS[0]["loss"], float)
