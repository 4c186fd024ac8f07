r"""Our SASRec, with its loop and full ranking, against RecBole's: time and NDCG on one split.

The bundled Amazon Beauty log, leave-one-out, every item a candidate; one size of model and one
learning rate. RecBole trains a row for each prefix, and so do we (``each``: the same rows, batches
and updates); ``one_pass`` is the form of this repository's `mini`, with fewer and larger updates.
One thread; epochs in turns; CPU seconds, so that a neighbour on the machine matters little. After
training RecBole scores our weights as well, which must give our metrics. The peer runs in a process
of its own with the packages of a folder, for instance of

    pip install --target /tmp/peer --no-deps recbole==1.2.1 'pandas<2.3' python-dateutil pytz tzdata
    \
        six colorlog colorama texttable thop tabulate tensorboard tensorboard-data-server absl-py \
        grpcio markdown protobuf werkzeug

    python -m projects.mclrec.benchmark --peer /tmp/peer [--quick]
"""

import argparse
import datetime
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from benchmarks.measure import results_folder, write_rows
from common.config import ROOT
from common.files import write_text

RESULTS = results_folder(quick=False)

DIM, LAYERS, HEADS, INNER, LENGTH, DROPOUT = 64, 1, 2, 256, 20, 0.5
BATCH, RATE, TOP = 256, 3e-3, 20
OURS = ("each", "one_pass")
PEER = "RecBole"


def peer(folder: str, seed: int) -> None:
    """Answer requests on standard input: an epoch, an evaluation, the evaluation of a weights file."""
    answers, sys.stdout = sys.stdout, sys.stderr
    import numpy

    names = {"float_": numpy.float64, "complex_": numpy.complex128, "unicode_": numpy.str_}
    for name, kind in names.items():  # RecBole 1.2.1 asks for names that NumPy 2 dropped
        setattr(numpy, name, kind)
    import recbole
    import torch
    from recbole.config import Config
    from recbole.data import create_dataset, data_preparation
    from recbole.model.sequential_recommender import SASRec
    from recbole.utils import get_trainer, init_seed
    from safetensors.torch import load_file

    os.chdir(tempfile.mkdtemp())
    settings = {
        "data_path": folder,
        "seed": seed,
        "reproducibility": True,
        "use_gpu": False,
        "state": "ERROR",
        "USER_ID_FIELD": "user_id",
        "ITEM_ID_FIELD": "item_id",
        "TIME_FIELD": "timestamp",
        "load_col": {"inter": ["user_id", "item_id", "timestamp"]},
        "MAX_ITEM_LIST_LENGTH": LENGTH,
        "train_neg_sample_args": None,
        "loss_type": "CE",
        "eval_args": {
            "split": {"LS": "valid_and_test"},
            "order": "TO",
            "mode": "full",
            "group_by": "user",
        },
        "metrics": ["Hit", "NDCG"],
        "topk": [TOP],
        "valid_metric": f"NDCG@{TOP}",
        "train_batch_size": BATCH,
        "eval_batch_size": 512,
        "learner": "adam",
        "learning_rate": RATE,
        "n_layers": LAYERS,
        "n_heads": HEADS,
        "hidden_size": DIM,
        "inner_size": INNER,
        "hidden_act": "gelu",
        "hidden_dropout_prob": DROPOUT,
        "attn_dropout_prob": DROPOUT,
        "layer_norm_eps": 1e-12,
        "initializer_range": 0.02,
        "show_progress": False,
    }
    sys.argv = sys.argv[:1]  # RecBole reads settings from the command line
    config = Config(model="SASRec", dataset="beauty", config_dict=settings)
    init_seed(seed, True)
    torch.set_num_threads(1)
    train, _, test = data_preparation(config, create_dataset(config))
    model = SASRec(config, train.dataset)
    trainer = get_trainer(config["MODEL_TYPE"], config["model"])(config, model)
    epoch = 0
    for line in sys.stdin:
        request = json.loads(line)
        start = time.process_time()
        if request["do"] == "epoch":
            trainer._train_epoch(train, epoch, show_progress=False)
            epoch += 1
            found: dict[str, Any] = {"prefixes": len(train.dataset)}
        else:
            if request["do"] == "weights":
                model.load_state_dict(load_file(request["file"]))
            result = trainer.evaluate(test, load_best_model=False, show_progress=False)
            found = {
                name: result[f"{key}@{TOP}"] for name, key in (("hr", "hit"), ("ndcg", "ndcg"))
            }
        found |= {"seconds": time.process_time() - start, "version": recbole.__version__}
        answers.write(json.dumps(found) + "\n")
        answers.flush()


