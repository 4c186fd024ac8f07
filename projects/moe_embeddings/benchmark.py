"""A training step with enforced experts against the dense model and against all experts.

Copies of one encoder train on the same batches of the same domains: dense; with an expert per
domain, run in groups; and with every expert evaluated on every document and one result taken. A
step is forward, mnr_plus, backward and AdamW. Rounds alternate; the ratio is the median over rounds
of the CPU seconds (on a GPU: of the seconds) of a step to those of the dense model in the same
round.

    python -m projects.moe_embeddings.benchmark [--quick] [--rounds 7] [--device cuda]
"""

import argparse
import datetime
import statistics
import time
from collections.abc import Callable

import torch
from torch import Tensor, nn

from benchmarks.measure import results_folder, write_rows
from common.encoders.text.tower import load_transformer
from common.engine.workspace import cpu_name
from projects.moe_embeddings.mixture_of_experts import (
    MixtureOfExperts,
    Routes,
    to_mixture,
)

RESULTS = results_folder(quick=False)
CASES = {  # name: hidden size, layers, documents, tokens, domains
    "2 layers, 128": (128, 2, 32, 64, 4),
    "4 layers, 256": (256, 4, 32, 64, 4),
}
LARGE = {"22 layers, 768": (768, 22, 32, 512, 5)}
LIMIT = 1.15


class Everything(nn.Module):
    """All experts on all documents, one result kept: what grouped execution saves."""

    def __init__(self, layer: MixtureOfExperts) -> None:
        super().__init__()
        self.experts, self.routes = layer.experts, layer.routes

    def forward(self, x: Tensor) -> Tensor:
        """(B, L, D) -> (B, L, D)."""
        assert self.routes.assignment is not None
        every = torch.stack([expert(x) for expert in self.experts])
        return every[self.routes.assignment, torch.arange(len(x), device=x.device)]


def build(kind: str, case: tuple[int, ...], device: str) -> tuple[nn.Module, Routes | None]:
    """The encoder of a contender."""
    size, layers, _, tokens, domains = case
    torch.manual_seed(0)
    config = {
        "model_type": "bert",
        "hidden_size": size,
        "num_hidden_layers": layers,
        "num_attention_heads": size // 64,
        "intermediate_size": 4 * size,
        "vocab_size": 8000,
        "max_position_embeddings": tokens,
    }
    model = load_transformer("random", config=config, attention="eager")
    routes = None if kind == "dense" else to_mixture(model, domains)
    if kind == "all experts":
        for part in list(model.modules()):
            if isinstance(getattr(part, "intermediate", None), MixtureOfExperts):
                part.intermediate = Everything(part.intermediate)
    return model.to(device), routes


def stepper(kind: str, case: tuple[int, ...], device: str) -> Callable[[int], None]:
    """A function that trains one step on batch number n."""
    _, _, rows, tokens, domains = case
    model, routes = build(kind, case, device)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-5, fused=True)

    def step(number: int) -> None:
        generator = torch.Generator().manual_seed(number)
        ids = torch.randint(5, 8000, (rows, tokens), generator=generator).to(device)
        half = torch.randint(0, domains, (rows // 2,), generator=generator)
        expert = torch.cat([half, half]).sort().values
        if routes is not None:
            sizes = (
                None
                if kind == "all experts"
                else torch.bincount(expert, minlength=domains).tolist()
            )
            routes.begin(expert.to(device), sizes=sizes)
        a, b = model(input_ids=ids).last_hidden_state.mean(1).chunk(2)
        scores, target = a @ b.T, torch.arange(rows // 2, device=device)
        loss = nn.functional.cross_entropy(scores, target) + nn.functional.cross_entropy(
            scores.T, target
        )
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

    return step


def seconds(step: Callable[[int], None], steps: range, device: str) -> float:
    """Seconds of a step: of the processor, or of the clock for a GPU."""
    clock = time.process_time if device == "cpu" else time.perf_counter
    if device != "cpu":
        torch.cuda.synchronize()
    start = clock()
    for number in steps:
        step(number)
    if device != "cpu":
        torch.cuda.synchronize()
    return (clock() - start) / len(steps)


def main() -> None:
    """Run, print, write benchmarks/results/moe.csv."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="the smallest case, three rounds")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--steps", type=int, default=4)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--threads", type=int, default=1)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    cases = {**CASES, **(LARGE if args.device != "cpu" else {})}
    rounds = 3 if args.quick else args.rounds
    machine = cpu_name() if args.device == "cpu" else torch.cuda.get_device_name()
    rows = []
    for name, case in list(cases.items())[: 1 if args.quick else None]:
        contenders = {k: stepper(k, case, args.device) for k in ("dense", "experts", "all experts")}
        times: dict[str, list[float]] = {kind: [] for kind in contenders}
        for step in contenders.values():
            seconds(step, range(2), args.device)
        for number in range(rounds):
            steps = range(number * args.steps, (number + 1) * args.steps)
            for kind, step in contenders.items():
                times[kind].append(seconds(step, steps, args.device))
        for kind, values in times.items():
            ratios = [t / d for t, d in zip(values, times["dense"], strict=True)]
            rows.append(
                {
                    "case": name,
                    "name": kind,
                    "ms_per_step": f"{1000 * statistics.median(values):.1f}",
                    "ratio": f"{statistics.median(ratios):.3f}",
                    "lowest": f"{min(ratios):.3f}",
                    "highest": f"{max(ratios):.3f}",
                    "rounds": rounds,
                    "machine": machine,
                    "threads": args.threads,
                    "torch": torch.__version__,
                    "date": str(datetime.date.today()),
                }
            )
            print(f"{name:18}{kind:14}{rows[-1]['ms_per_step']:>9} ms  x {rows[-1]['ratio']}")
        ratio = float(rows[-2]["ratio"])
        print(f"{name:18}experts within {LIMIT} of dense: {'yes' if ratio <= LIMIT else 'NO'}")
    if not args.quick:
        write_rows(rows, RESULTS / "moe.csv")


if __name__ == "__main__":
    main()
