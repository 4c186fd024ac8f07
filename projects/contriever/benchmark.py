"""A step of Contriever with a queue against a plain MoCo loop with dense logits.

    python -m projects.contriever.benchmark [--quick] [--rounds 7]

Both train copies of one encoder (that of Contriever's `mini`) on the same token ids with the same
AdamW. Ours is the project's module as its trainer calls it; the contender is MoCo's own algorithm
written down: l_pos and l_neg joined to (B, 1 + K) logits, cross entropy, a loop over the parameters
for the key encoder, a queue behind a pointer. "loss" is the loss alone with its gradient, at the
width and queue of the paper's encoder. CPU seconds of one thread, in turns, median of the rounds;
memory is the largest growth of the resident set in a process of its own. Losses are compared before
anything is timed.
"""

import argparse
import copy
import datetime
import statistics
import time
from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional as F

from benchmarks.measure import growth, results_folder, write_rows
from common.config import load
from common.encoders.text.sentence import SentenceEncoder
from common.engine.workspace import cpu_name
from projects.contriever.config import Config
from projects.contriever.module import Contriever
from projects.contriever.objective import Objective
from projects.contriever.stages import recipe_of

OUT = results_folder(quick=False) / "moco.csv"
LR, LENGTH = 1e-4, 48  # of the optimiser; tokens of a view
CASES = (  # what, batch, width (None: mini's), queue
    ("step", 64, None, 2_048),
    ("step", 64, None, 131_072),
    ("loss", 64, 768, 131_072),
    ("loss", 256, 768, 131_072),
)
QUICK = (("step", 16, None, 256), ("loss", 16, 64, 1_024))
Run = Callable[[], float]  # one step; its loss


def config(queue: int) -> Config:
    """Contriever's `mini` without dropout, so that losses can be compared."""
    return load(Config, "contriever", "mini", [f"method.queue_size={queue}", "model.dropout=0.0"])


def views(batch: int, vocabulary: int) -> list[dict[str, Tensor]]:
    """Two views of made-up ids."""
    g = torch.Generator().manual_seed(1)
    return [
        {
            "input_ids": torch.randint(200, vocabulary, (batch, LENGTH), generator=g),
            "attention_mask": torch.ones(batch, LENGTH, dtype=torch.long),
        }
        for _ in range(2)
    ]


def our_step(batch: int, queue: int) -> Run:
    """The project's module, its hooks called in the order of its trainer."""
    torch.manual_seed(0)
    cfg = config(queue)
    module = Contriever(cfg, recipe_of(cfg).build()).train()
    optimizer = torch.optim.AdamW(module.parameter_groups(), lr=LR)
    query, key = views(batch, len(module.encoder.tokenizer))

    def run() -> float:
        terms = module.losses({"query": query, "key": key})
        optimizer.zero_grad()
        terms["loss"].backward()
        optimizer.step()
        module.after_optimizer_step()
        return float(terms["loss"].detach())

    return run


def plain_step(batch: int, queue: int) -> Run:
    """MoCo's algorithm 1 with the same encoder."""
    torch.manual_seed(0)
    cfg = config(queue)
    start = Contriever(cfg, recipe_of(cfg).build())  # draws the same weights and queue
    encoder: SentenceEncoder = start.encoder.train()
    slow = copy.deepcopy(encoder).requires_grad_(False)
    assert start.queue is not None
    bank, place = start.queue.features.T.clone(), 0
    m, tau = cfg.method.momentum, cfg.method.temperature
    optimizer = torch.optim.AdamW(encoder.parameters(), lr=LR)
    query, key = views(batch, len(encoder.tokenizer))

    def run() -> float:
        nonlocal place
        q = F.normalize(encoder(**query), dim=1)
        with torch.no_grad():
            for parameter, source in zip(slow.parameters(), encoder.parameters(), strict=True):
                parameter.data = parameter.data * m + source.data * (1 - m)
            k = F.normalize(slow(**key), dim=1)
        loss = dense(q, k, bank, tau)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        bank[:, place : place + batch] = k.T
        place = (place + batch) % queue
        return float(loss.detach())

    return run


def dense(q: Tensor, k: Tensor, bank: Tensor, tau: float) -> Tensor:
    """InfoNCE over (B, 1 + K) logits; bank (D, K)."""
    positive = torch.einsum("nc,nc->n", q, k)[:, None]
    negative = torch.einsum("nc,ck->nk", q, bank.clone().detach())
    logits = torch.cat([positive, negative], dim=1) / tau
    return F.cross_entropy(logits, torch.zeros(len(q), dtype=torch.long))


def losses(batch: int, width: int, queue: int) -> tuple[Run, Run]:
    """The loss with its gradient, ours and dense."""
    g = torch.Generator().manual_seed(0)
    q, k, bank = (
        F.normalize(torch.randn(n, width, generator=g), dim=1) for n in (batch, batch, queue)
    )
    columns = bank.T.clone()
    q.requires_grad_()
    objective = Objective(config(queue).method, in_batch=False)

    def ours() -> float:
        loss = objective(q, k, queue=bank).loss
        loss.backward()
        return float(loss.detach())

    def theirs() -> float:
        loss = dense(q, k, columns, 1 / objective.scale)
        loss.backward()
        return float(loss.detach())

    return ours, theirs


def contenders(what: str, batch: int, width: int | None, queue: int) -> dict[str, Run]:
    """Ours and the plain loop."""
    if what == "loss":
        assert width is not None
        ours, plain = losses(batch, width, queue)
    else:
        ours, plain = our_step(batch, queue), plain_step(batch, queue)
    return {"ours": ours, "plain": plain}


def main() -> None:
    """Measure, print, write the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--quick", action="store_true", help="small sizes, no file")
    args = parser.parse_args()
    torch.set_num_threads(1)
    rows = []
    for case in QUICK if args.quick else CASES:
        memory = {
            name: growth(lambda case=case, name=name: contenders(*case)[name], 2)
            for name in ("ours", "plain")
        }
        runs = contenders(*case)
        first = {name: [run() for _ in range(3)] for name, run in runs.items()}
        torch.testing.assert_close(first["ours"], first["plain"], rtol=1e-4, atol=1e-4)
        took: dict[str, list[float]] = {name: [] for name in runs}
        for _ in range(args.rounds):
            for name, run in runs.items():
                begun = time.process_time()
                run()
                took[name].append(time.process_time() - begun)
        ratios = [plain / ours for ours, plain in zip(took["ours"], took["plain"], strict=True)]
        what, batch, width, queue = case
        row = {
            "date": datetime.date.today().isoformat(),
            "machine": cpu_name(),
            "threads": 1,
            "torch": torch.__version__,
            "case": what,
            "batch": batch,
            "width": width or 128,
            "queue": queue,
            "rounds": args.rounds,
            **{
                f"{name}_cpu_ms": round(1000 * statistics.median(times), 1)
                for name, times in took.items()
            },
            "ratio": round(statistics.median(ratios), 2),
            "lowest": round(min(ratios), 2),
            "highest": round(max(ratios), 2),
            **{f"{name}_memory_mib": round(grown, 1) for name, grown in memory.items()},
        }
        print(row, flush=True)
        rows.append(row)
    if not args.quick:
        write_rows(rows, OUT)


if __name__ == "__main__":
    main()
