"""What `runs` and `diff` print: four digits, and no name broken on a narrow terminal."""

import pytest

from common.engine import terminal, verbs
from common.engine.workspace import write_json

LONG = "compare-baseline-hypothesis_overlap-seed31-0a1b2c3d-0123456789ab"


@pytest.fixture
def runs(tmp_path):
    for name, lr, score in (("20261201-101010-ab12", 0.00012345678, 0.123456), (LONG, 0.5, 2.0)):
        folder = tmp_path / "runs/hydra/mini" / name
        folder.mkdir(parents=True)
        settings = {"optim": {"lr": lr}, "model": {"a_long_section": {"a_long_setting": name}}}
        meta = {
            "project": "hydra",
            "config": "mini",
            "overrides": [],
            "seed": 3,
            "num_steps": 300,
            "wall_seconds": 61.5,
            "started": "2026-12-01T10:10:10",
        }
        write_json(folder / "meta.json", {**meta, "state": "finished", "resolved": settings})
        write_json(folder / "metrics.json", {"linear_probe_top1": score})
    return tmp_path / "runs"


def printed(capsys, monkeypatch, columns, show):
    monkeypatch.setenv("COLUMNS", str(columns))
    monkeypatch.setattr(terminal.console, "_width", columns)
    show()
    return capsys.readouterr().out.splitlines()


@pytest.mark.parametrize("columns", [60, 80, 400])
def test_runs_are_listed_with_whole_names(runs, capsys, monkeypatch, columns):
    lines = printed(capsys, monkeypatch, columns, lambda: verbs.runs(None, "", runs))
    for name in ("20261201-101010-ab12", LONG, "linear_probe_top1 0.1235", "2026-12-01T10:10:10"):
        assert any(name in line for line in lines), name
    assert all(len(line) <= columns or line == LONG for line in lines)
    assert len(lines) == 4 if columns == 400 else len(lines) > 4  # title, heads, a line each


@pytest.mark.parametrize("columns", [60, 80, 400])
def test_differences_have_whole_names_and_four_digits(runs, capsys, monkeypatch, columns):
    show = lambda: verbs.diff("20261201-101010-ab12", LONG, runs)  # noqa: E731
    lines = printed(capsys, monkeypatch, columns, show)
    words = [word for line in lines for word in line.split()]
    assert {"model.a_long_section.a_long_setting", "metrics.linear_probe_top1"} <= set(words)
    assert {"0.0001235", "0.1235", "20261201-101010-ab12", LONG} <= set(words)
    assert not any("0.12345" in word for word in words)


def test_values_that_differ_in_their_fifth_digit_are_shown_in_full():
    assert verbs._two_values(0.123411, 0.123412) == ["0.123411", "0.123412"]
    assert verbs._two_values(0.123411, None) == ["0.1234", ""]
    assert verbs._two_values(100000, "a") == ["100000", "a"]
