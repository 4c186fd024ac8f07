#!/usr/bin/env python3
"""Encoding speed of SentenceEncoder against sentence-transformers, interleaved on one CPU thread.

Both embed the same bundled sentences with the same weights (a BERT with 4 layers, d=256, mean
pooling, exported by us and loaded by them). Rounds alternate; the ratio is the median over rounds
of ours / theirs in sentences per second, by the wall clock and by CPU time (which other programs
on the machine disturb less). The embeddings are compared before anything is timed.

    python benchmarks/bench_encoding.py [--quick]
"""

import argparse
import datetime
import os
import statistics
import sys
import tempfile
import time
from pathlib import Path

os.environ.setdefault("HF_HUB_OFFLINE", "1")
from measure import results_folder, write_rows

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

import sentence_transformers
import torch
import transformers
from tokenizers import BertWordPieceTokenizer

from common.data.lookup import bundled
from common.data.tables import read_jsonl
from common.encoders.text.sentence import SentenceEncoder
from common.encoders.text.tower import text_tower
from common.engine.workspace import cpu_name
from common.export.sentence_transformers import (
    load_sentence_transformers,
    save_sentence_transformers,
)

BATCH = 64
SIZES = {
    "model_type": "bert",
    "vocab_size": 8192,
    "hidden_size": 256,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "intermediate_size": 1024,
    "max_position_embeddings": 128,
}


def export(texts: list[str], folder: Path) -> None:
    """Write a model with random weights and a tokenizer of these texts."""
    pieces = BertWordPieceTokenizer(lowercase=True)
    pieces.train_from_iterator(texts, vocab_size=SIZES["vocab_size"], show_progress=False)
    tokenizer = transformers.BertTokenizerFast(
        tokenizer_object=pieces._tokenizer, model_max_length=SIZES["max_position_embeddings"]
    )
    torch.manual_seed(0)
    tower = text_tower("random", "avg", config=SIZES)
    save_sentence_transformers(SentenceEncoder(tower, tokenizer), folder)


def seconds(encode, texts: list[str]) -> tuple[float, float]:
    """Wall clock and CPU time."""
    wall, cpu = time.perf_counter(), time.process_time()
    encode(texts)
    return time.perf_counter() - wall, time.process_time() - cpu


def main() -> None:
    """Run the rounds and write one row per kind of attention."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="few of both, to build/bench")
    args = parser.parse_args()
    count, rounds = (256, 3) if args.quick else (512, 7)
    torch.set_num_threads(1)
    path = bundled("sentences-en/sentences.jsonl.gz", None)
    everything = [row["text"] for row in read_jsonl(path, ("text",))[:20_000]]
    texts = everything[:: len(everything) // count][:count]
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        export(everything, Path(folder))
        for attention in ("sdpa", "eager"):
            ours = load_sentence_transformers(folder)
            ours.tower.model.set_attn_implementation(attention)
            theirs = sentence_transformers.SentenceTransformer(
                folder, device="cpu", model_kwargs={"attn_implementation": attention}
            )
            calls = (
                lambda part, model=ours: model.encode(part, BATCH),
                lambda part, model=theirs: model.encode(
                    part, batch_size=BATCH, convert_to_tensor=True, show_progress_bar=False
                ),
            )
            torch.testing.assert_close(*(call(texts[:BATCH]) for call in calls))
            found = [[seconds(call, texts) for call in calls] for _ in range(rounds)]
            wall, cpu = ([t[clock] / o[clock] for o, t in found] for clock in (0, 1))
            rates = [statistics.median(len(texts) / r[side][1] for r in found) for side in (0, 1)]
            print(
                f"{attention}: ours {rates[0]:.0f}, sentence-transformers {rates[1]:.0f} sentences "
                f"per CPU second; ratio {statistics.median(cpu):.3f} ({min(cpu):.3f} to "
                f"{max(cpu):.3f}), by the wall clock {statistics.median(wall):.3f}"
            )
            rows.append(
                {
                    "date": datetime.date.today().isoformat(),
                    "machine": cpu_name(),
                    "threads": torch.get_num_threads(),
                    "torch": torch.__version__,
                    "transformers": transformers.__version__,
                    "sentence_transformers": sentence_transformers.__version__,
                    "attention": attention,
                    "sentences": len(texts),
                    "batch": BATCH,
                    "rounds": rounds,
                    "ours_per_cpu_second": round(rates[0], 1),
                    "theirs_per_cpu_second": round(rates[1], 1),
                    "cpu_ratio": round(statistics.median(cpu), 3),
                    "lowest_cpu_ratio": round(min(cpu), 3),
                    "highest_cpu_ratio": round(max(cpu), 3),
                    "wall_ratio": round(statistics.median(wall), 3),
                }
            )
    write_rows(rows, results_folder(args.quick) / "encoding.csv")


if __name__ == "__main__":
    main()
