"""Rows in, rows out: order, seeds, restart after SIGKILL, shares, manifest, damaged parts."""

import json
from functools import partial
from pathlib import Path

import pytest

from common.config import UserError
from common.data.row_map.chunks import RowSeed
from common.data.row_map.mapper import Once, RowMap, map_rows
from common.data.row_map.options import RowMapConfig
from common.data.row_map.parts import rows_digest, write_joined
from common.data.samplers import sample_rng
from tests.interrupted import assert_killed, die

ROWS = [{"text": f"row {i}\u2028\n"} for i in range(11)]


def numbered(calls=None, die_at=None):
    """Rows with a number from their own stream; notes the rows of each call."""

    def function(rows, seeds):
        if calls is not None:
            calls.append([row["text"] for row in rows])
        if any(row["text"].startswith(f"row {die_at}\u2028") for row in rows):
            die()
        return [
            {
                **row,
                "number": int(s.rng(5).integers(1 << 30)),
                "again": int(s.rng(5, 1).integers(9)),
            }
            for row, s in zip(rows, seeds, strict=True)
        ]

    return function


def step(function=None, **options):
    build = numbered if function is None else lambda: function
    return RowMap("number", build, options.pop("settings", {"model": "a"}), 3, 4, **options)


def content(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


def test_rows_come_back_in_order_with_their_own_seeds(tmp_path):
    actual = map_rows(step(), ROWS, tmp_path)
    rows = list(actual.rows())
    assert [row["text"] for row in rows] == [row["text"] for row in ROWS]
    for i, row in enumerate(rows):
        assert row["number"] == sample_rng(3, 0, i, 5).integers(1 << 30)
        assert row["again"] == sample_rng(3, 1, i, 5).integers(9)
    assert (actual.computed, actual.complete) == (11, True)
    assert "11 of 11 rows" in actual.summary
    assert "rows/s" in actual.summary
    assert sorted(content(tmp_path)) == [
        "manifest.json",
        *(f"part-00000{i}.jsonl" for i in range(3)),
    ]


def test_a_key_of_the_content_makes_rows_independent_of_their_place(tmp_path):
    by_text = step(key=lambda index, row: int(row["text"].split()[1]))
    whole = list(map_rows(by_text, ROWS, tmp_path / "a").rows())
    picked = list(map_rows(by_text, ROWS[::-2], tmp_path / "b").rows())
    assert picked == whole[::-2]
    by_place = list(map_rows(step(), ROWS[::-2], tmp_path / "c").rows())
    assert by_place != picked  # the twin: an index is another seed


def test_killed_anywhere_it_ends_with_the_same_bytes(tmp_path):
    map_rows(step(), ROWS, tmp_path / "whole")
    for die_at in (0, 5, 10):
        folder = tmp_path / f"killed {die_at}"
        assert_killed(map_rows, step(numbered(die_at=die_at)), ROWS, folder)
        before = content(folder)
        assert len(before) == 1 + die_at // 4
        calls = []
        again = map_rows(step(numbered(calls)), ROWS, folder)
        assert [len(rows) for rows in calls] == [4, 4, 3][die_at // 4 :]
        assert again.computed == 11 - 4 * (die_at // 4)
        assert content(folder) == content(tmp_path / "whole")
        assert before.items() <= content(folder).items()


def test_killed_while_a_part_is_written_leaves_no_part(tmp_path, monkeypatch):
    replace = Path.replace
    monkeypatch.setattr(
        Path, "replace", lambda old, new: die() if "part" in new.name else replace(old, new)
    )
    assert_killed(map_rows, step(), ROWS, tmp_path / "killed")
    monkeypatch.undo()
    assert not list((tmp_path / "killed").glob("part-*.jsonl"))
    map_rows(step(), ROWS, tmp_path / "whole")
    map_rows(step(), ROWS, tmp_path / "killed")
    assert content(tmp_path / "whole").items() <= content(tmp_path / "killed").items()


def test_nothing_is_built_if_nothing_is_missing(tmp_path):
    map_rows(step(), ROWS, tmp_path)
    done = RowMap("number", lambda: pytest.fail("built again"), {"model": "a"}, 3, 4)
    actual = map_rows(done, ROWS, tmp_path)
    assert actual.computed == 0
    assert len(list(actual.rows())) == 11


@pytest.mark.parametrize("count", [1, 2, 3, 5])
def test_shares_in_any_order_are_one_process(tmp_path, count):
    map_rows(step(), ROWS, tmp_path / "whole")
    calls, folder = [], tmp_path / "shared"
    for index in reversed(range(count)):
        actual = map_rows(step(numbered(calls)), ROWS, folder, RowMapConfig(f"{index}/{count}"))
        assert actual.complete == (index == 0)
        if not actual.complete:
            assert "task.shard=join" in actual.summary
            with pytest.raises(UserError, match="left to other shares"):
                actual.rows()
    assert len(calls) == 3  # no chunk twice
    assert content(folder) == content(tmp_path / "whole")
    joined = map_rows(step(), ROWS, folder, RowMapConfig("join"))
    assert list(joined.rows()) == list(map_rows(step(), ROWS, tmp_path / "whole").rows())


def test_shares_of_machines_without_a_common_disk_are_copied_together(tmp_path):
    for index in range(2):
        map_rows(step(), ROWS, tmp_path / f"machine {index}", RowMapConfig(f"{index}/2"))
    with pytest.raises(UserError, match=r"lacks 1 of 3 chunks, the first is part-000001\.jsonl"):
        map_rows(step(), ROWS, tmp_path / "machine 0", RowMapConfig("join"))
    for path in (tmp_path / "machine 1").glob("part-*"):
        path.rename(tmp_path / "machine 0" / path.name)
    joined = map_rows(step(), ROWS, tmp_path / "machine 0", RowMapConfig("join"))
    map_rows(step(), ROWS, tmp_path / "whole")
    assert joined.computed == 0
    assert content(tmp_path / "machine 0") == content(tmp_path / "whole")


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"settings": {"model": "b"}}, "model"),
        ({"settings": {"model": "a", "top_p": 0.5}}, "top_p"),
        ({"seed": 4}, "seed"),
        ({"rows": ROWS[::-1]}, "rows"),
        ({"rows": ROWS[:-1]}, "rows, num_rows"),
        ({"chunk_size": 5}, "chunk_size"),
    ],
)
def test_other_settings_are_refused_by_name(tmp_path, change, named):
    map_rows(step(), ROWS, tmp_path)
    before = content(tmp_path)
    other = RowMap(
        "number", numbered, change.get("settings", {"model": "a"}), change.get("seed", 3), 4
    )
    options = RowMapConfig(chunk_size=change.get("chunk_size"))
    with pytest.raises(UserError, match=rf"was made for another {named};"):
        map_rows(other, change.get("rows", ROWS), tmp_path, options)
    assert content(tmp_path) == before


