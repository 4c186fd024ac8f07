#!/usr/bin/env python3
"""Encoding and exact search against sentence-transformers and faiss, interleaved on one CPU thread.

    make bench KERNEL=search          # or: python benchmarks/bench_search.py [--quick] [--rounds 5]

"encode and search": real sentences are embedded with the bundled text encoder (mean pooling,
exported by us, loaded by sentence-transformers), indexed, and searched for other sentences; theirs
is `encode` and a flat inner-product index of faiss. "search": an index of random unit vectors
stands already, what is timed is queries that are embedded already, all at once or one by one. Both
must find the same texts. Ratios are theirs / ours, median of the rounds; CPU seconds, the wall
clock alongside them. Needs the eval group; without it the search alone is measured.
"""

import argparse
import datetime
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("OMP_NUM_THREADS", "1")
ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "benchmarks")]

import faiss
import numpy as np
import torch
from measure import write_rows
from torch.nn import functional as F

from common.data.lookup import bundled
from common.data.tables import read_jsonl
from common.encoders.text.sentence import SentenceEncoder
from common.encoders.text.tower import load_tokenizer, text_tower
from common.engine.workspace import cpu_name
from common.evaluation.retrieval.text_index import TextIndex
from common.export.sentence_transformers import (
    load_sentence_transformers,
    save_sentence_transformers,
)

OUT = ROOT / "benchmarks" / "results" / "search.csv"
BATCH, K, WIDTH = 64, 10, 256
MODEL = "bundled:text-encoder"
Found = list[list[int]]  # positions by query
Call = Callable[[], Found]


def encode_and_search(texts: list[str], queries: list[str], folder: str) -> dict[str, Call]:
    """Both from texts to positions, or nothing without the library."""
    try:
        import sentence_transformers
    except ImportError:
        return {}
    save_sentence_transformers(
        SentenceEncoder(text_tower(MODEL, "avg"), load_tokenizer(MODEL)), folder
    )
    ours = load_sentence_transformers(folder)
    theirs = sentence_transformers.SentenceTransformer(folder, device="cpu")

    def run_ours() -> Found:
        index = TextIndex(ours, texts, batch_size=BATCH)
        return [[hit.position for hit in hits] for hits in index.search(queries, K)]

    def run_theirs() -> Found:
        rows, asked = (
            theirs.encode(
                part, batch_size=BATCH, normalize_embeddings=True, show_progress_bar=False
            )
            for part in (texts, queries)
        )
        index = faiss.IndexFlatIP(rows.shape[1])
        index.add(rows)
        return index.search(asked, K)[1].tolist()

    return {"ours": run_ours, "theirs": run_theirs}


def search_only(count: int, num_queries: int, each: bool) -> dict[str, Call]:
    """Both from vectors of queries to positions, in an index that stands."""
    g = torch.Generator().manual_seed(0)
    rows, asked = (
        F.normalize(torch.randn(n, WIDTH, generator=g), dim=1) for n in (count, num_queries)
    )
    ours = TextIndex(
        lambda names: rows[[int(n) for n in names]],
        [str(i) for i in range(count)],
        batch_size=count,
    )
    ours.query_encoder = lambda names: asked[[int(n) for n in names]]
    theirs = faiss.IndexFlatIP(WIDTH)
    theirs.add(rows.numpy())
    names, vectors = [str(i) for i in range(num_queries)], asked.numpy()
    parts = [[i] for i in range(num_queries)] if each else [[*range(num_queries)]]

    def run_ours() -> Found:
        found = [hits for part in parts for hits in ours.search([names[i] for i in part], K)]
        return [[hit.position for hit in hits] for hits in found]

    def run_theirs() -> Found:
        return [own for part in parts for own in theirs.search(vectors[part], K)[1].tolist()]

    return {"ours": run_ours, "theirs": run_theirs}


def main() -> None:
    """Measure, print, write the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--quick", action="store_true", help="small sizes, no file")
    args = parser.parse_args()
    torch.set_num_threads(1)
    faiss.omp_set_num_threads(1)
    everything = [
        r["text"] for r in read_jsonl(bundled("sentences-en/sentences.jsonl.gz", None), ("text",))
    ]
    count, asked, large = (200, 20, 5_000) if args.quick else (2_000, 100, 100_000)
    spread = everything[:: len(everything) // (count + asked)]
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        cases: list[tuple[str, int, int, dict[str, Call]]] = [
            (
                "encode and search",
                count,
                asked,
                encode_and_search(spread[:count], spread[count : count + asked], folder),
            ),
            ("search, all at once", large, 200, search_only(large, 200, False)),
            ("search, one by one", large, 20, search_only(large, 20, True)),
        ]
        for name, size, queries, runs in cases:
            if not runs:
                print(f"{name}: needs sentence-transformers (group eval)")
                continue
            found = {side: run() for side, run in runs.items()}
            same = np.mean([len({*a} & {*b}) / K for a, b in zip(*found.values(), strict=True)])
            assert same > 0.999, f"{name}: {same:.4f} of the texts are the same"
            took: dict[str, list[tuple[float, float]]] = {side: [] for side in runs}
            for _ in range(args.rounds):
                for side, run in runs.items():
                    wall, cpu = time.perf_counter(), time.process_time()
                    run()
                    took[side].append((time.process_time() - cpu, time.perf_counter() - wall))
            ratios = [
                [t[clock] / o[clock] for o, t in zip(took["ours"], took["theirs"], strict=True)]
                for clock in (0, 1)
            ]
            medians = {side: statistics.median(cpu for cpu, _ in own) for side, own in took.items()}
            row = {
                "date": datetime.date.today().isoformat(),
                "machine": cpu_name(),
                "threads": 1,
                "torch": torch.__version__,
                "faiss": faiss.__version__,
                "case": name,
                "texts": size,
                "queries": queries,
                "rounds": args.rounds,
                **{f"{side}_cpu_s": round(x, 4) for side, x in medians.items()},
                "ratio": round(statistics.median(ratios[0]), 2),
                "lowest": round(min(ratios[0]), 2),
                "highest": round(max(ratios[0]), 2),
                "wall_ratio": round(statistics.median(ratios[1]), 2),
            }
            print(row, flush=True)
            rows.append(row)
    if not args.quick:
        write_rows(rows, OUT)


if __name__ == "__main__":
    main()
