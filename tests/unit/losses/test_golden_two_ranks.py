"""Loss cases recorded on two ranks, on two gloo processes."""

from typing import Any

import pytest
import torch

from common.distributed import process
from common.losses.image_text import ClipLoss
from common.losses.multi_positive import OneToKLoss
from tests.unit.losses.golden import assert_close, grad_norm, load, wave

CLIP = load("laclip")["outputs"]["clip_loss"]["world_size_2"]
ONE_TO_K = [c for c in load("one_to_k")["outputs"]["world_size_2"] if "need_divm" in c]


def run_clip(rows: int, dim: int, scale: float) -> dict[str, Any]:
    local = slice(process.rank() * rows, (process.rank() + 1) * rows)
    image = wave(2 * rows, dim, 1).detach()[local].requires_grad_()
    text = wave(2 * rows, dim, 2).detach()[local].requires_grad_()
    multiplier = torch.tensor(scale, dtype=torch.float64, requires_grad=True)
    out = ClipLoss()(image, text, multiplier)
    out.loss.backward()
    return {
        "loss": out.loss.detach(),
        "grad_norm_image": grad_norm(image),
        "grad_norm_text": grad_norm(text),
        "grad_image_first5": image.grad,
        "grad_logit_scale": multiplier.grad,
    }


@pytest.mark.parametrize("case", CLIP)
def test_clip_loss_of_the_own_rows(two_ranks, case):
    """The official loss, too, is that of a rank's rows, gathered with gradient."""
    actual = two_ranks.run(run_clip, rows=case["local_N"], dim=case["d"], scale=case["logit_scale"])
    for name, value in actual[case["rank"]].items():
        if name != "grad_logit_scale":
            assert_close(value, case[name])
    # Rows in one direction share their columns' sums: the two ranks' shares of the scale gradient
    # differ between programs, their mean does not.
    twin = next(c for c in CLIP if c["rank"] != case["rank"] and c["d"] == case["d"])
    mean = torch.stack([f["grad_logit_scale"] for f in actual]).mean()
    assert_close(mean, 0.5 * (case["grad_logit_scale"] + twin["grad_logit_scale"]))


def run_one_to_k(case: dict[str, Any]) -> dict[str, Any]:
    b, k, d = case["b"], case["K"], case["d"]
    image = wave(2 * b, d, 1).detach().view(2, b, d)[process.rank()].requires_grad_()
    text = wave(2 * b * k, d, 2).detach().view(2, b * k, d)[process.rank()].requires_grad_()
    temperature = torch.tensor(case["temp"], dtype=torch.float64, requires_grad=True)
    divide = case["need_divm"]
    divisor = {0: k}.get(divide, divide if divide > 0 else 1)
    loss = OneToKLoss(k, image_weight=k / divisor, text_weight=1 / divisor)
    out = loss(image, text, 1 / temperature)
    out.loss.backward()
    return {
        "loss": out.loss.detach(),
        "grad_temp": temperature.grad,
        "grad_norm_image": grad_norm(image),
        "grad_norm_text": grad_norm(text),
        "grad_image_first4": image.grad,
    }


@pytest.mark.parametrize("case", ONE_TO_K)
def test_one_to_k(two_ranks, case):
    """The official code repeats the global loss on both ranks and keeps the own gradient slice.

    Ours is the loss of the own rows: its mean over ranks is the same loss, and a row's gradient is
    twice as large, which averaging over two ranks undoes.
    """
    actual = two_ranks.run(run_one_to_k, case=case)
    for name in ("loss", "grad_temp"):
        assert_close(torch.stack([f[name] for f in actual]).mean(), case[name])
    for name in ("grad_norm_image", "grad_norm_text", "grad_image_first4"):
        assert_close(0.5 * actual[case["rank"]][name], case[name])
