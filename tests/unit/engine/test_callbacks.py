"""What callbacks measure and average, and the guard before a step."""

import json
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from lightning.pytorch import Trainer
from torch import nn
from torch.utils.data import DataLoader, Dataset

from common.config import OptimConfig
from common.engine import module as module_file
from common.engine.callbacks import EMA, LogTerms, MatmulPrecision, SaveBadBatch, peak_memory_mib
from common.engine.checkpoint import RunCheckpoint
from common.engine.module import ContrastiveModule, Guarded, NonFiniteLossError
from common.engine.tracking import MetricsCSV, drop_rows_after, read_metrics
from tests.unit.engine.killed_fits import fit as fit_counter

QUIET = {
    "accelerator": "cpu",
    "logger": False,
    "enable_progress_bar": False,
    "enable_model_summary": False,
    "num_sanity_val_steps": 0,
    "max_epochs": -1,
}


class Batches(Dataset):
    """Batches {"ids": (1,)}, one after the other."""

    def __len__(self):
        return 20

    def __getitem__(self, index):
        return {"ids": torch.tensor([index])}


SGD = OptimConfig(name="sgd", momentum=0.0, lr=0.5, schedule="constant")


class Sum(ContrastiveModule):
    """The sum of its weights; not a number for one batch."""

    def __init__(self, bad=-1, optim=SGD):
        super().__init__(optim)
        self.weight, self.bad, self.seen = nn.Parameter(torch.ones(2)), bad, []

    def losses(self, batch):
        self.seen.append(int(batch["ids"]))
        broken = float("nan") if self.seen[-1] == self.bad else 0.0
        return {"loss": self.weight.sum() + broken, "fine": torch.zeros(())}

    def validation_step(self, batch, index):
        time.sleep(0.1)


def fit(module, tmp_path, *further, steps=4, **options):
    data = DataLoader(Batches(), batch_size=None)
    trainer = Trainer(
        max_steps=steps, default_root_dir=tmp_path, callbacks=list(further), **QUIET, **options
    )
    trainer.fit(
        module, data, DataLoader(torch.zeros(1, 1)) if "val_check_interval" in options else None
    )
    return trainer


@pytest.fixture
def no_gpu(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)


def test_a_proc_without_the_peak_of_memory_neither_repeats_batches_nor_fails(
    tmp_path, monkeypatch, no_gpu
):
    """gVisor's has no VmHWM line: a StopIteration in a hook would end the epoch."""
    read = Path.read_text

    def without_peaks(self, *args, **options):
        text = read(self, *args, **options)
        lines = [line for line in text.splitlines() if not line.startswith("VmHWM")]
        return "\n".join(lines) if str(self) == "/proc/self/status" else text

    monkeypatch.setattr(Path, "read_text", without_peaks)
    module, log = Sum(), LogTerms(2, 1)
    trainer = fit(module, tmp_path, log, steps=6, enable_checkpointing=False)
    assert module.seen == [0, 1, 2, 3, 4, 5]
    assert log.summary(trainer)["peak_memory_mib"] > 1
    assert peak_memory_mib() > 1


@pytest.mark.parametrize("bad", [4, 5])
def test_the_guard_sees_every_micro_batch_of_a_step(tmp_path, bad):
    """The third of three steps is the last: nothing after it would tell."""
    module = Sum(bad)
    with pytest.raises(NonFiniteLossError, match=r"step 2: loss is not finite"):
        fit(
            module,
            tmp_path,
            SaveBadBatch(tmp_path),
            steps=3,
            accumulate_grad_batches=2,
            enable_checkpointing=False,
        )
    assert module.weight.tolist() == [0.0, 0.0]  # two steps of 0.5
    said = json.loads((tmp_path / "bad_batch_rank0.json").read_text())
    assert said == {"terms": ["loss"], "ids": [bad]}


@pytest.mark.parametrize("bad", [1, 2])
def test_the_guard_of_a_gpu_comes_a_step_later_and_before_a_checkpoint(tmp_path, bad, monkeypatch):
    """The answer of the last step is awaited by its checkpoint."""

    class Late(Guarded):
        def __init__(self, *args):
            super().__init__(*args)
            self.late = True

    monkeypatch.setattr(module_file, "Guarded", Late)
    module, saved = Sum(bad), RunCheckpoint(tmp_path / "checkpoints", 3)
    with pytest.raises(NonFiniteLossError, match=rf"step {bad}: .* checkpoint is from before"):
        fit(module, tmp_path, SaveBadBatch(tmp_path), saved, steps=3)
    assert json.loads((tmp_path / "bad_batch_rank0.json").read_text())["ids"] == [bad]
    assert not list((tmp_path / "checkpoints").glob("*"))
    assert module.seen == [0, 1, 2]  # of the bad step 1, the next batch too


