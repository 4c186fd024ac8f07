#!/usr/bin/env python3
"""1-to-K block loss against K InfoNCE losses and against the dense form, interleaved in one run.

    make bench KERNEL=one_to_k                   # or: python benchmarks/bench_one_to_k.py [--batch
    256]

The dense form writes the (B, B K) matrix twice and reads the K positives with a mask, as the
release does. K InfoNCE losses contrast one language after the other (another objective: the other
texts of an image are no candidates). Forward and backward, CPU seconds, median of the rounds.
"""

import argparse
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch
import torch.nn.functional as F
from measure import write_table
from torch import Tensor

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from common.losses.image_text import ClipLoss
from common.losses.multi_positive import OneToKLoss

OUT = ROOT / "benchmarks" / "results" / "one_to_k.csv"
SCALE = 1 / 0.07


def block(image: Tensor, text: Tensor, num_texts: int) -> Tensor:
    """Ours."""
    return OneToKLoss(num_texts)(image, text, SCALE).loss


def separate(image: Tensor, text: Tensor, num_texts: int) -> Tensor:
    """K InfoNCE losses, one a language."""
    loss = ClipLoss()
    terms = [loss(image, text[k::num_texts], SCALE).loss for k in range(num_texts)]
    return torch.stack(terms).mean()


def dense(image: Tensor, text: Tensor, num_texts: int) -> Tensor:
    """Both log-softmaxes of the whole matrix, positives by a mask."""
    image, text = F.normalize(image, dim=1), F.normalize(text, dim=1)
    scores = SCALE * image @ text.T
    own = torch.arange(len(text)) // num_texts == torch.arange(len(image))[:, None]
    i2t = -(scores.log_softmax(1) * own).sum(1).mean()
    t2i = -(scores.T.log_softmax(1) * own.T).sum(1).mean()
    return (i2t + t2i) / 2 / num_texts


FORMS: dict[str, Callable[[Tensor, Tensor, int], Tensor]] = {
    "block": block,
    "separate": separate,
    "dense": dense,
}


def seconds(
    form: Callable[[Tensor, Tensor, int], Tensor], image: Tensor, text: Tensor, k: int
) -> float:
    """CPU seconds of one forward and backward pass."""
    start = time.process_time()
    form(image, text, k).backward()
    return time.process_time() - start


def main() -> None:
    """Measure, print, write the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--batch", type=int, nargs="+", default=[128, 512])
    parser.add_argument("--texts", type=int, nargs="+", default=[6, 10])
    parser.add_argument("--dim", type=int, default=256)
    parser.add_argument("--rounds", type=int, default=15)
    args = parser.parse_args()
    torch.set_num_threads(1)
    rows = []
    for batch in args.batch:
        for k in args.texts:
            image = torch.randn(batch, args.dim, requires_grad=True)
            text = torch.randn(batch * k, args.dim, requires_grad=True)
            same = torch.allclose(block(image, text, k), dense(image, text, k), rtol=1e-5)
            assert same, "the block loss and the dense form differ"
            times: dict[str, list[float]] = {name: [] for name in FORMS}
            for _ in range(args.rounds):  # interleaved: a busy moment hits all forms
                for name, form in FORMS.items():
                    times[name].append(seconds(form, image, text, k))
            found = {name: 1000 * statistics.median(values[2:]) for name, values in times.items()}
            print(f"B={batch} K={k}: " + ", ".join(f"{n} {t:.1f} ms" for n, t in found.items()))
            rows.append([batch, k, args.dim, *(f"{found[n]:.2f}" for n in FORMS)])
    write_table(["batch", "K", "dim", *(f"{n}_cpu_ms" for n in FORMS)], rows, OUT)


if __name__ == "__main__":
    main()
