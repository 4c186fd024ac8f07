"""What the trainer section becomes on this machine."""

import json

import pytest
import torch

from common.config import TrainerConfig
from common.engine import trainer
from common.engine.run import train
from common.engine.trainer import computes_bfloat16, run_precision


def test_emulated_bfloat16_runs_in_float32(monkeypatch):
    """Only bf16-mixed, only on a processor without it; on a GPU and elsewhere the config counts."""
    asked = TrainerConfig(precision="bf16-mixed", accelerator="cpu")
    monkeypatch.setattr(trainer, "computes_bfloat16", lambda: False)
    assert run_precision(asked) == "32-true"
    for other in ("32-true", "bf16-true", "64-true"):
        assert run_precision(TrainerConfig(precision=other, accelerator="cpu")) == other
    assert run_precision(TrainerConfig(precision="bf16-mixed", accelerator="gpu")) == "bf16-mixed"
    monkeypatch.setattr(trainer, "computes_bfloat16", lambda: True)
    assert run_precision(asked) == "bf16-mixed"


@pytest.mark.parametrize(
    ("found", "fast"),
    [({"avx512_bw": True, "avx512_bf16": False}, False), ({"avx512_bf16": True}, True),
     ({"amx_bf16": True}, True), ({"bf16": True, "neon": True}, True), ({"neon": True}, False)],
)  # fmt: skip
def test_processors_with_bfloat16(monkeypatch, found, fast):
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: found)
    assert computes_bfloat16() == fast


@pytest.mark.parametrize("fast", [True, False])
def test_a_run_says_and_keeps_what_it_computes_in(tmp_path, monkeypatch, capsys, fast):
    monkeypatch.setattr(trainer, "computes_bfloat16", lambda: fast)
    words = ["trainer.precision=bf16-mixed", "trainer.max_steps=2", f"runs_dir={tmp_path}"]
    run = train("simcse", "smoke", words)
    meta = json.loads((run / "meta.json").read_text())
    assert meta["precision"] == ("bf16-mixed" if fast else "32-true")
    assert ("only emulates bf16-mixed; runs in 32-true" in capsys.readouterr().out) != fast