def test_bf16_clips_with_a_fused_optimiser(tmp_path):
    """Lightning alone refuses the two together."""
    options = {"precision": "bf16-mixed", "gradient_clip_val": 0.1, "enable_checkpointing": False}
    module = Sum()
    fit(module, tmp_path, steps=1, **options)
    assert module.weight.tolist() == pytest.approx([1 - 0.5 * 0.1 / 2**0.5] * 2, abs=1e-6)
    trainer = fit(Sum(optim=OptimConfig(lr=0.1)), tmp_path, steps=1, **options)
    assert trainer.optimizers[0].defaults["fused"]


def test_validating_and_saving_is_no_waiting_for_data(tmp_path, monkeypatch):
    class Slow(RunCheckpoint):
        def _write(self, trainer, path):
            time.sleep(0.1)
            super()._write(trainer, path)

    log = LogTerms(2, 1)
    slow = Slow(tmp_path, every=1)
    trainer = fit(Sum(), tmp_path, log, slow, val_check_interval=2, check_val_every_n_epoch=None)
    summary = log.summary(trainer)
    seconds = trainer.global_step / summary["samples_per_second"]
    assert seconds > 0.5
    assert summary["data_wait_share"] * seconds < 0.2


def test_the_logged_rate_is_that_of_the_top_layer():
    """With layer decay the first group is the lowest layer's."""
    log, trainer = LogTerms(100, 1), type("T", (), {"global_step": 0})()
    for scale, rate in ((0.25, 0.125), (1.0, 0.3), (0.0, 0.0)):
        optimizer = torch.optim.SGD(
            [{"params": [nn.Parameter(torch.ones(1))], "lr": rate, "lr_scale": scale}]
        )
        log.on_before_optimizer_step(trainer, None, optimizer)
        assert log.lr == {0.25: 0.5, 1.0: 0.3, 0.0: 0.0}[scale]


def test_ema_averages_buffers_in_floating_point_and_copies_counters():
    net = nn.BatchNorm1d(1)
    net.device = torch.device("cpu")
    trainer, ema = type("T", (), {"global_step": 0})(), EMA(0.75)
    ema.on_train_start(trainer, net)
    trainer.global_step = 1
    net.running_mean.fill_(4.0)
    net.num_batches_tracked.fill_(9)
    ema.on_train_batch_end(trainer, net)
    assert ema.average["running_mean"].item() == pytest.approx(1.0)
    assert ema.average["num_batches_tracked"].item() == 9


def test_validations_are_logged_at_the_step_that_they_follow(tmp_path):
    """Next to the training rows of that step; Lightning logs them one step earlier."""

    class Losses(LogTerms):
        def on_train_batch_end(self, trainer, module, *_):
            trainer.logger.log_metrics({"train/loss": 0.0}, trainer.global_step)

    log = MetricsCSV(tmp_path / "metrics.csv", "train")
    fit_counter(tmp_path, {2: 0.5, 4: 0.9}, Losses(1, 1), logger=log)
    curves = read_metrics(tmp_path / "metrics.csv")
    assert curves["train/val/score"] == [(2, 0.5), (4, pytest.approx(0.9))]
    assert [step for step, _ in curves["train/train/loss"]] == [1, 2, 3, 4]
    drop_rows_after(tmp_path / "metrics.csv", "train", 3)
    assert read_metrics(tmp_path / "metrics.csv")["train/val/score"] == [(2, 0.5)]


@pytest.mark.parametrize("end", ["teardown", "on_exception"])
def test_float32_products_are_those_of_the_config_during_a_fit_on_cuda_alone(end):
    def on(device):
        return SimpleNamespace(strategy=SimpleNamespace(root_device=torch.device(device)))

    before = torch.get_float32_matmul_precision()
    callback = MatmulPrecision("medium")
    callback.setup(on("cpu"), None, "fit")
    assert torch.get_float32_matmul_precision() == before != "medium"
    callback.setup(on("cuda"), None, "fit")
    assert torch.get_float32_matmul_precision() == "medium"
    getattr(callback, end)(on("cuda"), None, "fit")
    assert torch.get_float32_matmul_precision() == before
