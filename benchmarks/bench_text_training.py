#!/usr/bin/env python3
"""Text training speed: our loop against sentence-transformers' trainer, interleaved in one run.

Both train copies of one encoder with in-batch negatives (InfoNCE / MultipleNegativesRankingLoss) on
the same real sentence pairs, batch size, maximal length, optimiser, attention and CPU, tokenising
included as each does it. Ours runs three times: as it is; with passes by length
(`model.length_groups`), which leaves the batches as they are; and with batches bucketed by length
as well (`data.bucket_batches`). Rounds alternate; the ratio is the median over rounds of ours /
theirs in sentences per second; the same ratio in CPU seconds stands next to it, which other work on
the machine disturbs less.

    python benchmarks/bench_text_training.py [--quick] [--rounds 5] [--attention sdpa] [--profile]

Needs the eval group and `pip install accelerate` (sentence-transformers' trainer asks for it).
"""

import argparse
import copy
import datetime
import logging
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from measure import results_folder, write_rows
from torch.utils.data import Dataset

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from common.config import load
from common.data.lookup import BUNDLED
from common.data.text.views import TextViews
from common.engine.experiment import Stage
from common.engine.trainer import build_trainer
from common.engine.workspace import Workspace, cpu_name
from common.export.sentence_transformers import save_sentence_transformers
from common.families.sentences.data import (
    sentence_data,
    text_rows,
)
from common.families.sentences.module import build_encoder

MODEL = "bundled:text-encoder"
SIZE = (
    "{model_type: bert, hidden_size: 256, num_hidden_layers: 4, num_attention_heads: 4,"
    " intermediate_size: 1024, vocab_size: 1600, max_position_embeddings: 128}"
)
NAMES = ("ours, by length, bucketed", "ours, by length", "ours", "sentence-transformers")
COLOURS = ("#0072B2", "#56B4E9", "#999999", "#D55E00")
GROUPS = 4  # passes by length
WARM = 3  # steps that are not counted
VIEWS = 2  # sentences of a pair


@dataclass
class Meter:
    """When each batch was asked for, what it cost to make, and how many cells it has."""

    starts: list[float] = field(default_factory=list)
    cpu_starts: list[float] = field(default_factory=list)
    data_seconds: list[float] = field(default_factory=list)
    tokens: list[int] = field(default_factory=list)

    def measured(self, make: Callable[[], Any], count: Callable[[Any], int]) -> Any:
        """Call `make` and note the figures of its batch."""
        self.starts.append(time.perf_counter())
        self.cpu_starts.append(time.process_time())
        batch = make()
        self.data_seconds.append(time.perf_counter() - self.starts[-1])
        self.tokens.append(count(batch))
        return batch

    def figures(self, batch: int) -> dict[str, float]:
        """Sentences per second, milliseconds per step, padded tokens per sentence."""
        steps = len(self.starts) - 1 - WARM
        seconds = self.starts[-1] - self.starts[WARM]
        return {
            "sentences_per_second": VIEWS * batch * steps / seconds,
            "data_ms": 1000 * statistics.mean(self.data_seconds[WARM:]),
            "step_ms": 1000 * seconds / steps,
            "step_cpu_ms": 1000 * (self.cpu_starts[-1] - self.cpu_starts[WARM]) / steps,
            "tokens_per_sentence": statistics.mean(self.tokens[WARM:]) / (VIEWS * batch),
        }


class Measured(Dataset):
    """Our training set with a meter."""

    def __init__(self, views: TextViews, meter: Meter, groups: int) -> None:
        self.views, self.meter, self.lengths, self.groups = views, meter, views.lengths, groups

    def __len__(self) -> int:
        return len(self.views)

    def __getitem__(self, keys):
        return self.meter.measured(lambda: self.views[keys], self.cells)

    def cells(self, batch: Any) -> int:
        """Positions that the encoder computes, padding included."""
        lengths = batch["attention_mask"].sum(1).sort().values
        return sum(len(part) * int(part[-1]) for part in lengths.tensor_split(self.groups))


class MeasuredCollator:
    """Their collator with a meter."""

    def __init__(self, collate: Any, meter: Meter) -> None:
        self.collate, self.meter = collate, meter

    def __getattr__(self, name: str) -> Any:
        return getattr(self.collate, name)

    def __call__(self, features: Any) -> Any:
        """Batch of the given rows."""
        return self.meter.measured(
            lambda: self.collate(features),
            lambda b: sum(v.numel() for name, v in b.items() if name.endswith("_input_ids")),
        )


