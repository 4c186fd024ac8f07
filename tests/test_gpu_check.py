"""`make gpu-check` without a device: its plan, its pieces on a stand-in, and the losses that it
times.
"""

import csv
import json
import sys

import pytest
import torch

from benchmarks import bench_losses_gpu as bench
from benchmarks import gpu_check
from benchmarks.gpu_check import Piece
from benchmarks.report_tables import gpu_table
from common.kernels.gpu import toolchain


def small_bench(case, out):
    """The command line of one case on few pairs."""
    words = f"bench --cases {case} --dtypes fp32 --sizes 32 --dims 8 --rounds 1 --out"
    return [*words.split(), str(out)]


def test_the_plan_names_every_piece(capsys, tmp_path):
    assert gpu_check.main(["--dry-run", "--out", str(tmp_path)]) == 0
    plan = capsys.readouterr().out
    for name in (
        "tests:",
        "resume:",
        "two-gpus:",
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
    monkeypatch.setattr(gpu_check, "devices", lambda: 1)
    monkeypatch.setattr(gpu_check, "unmet", lambda: "")

    def use(programs, *words, two=()):
        actual = [
            Piece(name, "a test", ["-c", code], 2 if name in two else 1)
            for name, code in programs.items()
        ]
        monkeypatch.setattr(gpu_check, "pieces", lambda out: actual)
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


def test_what_needs_more_devices_is_named_and_not_run(device, capsys):
    """Once there was no piece for two devices; one that is skipped must not count as passed."""
    broken = {"one": "pass", "both": "raise SystemExit(1)"}
    assert device(broken, two=["both"]) == 0
    assert "| both | a test | not run (needs 2 devices) |" in capsys.readouterr().out
    assert device(broken, "--only", "both", two=["both"]) == 2


def test_without_a_compiler_nothing_is_begun(device, tmp_path, monkeypatch, capsys):
    """Triton compiles a launcher in C when a kernel is first launched, and raised there."""
    monkeypatch.undo()
    monkeypatch.setattr(gpu_check, "card", lambda: "Test Card")
    include = tmp_path / "include"
    include.mkdir()
    monkeypatch.setattr(toolchain.sysconfig, "get_paths", lambda scheme: {"include": str(include)})
    monkeypatch.delenv("CC", raising=False)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert gpu_check.main(["--out", str(tmp_path / "out")]) == 2
    said = capsys.readouterr().err
    assert "C compiler" in said
    assert "Python.h" in said
    assert not (tmp_path / "out").exists()
    (include / "Python.h").touch()
    (tmp_path / "gcc").touch(0o755)
    assert gpu_check.unmet() == ""
    monkeypatch.setenv("CC", "icx")
    assert "C compiler" in gpu_check.unmet()


def test_without_git_the_commit_is_unknown(monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    assert gpu_check.commit() == "unknown"


def test_another_commit_measures_the_losses_again(monkeypatch, tmp_path):
    """Rows of an older commit in the table were left out, and the piece passed."""
    tables = []
    for commit in ("abc", "def"):
        monkeypatch.setattr(gpu_check, "commit", lambda commit=commit: commit)
        tables += [p.words[-1] for p in gpu_check.pieces(tmp_path) if p.name == "losses-bf16"]
    assert len(set(tables)) == 2


@pytest.fixture
def on_the_cpu(monkeypatch):
    monkeypatch.setattr(bench, "DEVICE", "cpu")
    monkeypatch.setattr(bench, "milliseconds", lambda run: (run(), 1.0)[1])
    monkeypatch.setattr(bench, "peak_mib", lambda run: (run(), 2.0)[1])
    monkeypatch.setattr(torch, "compile", lambda function: function)
    plain = bench.info_nce
    monkeypatch.setattr(
        bench, "info_nce", lambda *args, **options: plain(*args, **{**options, "backend": "auto"})
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
        bench.dense, 4, lambda precision: {"wrong": lambda q, k, s: 1.1 * bench.dense(q, k, s)}
    )
    monkeypatch.setitem(bench.CASES, "symmetric", wrong)
    row = next(iter(bench.measure("symmetric", 48, 16, "fp32", 1, set())))
    assert float(row["loss_error"]) > 0.05


@pytest.mark.parametrize("precision", ["bf16", "tf32", "half", "fp32"])
def test_our_candidates_may_round_what_the_precision_says(on_the_cpu, monkeypatch, precision):
    """In half and tf32 two of three multiplied float32 exactly, under the name of the precision."""
    asked = []
    losses = bench.CASES["symmetric"].losses(precision)
    monkeypatch.setattr(
        bench, "info_nce", lambda *args, **options: asked.append(options["precision"])
    )
    for name in ("ours", "ours, by addresses", "ours, tiles kept"):
        losses[name](*bench.inputs(4, 8, torch.float32))
    assert asked == [precision if precision in ("half", "tf32") else "exact"] * 3


@pytest.mark.parametrize(("factor", "code"), [(1.0, 0), (1.1, 1), (float("nan"), 1)])
def test_a_wrong_loss_of_ours_fails(on_the_cpu, monkeypatch, tmp_path, capsys, factor, code):
    """The exit code was 0 whatever the errors were; others than ours are only shown."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    env = dict.fromkeys(("date", "card", "torch", "cuda", "triton"), "x")
    monkeypatch.setattr(bench, "environment", lambda: env)
    candidates = {
        "ours, module": lambda q, k, s: factor * bench.dense(q, k, s),
        "theirs": lambda q, k, s: 1.1 * bench.dense(q, k, s),
    }
    monkeypatch.setitem(
        bench.CASES, "symmetric", bench.Case(bench.dense, 4, lambda precision: candidates)
    )
    out = tmp_path / "losses_gpu.csv"
    monkeypatch.setattr(sys, "argv", small_bench("symmetric", out))
    assert bench.main() == code
    names = {row["candidate"] for row in bench.rows_at_hand(out)}
    assert ("ours, module" in names) == (code == 0)  # measured again, once it is mended
    assert "theirs" in names
    assert ("wrong" in capsys.readouterr().err) == bool(code)


def test_rows_are_written_as_they_come_and_go_on_after_a_cut(on_the_cpu, monkeypatch, tmp_path):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    env = dict.fromkeys(("date", "card", "torch", "cuda", "triton"), "x")
    monkeypatch.setattr(bench, "environment", lambda: env)
    out = tmp_path / "losses_gpu.csv"
    monkeypatch.setattr(sys, "argv", small_bench("row-only", out))
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


def test_a_file_that_holds_its_header_alone_has_one_header(monkeypatch, tmp_path):
    """Of a run that was cut off before its first row; the table of the docs says that nothing was
    run.
    """
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    env = dict.fromkeys(("date", "card", "torch", "cuda", "triton"), "x")
    monkeypatch.setattr(bench, "environment", lambda: env)
    out = tmp_path / "benchmarks" / "results" / "losses_gpu.csv"
    monkeypatch.setattr(sys, "argv", small_bench("row-only", out))
    monkeypatch.setattr(bench, "measure", lambda *arguments: iter(()))
    assert gpu_table(out).startswith("Not yet run on a GPU")
    assert bench.main() == 0
    assert gpu_table(out).startswith("Not yet run on a GPU")
    row = {"candidate": "ours", "ms": 1.0, "over_floor": 2.0, "peak_mib": 3}
    monkeypatch.setattr(bench, "measure", lambda *arguments: iter([row]))
    assert bench.main() == 0
    assert len(out.read_text().splitlines()) == 2
    assert [actual["candidate"] for actual in bench.rows_at_hand(out)] == ["ours"]
    assert "| row-only | ours | 2.0 (1.0 ms), 3 MiB |" in gpu_table(out)
