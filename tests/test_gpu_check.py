"""`make gpu-check` without a device: its plan, its pieces on a stand-in, and the losses that it times."""

import csv
import json
import sys

import pytest
import torch

from benchmarks import bench_losses_gpu as bench
from benchmarks import gpu_check
from benchmarks.gpu_check import Piece


def test_the_plan_names_every_piece(capsys, tmp_path):
    assert gpu_check.main(["--dry-run", "--out", str(tmp_path)]) == 0
    plan = capsys.readouterr().out
    for name in (
        "tests:",
        "resume:",
        "losses-bf16:",
        "losses-half:",
        "losses-tf32:",
        "losses-fp32:",
        "train-laclip:",
        "train-simcse:",
    ):
        assert name in plan
    assert gpu_check.main(["--only", "nothing"]) == 2


def test_without_a_device_it_says_so(capsys, tmp_path, monkeypatch):
    monkeypatch.setattr(gpu_check, "card", lambda: "")
    assert gpu_check.main(["--out", str(tmp_path)]) == 2
    assert "needs a CUDA device" in capsys.readouterr().err


@pytest.fixture
def device(monkeypatch, tmp_path):
    """A card that is none; `use(...)` sets the pieces and runs them."""
    monkeypatch.setattr(gpu_check, "card", lambda: "Test Card")
    monkeypatch.setattr(gpu_check, "commit", lambda: "abc")

    def use(programs, *words):
        found = [Piece(name, "a test", ["-c", code]) for name, code in programs.items()]
        monkeypatch.setattr(gpu_check, "pieces", lambda out: found)
        return gpu_check.main(["--out", str(tmp_path), *words])

    return use


def test_what_passed_is_not_run_again_and_what_failed_is(device, tmp_path):
    count = f"open({str(tmp_path / 'count')!r}, 'a').write('x')"
    broken = {"good": count, "bad": "raise SystemExit('the kernel is wrong')"}
    assert device(broken) == 1
    summary = (tmp_path / "summary.md").read_text()
    assert "| good | a test | passed |" in summary
    assert "| bad | a test | failed (1) |" in summary
    assert "the kernel is wrong" in summary
    assert device({**broken, "bad": "pass"}) == 0
    assert (tmp_path / "count").read_text() == "x"
    assert json.loads((tmp_path / "bad.json").read_text())["exit_code"] == 0


def test_another_commit_or_card_runs_everything(device, tmp_path, monkeypatch):
    count = {"good": f"open({str(tmp_path / 'count')!r}, 'a').write('x')"}
    device(count)
    monkeypatch.setattr(gpu_check, "commit", lambda: "def")
    device(count)
    monkeypatch.setattr(gpu_check, "card", lambda: "Other Card")
    device(count)
    assert (tmp_path / "count").read_text() == "xxx"


def test_when_the_minutes_are_over_the_rest_is_left(device, tmp_path):
    assert device({"one": "pass"}, "--minutes", "0.1") == 3
    assert "| one | a test | not run |" in gpu_check.summary(
        [], [Piece("one", "a test", [])], tmp_path
    )


def test_a_piece_that_hangs_is_ended(tmp_path):
    piece = Piece("hangs", "a test", ["-c", "import time; time.sleep(60)"])
    assert (
        gpu_check.run_piece(piece, tmp_path, {"card": "c", "commit": "d"}, 0.5)["exit_code"] == 124
    )


@pytest.fixture
def on_the_cpu(monkeypatch):
    monkeypatch.setattr(bench, "DEVICE", "cpu")
    monkeypatch.setattr(bench, "milliseconds", lambda run: (run(), 1.0)[1])
    monkeypatch.setattr(bench, "peak_mib", lambda run: (run(), 2.0)[1])
    monkeypatch.setattr(torch, "compile", lambda function: function)
    monkeypatch.setattr(bench, "ours", lambda q, k, scale: bench.info_nce(q, k, scale))
    monkeypatch.setattr(
        bench, "kept", lambda q, k, scale: bench.info_nce(q, k, scale, memory_budget=10**6)
    )


@pytest.mark.parametrize("case", list(bench.CASES))
def test_all_candidates_of_a_case_are_the_same_loss(on_the_cpu, case):
    rows = list(bench.measure(case, 48, 16, "fp32", 1, set()))
    assert {"ours, module", "dense", "compiled", "floor"} <= {row["candidate"] for row in rows}
    for row in rows:
        if row["candidate"] != "floor":
            assert float(row["loss_error"]) < 1e-5, row
            assert float(row["grad_error"]) < 1e-4, row
    assert not list(bench.measure(case, 48, 16, "fp32", 1, {str(r["candidate"]) for r in rows}))


def test_a_wrong_candidate_shows_its_error(on_the_cpu, monkeypatch):
    wrong = bench.Case(
        bench.dense, 4, lambda: {"wrong": lambda q, k, s: 1.1 * bench.dense(q, k, s)}
    )
    monkeypatch.setitem(bench.CASES, "symmetric", wrong)
    row = next(iter(bench.measure("symmetric", 48, 16, "fp32", 1, set())))
    assert float(row["loss_error"]) > 0.05


def test_rows_are_written_as_they_come_and_go_on_after_a_cut(on_the_cpu, monkeypatch, tmp_path):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    env = dict.fromkeys(("date", "card", "torch", "cuda", "triton"), "x")
    monkeypatch.setattr(bench, "environment", lambda: env)
    out = tmp_path / "losses_gpu.csv"
    words = [
        "bench",
        "--cases",
        "row-only",
        "--dtypes",
        "fp32",
        "--sizes",
        "32",
        "--dims",
        "8",
        "--rounds",
        "1",
        "--out",
        str(out),
    ]
    monkeypatch.setattr(sys, "argv", words)
    measure = bench.measure

    def cut(*arguments):
        yield next(iter(measure(*arguments)))
        raise KeyboardInterrupt

    monkeypatch.setattr(bench, "measure", cut)
    with pytest.raises(KeyboardInterrupt):
        bench.main()
    assert len(bench.rows_at_hand(out)) == 1
    monkeypatch.setattr(bench, "measure", measure)
    assert bench.main() == 0
    with out.open() as file:
        names = [row["candidate"] for row in csv.DictReader(file)]
    assert len(names) == len(set(names))
    assert "floor" in names