def ours(module, cfg, views: TextViews, steps: int, groups: int, window: int | None) -> Meter:
    """Train with our loop."""
    meter = Meter()
    module.encoder.length_groups = groups
    cfg.data.bucket_batches, cfg.trainer.max_steps = window, steps
    data = sentence_data(cfg, Measured(views, meter, groups))
    workspace = Workspace(Path(cfg.runs_dir) / f"run-{time.monotonic_ns()}")
    workspace.folder(".")
    trainer = build_trainer(cfg, Stage("train", module, data), 0, workspace, [])
    trainer.fit(module, data)
    return meter


def theirs(model, cfg, rows: Sequence[tuple[str, ...]], steps: int) -> Meter:
    """Train with sentence-transformers."""
    from datasets import Dataset as Table
    from sentence_transformers import (
        SentenceTransformerTrainer,
        SentenceTransformerTrainingArguments,
    )
    from sentence_transformers.sentence_transformer.losses import MultipleNegativesRankingLoss

    args = SentenceTransformerTrainingArguments(
        output_dir=str(Path(cfg.runs_dir) / "theirs"),
        max_steps=steps,
        use_cpu=True,
        per_device_train_batch_size=cfg.data.batch_size,
        learning_rate=cfg.optim.lr,
        lr_scheduler_type="linear",
        max_grad_norm=1.0,
        save_strategy="no",
        logging_strategy="no",
        report_to="none",
        disable_tqdm=True,
        dataloader_drop_last=True,
        seed=0,
        dataloader_pin_memory=False,
    )
    table = Table.from_dict(dict(zip(("first", "second"), zip(*rows, strict=True), strict=True)))
    loss = MultipleNegativesRankingLoss(model, scale=1 / cfg.method.temperature)
    trainer = SentenceTransformerTrainer(model, args, train_dataset=table, loss=loss)
    meter = Meter()
    trainer.data_collator = MeasuredCollator(trainer.data_collator, meter)
    trainer.train()
    return meter


def build(folder: str, batch: int, attention: str):
    """Config, module, their model with the same weights, rows and our training set."""
    from sentence_transformers import SentenceTransformer

    from projects.simcse import Config
    from projects.simcse.module import SimCSE

    settings = [
        "data.source=nli",
        "data.hard_negatives=false",
        f"data.batch_size={batch}",
        "model.pooling=avg",
        "model.dropout=0.1",
        f"model.attention={attention}",
        "optim.lr=1e-4",
        "trainer.accelerator=cpu",
        "trainer.precision=32-true",
        "trainer.val_every_n_steps=null",
        "trainer.gradient_clip_val=1.0",
        "trainer.checkpoint_every_n_steps=100000",
        f"runs_dir={folder}",
        "tracking.wandb=disabled",
        f"trainer.num_threads={torch.get_num_threads()}",
    ]
    if not (BUNDLED / "models" / MODEL.removeprefix("bundled:")).exists():
        print(f"{MODEL} is not there: a random encoder of its size, with the built-in tokenizer")
        settings += ["model.pretrained=random", f"model.config={SIZE}"]
    cfg = load(Config, "simcse", "mini", settings)
    torch.manual_seed(0)
    encoder = build_encoder(cfg.model)
    save_sentence_transformers(encoder, Path(folder) / "model")
    model = SentenceTransformer(
        str(Path(folder) / "model"),
        device="cpu",
        local_files_only=True,
        model_kwargs={"attn_implementation": attention},
    )
    rows = [row[:VIEWS] for row in text_rows(cfg.data, cfg.seed)]
    views = TextViews(rows, encoder.tokenizer, max_length=cfg.data.max_length, seed=cfg.seed)
    check_same(encoder, model, rows[0])
    model.max_seq_length = cfg.data.max_length
    return cfg, SimCSE(cfg, encoder), model, rows, views


def check_same(encoder, model, texts: Sequence[str]) -> None:
    """Both sides must hold the same function and the same dropout."""
    mine = encoder.encode(list(texts), normalize=True)
    other = model.encode(list(texts), convert_to_tensor=True, normalize_embeddings=True)
    torch.testing.assert_close(mine, other.cpu(), atol=1e-4, rtol=0)
    drops = [
        sorted(m.p for m in part.modules() if isinstance(m, torch.nn.Dropout))
        for part in (encoder.tower.model, model[0].auto_model)
    ]
    if drops[0] != drops[1]:
        raise SystemExit(f"dropout differs: {drops}")