class Peer:
    """The other process."""

    def __init__(self, packages: str, folder: str, seed: int) -> None:
        self.process: Any = subprocess.Popen(
            [sys.executable, "-m", "projects.mclrec.benchmark", "--as-peer", folder, str(seed)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            cwd=ROOT,
            env={**os.environ, "PYTHONPATH": packages},
        )

    def ask(self, **request: str) -> dict[str, Any]:
        """One request, one answer."""
        self.process.stdin.write(json.dumps(request) + "\n")
        self.process.stdin.flush()
        line = self.process.stdout.readline()
        if not line:
            raise SystemExit("the peer ended: see its message above")
        found: dict[str, Any] = json.loads(line)
        return found

    def close(self) -> None:
        """End the process."""
        self.process.stdin.close()
        self.process.wait()


def write_log(folder: Path) -> None:
    """The bundled log as RecBole's ``.inter``, items in the order of our ids, times as places."""
    sets = load_sets(config("each", 0, str(folder)))
    lines = ["user_id:token\titem_id:token\ttimestamp:float"]
    for user, items in enumerate(sets.log.sequences):
        lines += [f"u{user}\ti{item}\t{place}" for place, item in enumerate(items)]
    (folder / "beauty").mkdir()
    write_text(folder / "beauty" / "beauty.inter", "\n".join(lines) + "\n")


def config(form: str, seed: int, folder: str) -> Any:
    """Config of our contender: `mini` without a contrast, with the sizes of above."""
    from common.config import load
    from projects.mclrec.config import Config

    settings = [
        f"data.prefixes={form}",
        f"data.batch_size={BATCH}",
        f"data.max_length={LENGTH}",
        f"model.dim={DIM}",
        f"model.num_layers={LAYERS}",
        f"model.num_heads={HEADS}",
        f"model.ffn_dim={INNER}",
        f"model.hidden_dropout={DROPOUT}",
        f"model.attention_dropout={DROPOUT}",
        "method.cl1_weight=0.0",
        "method.cl2_weight=0.0",
        f"optim.lr={RATE}",
        "optim.weight_decay=0.0",
        "trainer.accelerator=cpu",
        "trainer.checkpoint_every_n_steps=1000000",
        "trainer.val_every_n_steps=null",
        f"seed={seed}",
        f"runs_dir={folder}",
    ]
    return load(Config, "mclrec", "mini", settings)


def load_sets(cfg: Any) -> Any:
    """Log and split of a config."""
    from projects.mclrec import data

    return data.load_sets(cfg)


class Turns:
    """Our training set, which calls `between` at the start of every epoch and times the epochs."""

    def __init__(self, rows: Any, steps: int, between: Any) -> None:
        self.rows, self.steps, self.between = rows, steps, between
        self.asked, self.started, self.seconds = 0, 0.0, []

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, keys: Any) -> Any:
        if self.asked % self.steps == 0:
            self.turn()
        self.asked += 1
        return self.rows[keys]

    def turn(self) -> None:
        """End an epoch, let the other work, begin the next."""
        if self.asked:
            self.seconds.append(time.process_time() - self.started)
        self.between(self.asked // self.steps)
        self.started = time.process_time()


def run(form: str, seed: int, epochs: int, other: Peer | None, folder: str) -> list[dict[str, Any]]:
    """Train ours, with an epoch of the peer's after each of ours: a row for each and epoch."""
    import torch

    from common.data.module import ContrastiveData
    from common.engine.experiment import Stage
    from common.engine.trainer import build_trainer
    from common.engine.workspace import Workspace
    from projects.mclrec.data import training_set
    from projects.mclrec.evaluate import encoder_score, ranks_of
    from projects.mclrec.module import MCLRec
    from projects.mclrec.ranking import rank_metrics

    cfg = config(form, seed, folder)
    sets = load_sets(cfg)
    torch.manual_seed(seed)
    module = MCLRec(cfg, sets.log.items)
    rows = training_set(cfg, sets)
    steps = len(rows) // BATCH
    found: list[dict[str, Any]] = []

    def evaluated(name: str, epoch: int, result: dict[str, Any], **times: float) -> None:
        found.append({"contender": name, "seed": seed, "epoch": epoch, **times, **result})
        print(found[-1], flush=True)

    def between(epoch: int) -> None:
        if not epoch:
            return
        module.eval()
        start = time.process_time()
        with torch.no_grad():
            metrics = rank_metrics(
                ranks_of(cfg, sets, encoder_score(module.encoder, LENGTH)), [TOP]
            )
        own = time.process_time() - start
        module.train()
        result = {name: metrics[f"{name}_at_{TOP}"] for name in ("hr", "ndcg")}
        evaluated(form, epoch, result, train=turns.seconds[-1], evaluate=own)
        if other is not None:
            train = other.ask(do="epoch")
            answer = other.ask(do="evaluate")
            result = {name: answer[name] for name in ("hr", "ndcg")}
            evaluated(PEER, epoch, result, train=train["seconds"], evaluate=answer["seconds"])

    turns = Turns(rows, steps, between)
    data = ContrastiveData(turns, batch_size=BATCH, seed=seed)  # type: ignore[arg-type]
    cfg.trainer.max_steps = steps * epochs
    workspace = Workspace(Path(folder) / f"{form}-{seed}")
    workspace.folder(".")
    build_trainer(cfg, Stage("train", module, data), 0, workspace, []).fit(module, data)
    if len(turns.seconds) < epochs:  # nothing was asked for after the last epoch
        turns.turn()
    if other is not None:
        check_weights(module, found, other, folder)
    return found


def check_weights(module: Any, found: list[dict[str, Any]], other: Peer, folder: str) -> None:
    """RecBole's model and evaluator must give our weights the metrics that ours gave them."""
    from safetensors.torch import save_file

    file = f"{folder}/weights.safetensors"
    save_file({name: x.contiguous() for name, x in module.encoder.state_dict().items()}, file)
    theirs = other.ask(do="weights", file=file)
    ours = [row for row in found if row["contender"] == OURS[0]][-1]
    for name in ("hr", "ndcg"):
        print(f"our weights, {name}@{TOP}: ours {ours[name]:.5f}, scored by {PEER} {theirs[name]}")
        # it rounds to four digits, and may break ties otherwise
        if abs(ours[name] - theirs[name]) > 6e-4:
            raise SystemExit(f"{PEER} scores our weights otherwise")


def main() -> None:
    """Measure, print and write all epochs, and print the summary."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--peer", required=True, help="folder with RecBole and what it needs")
    parser.add_argument("--epochs", type=int, default=4)
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2])
    parser.add_argument(
        "--quick", action="store_true", help="one epoch and seed, nothing is written"
    )
    args = parser.parse_args()
    if args.quick:
        args.epochs, args.seeds = 1, [1]
    import torch

    from common.engine.workspace import cpu_name

    torch.set_num_threads(1)
    rows: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as folder:
        write_log(Path(folder))
        for seed in args.seeds:
            other = Peer(args.peer, folder, seed)
            rows += run(OURS[0], seed, args.epochs, other, folder)
            other.close()
            users = 1 if args.quick else 3  # an epoch has a seventh of the updates
            rows += run(OURS[1], seed, args.epochs * users, None, folder)
    print(summary(rows, cpu_name()))
    if not args.quick:
        short = [
            {k: round(v, 5) if isinstance(v, float) else v for k, v in row.items()} for row in rows
        ]
        write_rows(short, RESULTS / "recommendation.csv")


def summary(rows: list[dict[str, Any]], processor: str) -> str:
    """A table: CPU seconds of an epoch and an evaluation, their ratios to the peer's, NDCG at the end."""
    lines = [
        (
            f"| contender | epoch, CPU s | ours / it | evaluation, CPU s | ours / it | NDCG@{TOP}"
            " of the seeds |"
        ),
        "|---|---|---|---|---|---|",
    ]
    speed = {
        (name, part): statistics.median(r[part] for r in rows if r["contender"] == name)
        for name in (PEER, *OURS)
        for part in ("train", "evaluate")
    }
    for name in (PEER, *OURS):
        own = [r for r in rows if r["contender"] == name]
        last = max(r["epoch"] for r in own)
        ndcg = ", ".join(f"{r['ndcg']:.4f}" for r in own if r["epoch"] == last)
        cells = []
        for part in ("train", "evaluate"):
            ratio = speed[PEER, part] / speed[name, part]
            cells += [f"{speed[name, part]:.2f}", "" if name == PEER else f"{ratio:.2f} x faster"]
        lines.append(f"| {name} | {' | '.join(cells)} | {ndcg} after {last} epochs |")
    today = datetime.date.today().isoformat()
    return "\n".join([*lines, "", f"{processor}, one thread, epochs in turns, {today}."])


if __name__ == "__main__":
    if sys.argv[1:2] == ["--as-peer"]:
        peer(sys.argv[2], int(sys.argv[3]))
    else:
        main()