def test_a_damaged_part_is_named(tmp_path):
    actual = map_rows(step(), ROWS, tmp_path)
    path = tmp_path / "part-000001.jsonl"
    path.write_bytes(path.read_bytes()[:-30])
    with pytest.raises(UserError, match=r"part-000001\.jsonl is missing or damaged"):
        list(actual.rows())
    path.unlink()
    assert map_rows(step(), ROWS, tmp_path).computed == 4


def test_an_error_keeps_what_is_finished(tmp_path):
    def broken(rows, seeds):
        if rows[0]["text"].startswith("row 8"):
            raise RuntimeError("out of memory")
        return numbered()(rows, seeds)

    with pytest.raises(RuntimeError):
        map_rows(step(broken), ROWS, tmp_path)
    assert map_rows(step(), ROWS, tmp_path).computed == 3


def test_wrong_numbers_of_rows_and_what_is_no_json_are_refused(tmp_path):
    with pytest.raises(ValueError, match="gave 3 rows for 4"):
        map_rows(step(lambda rows, seeds: rows[1:]), ROWS, tmp_path)
    with pytest.raises(ValueError, match="JSON"):
        map_rows(step(lambda rows, seeds: [float("nan")] * len(rows)), ROWS, tmp_path)
    assert not list(tmp_path.glob("part-*"))


def test_progress_counts_the_rows_of_this_call_with_their_rate(tmp_path):
    seen = []

    class Display:
        def __init__(self, name, total):
            seen.append((name, total))

        def update(self, count, info=""):
            seen.append((count, info.split()[1]))

        def close(self):
            seen.append("closed")

    map_rows(step(), ROWS, tmp_path, RowMapConfig("0/2"), Display)
    assert seen == [("number", 7), (4, "rows/s"), (7, "rows/s"), "closed"]
    map_rows(step(), ROWS, tmp_path, None, Display)
    assert seen[4:] == [("number", 4), (4, "rows/s"), "closed"]


def test_no_rows_and_lone_surrogates(tmp_path):
    assert list(map_rows(step(), [], tmp_path / "none").rows()) == []
    odd = [{"text": "\ud800 \r\n"}]
    copy = step(lambda rows, seeds: rows)
    assert list(map_rows(copy, odd, tmp_path / "odd").rows()) == odd


@pytest.mark.parametrize("shard", ["2/2", "-1/2", "1", "1/0", "a/b", "1/2/3"])
def test_impossible_shares_are_refused(shard):
    with pytest.raises(ValueError, match="i from 0 to n-1"):
        RowMapConfig(shard)


def test_digest_of_rows_knows_order_and_borders():
    assert rows_digest(["a", "b"]) != rows_digest(["b", "a"])
    assert rows_digest(["ab"]) != rows_digest(["a", "b"])
    assert rows_digest([{"a": 1, "b": 2}]) == rows_digest([{"b": 2, "a": 1}])


def test_a_costly_thing_is_made_once_in_a_process_and_not_sent_to_another():
    import pickle

    made = Once(partial(list, [1]))
    assert made() is made()
    assert pickle.loads(pickle.dumps(made))._made == []
    assert RowSeed(1, 2).rng(3).integers(99) == sample_rng(1, 0, 2, 3).integers(99)


def test_a_joined_file_appears_whole(tmp_path):
    def lines():
        yield "a"
        raise RuntimeError("disk full")

    path = tmp_path / "deep" / "out.txt"
    with pytest.raises(RuntimeError):
        write_joined(path, lines())
    assert not list(path.parent.iterdir())
    write_joined(path, ["a", json.dumps("b")])
    assert path.read_text() == 'a\n"b"\n'
