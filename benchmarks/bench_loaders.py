#!/usr/bin/env python3
"""What a loader process spends on a sample, and the bytes it sends: paper configs, made-up files.

    python benchmarks/bench_loaders.py [--quick]

Contents are random, sizes are the papers': JPEG files of 500 x 375 pixels (clip_baselines' one
view, dcl's two), token files (contriever), WAV files of 2.3 s at 16 kHz, the mean of Fluent Speech
Commands (coconut), scans of 65,000 points, of which a sample reads two (trend), and a query of 8
words with 8 passages of 60 (nv_embed), cut by a small BPE tokenizer. One process,
one thread, CPU time, median of the rounds. Bytes are those of a pickled batch. Texts of
clip_baselines and coconut are left out.

Writes benchmarks/results/loaders.csv; with --quick to build/bench.
"""

import argparse
import datetime
import pickle
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "benchmarks")]

import numpy as np
import torch
from measure import results_folder, write_rows
from PIL import Image
from scipy.io import wavfile

from common.config import load
from common.data.image.sources import batch_of, read_views
from common.data.mixture import TaskMixture
from common.data.retrieval.records import EmbeddingRecord
from common.data.samplers import sample_rng
from common.data.speech.waveforms import load_waveform, pad_waveforms
from common.encoders.text.tiny_tokenizer import tiny_tokenizer
from common.engine.workspace import cpu_name
from common.families.image_text.data import train_transform
from common.families.images.data import simclr_transform
from common.registry import config_class
from projects.contriever.data import two_views
from projects.contriever.stream import ChunkPairs, TokenStream
from projects.nv_embed.data.batches import InstructionBatches
from projects.nv_embed.data.records import EmbeddingTask
from projects.nv_embed.stages import build_encoder
from projects.trend.data import ForecastSamples
from projects.trend.scans.sequences import LidarFrame, Window

POINTS, SECONDS, RATE, FILES = 65_000, 2.3, 16_000, 8
Loader = Callable[[int], Any]  # number of a batch -> the batch


def paper(project: str, *words: str, name: str = "paper") -> Any:
    """The paper's config of a project, or another one."""
    return load(config_class(project), project, name, words)


def images(folder: Path, transform: Any, views: int, batch: int) -> Loader:
    """Views of JPEG files."""
    rng = np.random.default_rng(0)
    for i in range(FILES):  # smooth, as photographs compress to some 40 kB
        small = Image.fromarray(rng.integers(0, 256, (47, 63, 3), np.uint8))
        small.resize((500, 375), Image.Resampling.BICUBIC).save(folder / f"{i}.jpg", quality=90)

    def make(number: int) -> Any:
        rows = []
        for i in range(batch):
            looks = [(transform, sample_rng(0, number, i, view)) for view in range(views)]
            rows.append(read_views(folder / f"{i % FILES}.jpg", looks))
        return [batch_of(transform, column) for column in zip(*rows, strict=True)]

    return make


def texts(batch: int) -> Loader:
    """Contriever's pairs of crops."""
    cfg, tokenizer = paper("contriever"), tiny_tokenizer(400)
    ids = np.random.default_rng(0).integers(10, 400, 100_000).astype(np.uint16)
    stream = TokenStream([ids], cfg.data.chunk_length)
    pairs = ChunkPairs({"x": stream}, tokenizer, two_views(cfg, tokenizer))
    return lambda number: pairs[[(i % len(pairs), number) for i in range(batch)]]


def instructions(batch: int) -> Loader:
    """NV-Embed's queries with a positive and seven negatives."""
    cfg, rng = paper("nv_embed"), np.random.default_rng(0)
    length = cfg.data.max_length
    longest = f"model.config.max_position_embeddings={length}"
    tiny = paper("nv_embed", longest, name="smoke").model
    words = ["state", "world", "people", "house", "time", "part", "night", "right", "point"]

    def text(count: int) -> str:
        return " ".join(words[i] for i in rng.integers(len(words), size=count))

    wrong = cfg.data.num_negatives
    records = [
        EmbeddingRecord(text(8), (text(60),), tuple(text(60) for _ in range(wrong)))
        for _ in range(FILES * batch)
    ]
    about = "Given a question, retrieve passages that answer the question"
    task = EmbeddingTask("made_up", "retrieval", about, records)
    mixture = TaskMixture([len(records)], [len(records)], 0, batch)
    encoder = build_encoder(tiny, max_length=length)
    batches = InstructionBatches(
        [task], mixture, encoder.token_rows, encoder.pad, num_negatives=wrong, seed=0
    )
    return lambda number: batches[[(i, number) for i in range(batch)]]