def profile(train: Callable[[], Meter]) -> str:
    """Table of the operators that take most of the time."""
    from torch.profiler import ProfilerActivity
    from torch.profiler import profile as record

    with record(activities=[ProfilerActivity.CPU]) as run:
        train()
    return run.key_averages().table(
        sort_by="self_cpu_time_total", row_limit=12, max_name_column_width=40
    )


def write_figure(rounds: Sequence[dict[str, dict[str, float]]], title: str, path: Path) -> None:
    """Median sentences per second of every contender, with the rounds as points."""
    import matplotlib as mpl

    mpl.use("Agg")
    import matplotlib.pyplot as plt

    figure, axis = plt.subplots(figsize=(6, 2.8))
    for place, (name, colour) in enumerate(zip(NAMES, COLOURS, strict=True)):
        speeds = [r[name]["sentences_per_second"] for r in rounds]
        axis.barh(place, statistics.median(speeds), color=colour, alpha=0.8)
        axis.plot(speeds, [place] * len(speeds), ".", color="black", markersize=4)
    axis.set_yticks(range(len(NAMES)), NAMES)
    axis.invert_yaxis()
    axis.set_xlabel("sentences per second, training")
    axis.set_title(title, fontsize=8)
    figure.tight_layout()
    figure.savefig(path, dpi=110)


def main() -> None:
    """Run the rounds and write table and figure."""
    import sentence_transformers
    import transformers

    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="few of both, to build/bench")
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--window", type=int, default=20, help="batches that are sorted together")
    parser.add_argument("--rounds", type=int, help="instead of 5, or 1 with --quick")
    # eager is the faster one of the two for both sides where texts are short
    parser.add_argument("--attention", choices=("sdpa", "eager"), default="eager")
    parser.add_argument("--profile", action="store_true", help="print the costliest operators")
    parser.add_argument("--out", type=Path, help="folder of table and figure")
    args = parser.parse_args()
    out = args.out or results_folder(args.quick)
    steps, count = (8, 1) if args.quick else (25, 5)
    count = args.rounds or count
    logging.disable(logging.INFO)
    rounds: list[dict[str, dict[str, float]]] = []
    with tempfile.TemporaryDirectory() as folder:
        cfg, module, model, rows, views = build(folder, args.batch, args.attention)
        modules = [copy.deepcopy(module) for _ in range(3)]

        def contenders() -> dict[str, Callable[[], Meter]]:
            return {
                NAMES[0]: lambda: ours(modules[0], cfg, views, steps, GROUPS, args.window),
                NAMES[1]: lambda: ours(modules[1], cfg, views, steps, GROUPS, None),
                NAMES[2]: lambda: ours(modules[2], cfg, views, steps, 1, None),
                NAMES[3]: lambda: theirs(model, cfg, rows, steps),
            }

        for number in range(count):
            order = NAMES if number % 2 == 0 else NAMES[::-1]  # a drift of the machine evens out
            runs = contenders()
            done = {name: runs[name]().figures(args.batch) for name in order}
            rounds.append(done)
            print("  ".join(f"{n} {done[n]['sentences_per_second']:.0f}/s" for n in NAMES))
        if args.profile:
            for name, train in contenders().items():
                print(name, profile(train), sep="\n")
    machine = {
        "date": datetime.date.today().isoformat(),
        "machine": cpu_name(),
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "sentence_transformers": sentence_transformers.__version__,
        "encoder": cfg.model.pretrained,
        "attention": args.attention,
        "batch": args.batch,
        "max_length": cfg.data.max_length,
        "steps": steps,
        "rounds": count,
    }
    table = []
    for name in NAMES:
        row = {
            key: round(statistics.median(r[name][key] for r in rounds), 1)
            for key in rounds[0][name]
        }
        ratio, cpu_ratio = (
            statistics.median(r[NAMES[-1]][key] / r[name][key] for r in rounds)
            for key in ("step_ms", "step_cpu_ms")
        )
        ratios = {"ratio": round(ratio, 3), "cpu_ratio": round(cpu_ratio, 3)}
        table.append({**machine, "name": name, **row, **ratios})
        print(
            f"{name}: {row['sentences_per_second']:.0f} sentences/s, ratio {ratio:.3f} "
            f"({cpu_ratio:.3f} in CPU time); a step "
            f"{row['step_ms']:.0f} ms, of it data {row['data_ms']:.1f} ms; "
            f"{row['tokens_per_sentence']:.1f} padded tokens per sentence"
        )
    write_rows(table, out / "text_training.csv")
    title = f"{machine['machine']}, {machine['threads']} thread(s), batch {args.batch} pairs"
    write_figure(rounds, title, out / "text_training.png")


if __name__ == "__main__":
    main()
