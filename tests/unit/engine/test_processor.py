import json

import pytest
import torch

from common.config import UserError
from common.engine import processor
from common.engine.processor import SWITCH, choose_cpu_gemm
from common.engine.run import train


@pytest.fixture(autouse=True)
def own_setting(monkeypatch):
    processor._faster_here.cache_clear()
    processor._stays_float32.cache_clear()
    yield
    monkeypatch.undo()
    processor._faster_here.cache_clear()
    processor._stays_float32.cache_clear()
    torch.set_float32_matmul_precision("highest")


def here(monkeypatch, asked, *, faster=True, error=1e-7):
    monkeypatch.setenv(SWITCH, asked)
    monkeypatch.setattr(processor, "_faster_here", lambda: faster)
    monkeypatch.setattr(processor, "_product_error", lambda *shape: error)
    return choose_cpu_gemm()


def test_auto_takes_onednn_only_where_it_is_faster_and_exact(monkeypatch):
    assert here(monkeypatch, "auto") == "onednn"
    assert torch.get_float32_matmul_precision() == "medium"
    processor._stays_float32.cache_clear()
    assert here(monkeypatch, "auto", error=4e-3) == "vendor"
    assert torch.get_float32_matmul_precision() == "highest"
    assert here(monkeypatch, "auto", faster=False) == "vendor"
    assert here(monkeypatch, "vendor") == "vendor"


def test_onednn_is_refused_where_products_lose_precision(monkeypatch):
    with pytest.raises(UserError, match="does not keep float32"):
        here(monkeypatch, "onednn", error=4e-3)
    assert torch.get_float32_matmul_precision() == "highest"
    with pytest.raises(UserError, match="use auto, vendor or onednn"):
        here(monkeypatch, "mkl")


def test_the_self_test_sees_bfloat16(monkeypatch):
    """The negative twin: products rounded to bfloat16 are not taken for float32."""
    assert max(processor._product_error(*shape) for shape in processor._SHAPES) < 2e-6
    exact = torch.bmm
    monkeypatch.setattr(torch, "bmm", lambda a, b: exact(a.bfloat16(), b.bfloat16()).float())
    assert processor._product_error(64, 512, 40) > 1e-4


@pytest.mark.parametrize(
    ("found", "intel", "faster"),
    [
        ({"avx512_f": True}, False, True),
        ({"avx512_f": True, "avx512_bf16": True}, False, False),
        ({"avx512_f": True, "amx_bf16": True}, False, False),
        ({"avx512_f": True}, True, False),
        ({"avx2": True}, False, False),
    ],
)
def test_processors(monkeypatch, found, intel, faster):
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: found)
    monkeypatch.setattr(processor, "_is_intel", lambda: intel)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert processor._faster_here() == faster


def test_a_run_keeps_its_library(tmp_path, monkeypatch):
    """meta.json names it, and a resumed run refuses another one."""
    words = ["trainer.max_steps=2", f"runs_dir={tmp_path}"]
    monkeypatch.setenv(SWITCH, "vendor")
    run = train("simcse", "smoke", words)
    assert json.loads((run / "meta.json").read_text())["cpu_gemm"] == "vendor"
    here(monkeypatch, "auto")
    with pytest.raises(UserError, match=f"set {SWITCH}=vendor to continue it"):
        train("simcse", "smoke", [*words, f"resume={run.name}"])