def speech(folder: Path, batch: int) -> Loader:
    """COCONUT's waveforms."""
    rng = np.random.default_rng(0)
    for i in range(FILES):
        samples = rng.normal(0, 3000, int(SECONDS * RATE)).astype(np.int16)
        wavfile.write(folder / f"{i}.wav", RATE, samples)
    return lambda _: pad_waveforms(
        [load_waveform(folder / f"{i % FILES}.wav", RATE) for i in range(batch)]
    )


class Scans:
    """Scans of one sequence in files: a ground, and walls up to 70 m away."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        rng = np.random.default_rng(0)
        for i in range(FILES):
            angle, distance = rng.uniform(0, 2 * np.pi, POINTS), rng.uniform(2, 70, POINTS)
            height = np.where(rng.random(POINTS) < 0.4, -1.8, rng.uniform(-1.8, 2.5, POINTS))
            columns = [
                distance * np.cos(angle),
                distance * np.sin(angle),
                height,
                rng.random(POINTS),
            ]
            np.stack(columns, 1).astype(np.float32).tofile(folder / f"{i}.bin")

    def pose(self, sequence: int, index: int) -> Any:
        """A car that drives straight on."""
        pose = np.eye(4)
        pose[0, 3] = float(index)
        return pose

    def time(self, sequence: int, index: int) -> float:
        """Two frames a second, as ONCE."""
        return index / 2

    def frame(self, sequence: int, index: int) -> LidarFrame:
        """Read one file."""
        points = np.fromfile(self.folder / f"{index % FILES}.bin", np.float32).reshape(-1, 4)
        return LidarFrame(points, self.pose(sequence, index), self.time(sequence, index))


def scans(folder: Path, batch: int) -> Loader:
    """TREND's samples of the last stage."""
    cfg = paper("trend")
    source, horizon = Scans(folder), cfg.method.horizons[-1]
    items = [Window(0, 0, i, 1) for i in range(FILES)]
    samples = ForecastSamples([source], items, cfg.data, horizon, cfg.method.decay, 0)  # type: ignore[list-item]
    return lambda number: samples[[(i % FILES, number) for i in range(batch)]]


def measure(make: Loader, batch: int, rounds: int) -> tuple[float, float]:
    """CPU-seconds and bytes of a sample."""
    make(0)
    seconds, size = [], 0
    for number in range(1, rounds + 1):
        start = time.process_time()
        content = pickle.dumps(make(number), protocol=5)
        seconds.append((time.process_time() - start) / batch)
        size = len(content)
    return statistics.median(seconds), size / batch


def main() -> None:
    """Measure all, print and write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="two rounds")
    quick = parser.parse_args().quick
    torch.set_num_threads(1)
    rounds, rows = 2 if quick else 9, []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        clip, dcl = paper("clip_baselines").data, paper("dcl").data
        loaders = {
            "clip_baselines": (images(folder, train_transform(clip), 1, 16), 16),
            "dcl": (images(folder, simclr_transform(dcl), 2, 16), 16),
            "contriever": (texts(64), 64),
            "nv_embed": (instructions(16), 16),
            "coconut": (speech(folder, 32), 32),
            "trend": (scans(folder, 3), 3),
        }
        for project, (make, batch) in loaders.items():
            seconds, size = measure(make, batch, rounds)
            print(f"{project:16} {1 / seconds:8.0f} samples a CPU-second, {size:10,.0f} bytes each")
            rows.append(
                {
                    "date": datetime.date.today().isoformat(),
                    "machine": cpu_name(),
                    "project": project,
                    "cpu_seconds_per_sample": f"{seconds:.3g}",
                    "bytes_per_sample": round(size),
                }
            )
    write_rows(rows, results_folder(quick) / "loaders.csv")


if __name__ == "__main__":
    main()
