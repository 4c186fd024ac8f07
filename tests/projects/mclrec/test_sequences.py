"""Readers, k-core, leave-one-out, prefixes, augmentations."""

import gzip
import itertools

import numpy as np
import pytest

from common.config import UserError
from projects.mclrec.augment import OPERATORS, crop, mask, reorder, two_views
from projects.mclrec.interactions import (
    frequent,
    k_core,
    make_log,
    read_log,
    write_inter,
)
from projects.mclrec.leave_one_out import leave_one_out, right_padded
from projects.mclrec.prefixes import Prefixes
from projects.mclrec.synthetic import markov_log

RATIOS = {"crop": 0.5, "mask": 0.5, "reorder": 0.8}
HISTORIES = [("ann", ["x", "y", "x"]), ("bob", ["z", "y"])]


def test_all_formats_hold_the_same_histories(tmp_path):
    (tmp_path / "a.txt").write_text(
        "ann x y x\nbob z y\n\n", encoding="utf-8-sig"
    )  # a mark is not a part of a name
    with gzip.open(tmp_path / "a.jsonl.gz", "wt") as file:
        file.write(
            '{"user": "ann", "items": ["x", "y", "x"]}\n{"user": "bob", "items": ["z", "y"]}\n'
        )
    (tmp_path / "a.csv").write_text(
        "user,item,timestamp\nann,y,2\nbob,z,1\nann,x,1\nbob,y,9\nann,x,3\n", encoding="utf-8"
    )
    write_inter(HISTORIES, tmp_path / "a.inter")
    assert (tmp_path / "a.inter").read_text().startswith("user_id:token\titem_id:token\nann\tx\n")
    for name in ("a.txt", "a.jsonl.gz", "a.csv", "a.inter"):
        assert read_log(tmp_path / name) == HISTORIES, name


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("a.dat", "", "give .inter"),
        ("a.inter", "user_id:token\titem:token\nu\ti\n", "no column 'item_id:token'"),
        ("a.csv", "user,item,timestamp\nu,i,soon\n", "must contain numbers"),
        ("a.csv", "user,item,timestamp\nu,i,1\nu,j,nan\n", "must contain numbers .one is NaN"),
        ("a.txt", "u 1 2\nv 3\nu 3\n", "several lines: 1, such as u"),
        ("a.jsonl", '{"user": "u", "items": [1]}\n' * 2, "several lines: 1, such as u"),
        ("a.jsonl", '{"user": 1, "items": 3}\n', "must be a list"),
    ],
)
def test_unreadable_logs_are_named(tmp_path, name, text, message):
    (tmp_path / name).write_text(text, encoding="utf-8")
    with pytest.raises(UserError, match=message):
        read_log(tmp_path / name)


def test_k_core_goes_on_until_nothing_is_rare():
    """One pass leaves users who are short without their rare items' partners."""
    histories = [("a", ["1", "2", "3"]), ("b", ["1", "2"]), ("c", ["3", "4"])]
    assert frequent(histories, users=2, items=2) == [("a", ["1", "2", "3"]), ("b", ["1", "2"])]
    assert k_core(histories, users=2, items=2) == [("a", ["1", "2"]), ("b", ["1", "2"])]


def test_leave_one_out_keeps_held_out_items_out_of_training():
    log = make_log([("a", ["p", "q", "r", "s"]), ("b", ["p", "q"])])
    split = leave_one_out(log.sequences)
    assert split.users.tolist() == [0]  # two items are too few
    assert [own.tolist() for own in split.train] == [[1, 2]]
    assert (split.valid_target.tolist(), split.test_target.tolist()) == ([3], [4])
    assert [own.tolist() for own in split.histories("test")] == [[1, 2, 3]]
    assert [own.tolist() for own in split.histories("valid")] == [[1, 2]]


def test_rows_are_padded_on_the_right_and_cut_on_the_left():
    items, lengths = right_padded([np.array([1, 2, 3]), np.array([4])], max_length=2)
    assert items.tolist() == [[2, 3], [4, 0]]
    assert lengths.tolist() == [2, 1]


def test_both_kinds_of_prefixes_hold_the_same_pairs():
    sequences = [np.array([5, 6, 7, 8]), np.array([9]), np.array([1, 2])]
    each = Prefixes(sequences, max_length=10, seed=0)
    whole = Prefixes(sequences, max_length=10, seed=0, one_pass=True)
    assert (len(each), len(whole)) == (4, 2)

    def pairs(data):
        actual = []
        for index in range(len(data)):
            items, targets = data.example(index)
            actual += [(*items[: p + 1], t) for p, t in enumerate(targets) if t]
        return actual

    assert pairs(each) == pairs(whole) == [(5, 6), (5, 6, 7), (5, 6, 7, 8), (1, 2)]
    short = Prefixes(sequences, max_length=2, seed=0)
    assert [x.tolist() for x in short.example(2)] == [[6, 7], [0, 8]]
    with pytest.raises(UserError, match="two items"):
        Prefixes([np.array([3])], max_length=2, seed=0)


@pytest.mark.parametrize("length", [2, 3, 5, 10, 17])
def test_operators_obey_the_floors(length):
    items, rng = np.arange(1, length + 1), np.random.default_rng(length)
    cropped = crop(items, 0.5, rng)
    assert len(cropped) == length // 2
    assert (np.diff(cropped) == 1).all()
    masked = mask(items, 0.5, rng)
    assert len(masked) == length
    assert (masked == 0).sum() == length // 2
    assert (masked[masked > 0] == items[masked > 0]).all()
    windows = set()
    for _ in range(60):
        moved = reorder(items, 0.8, rng)
        assert sorted(moved) == items.tolist()
        changed = np.flatnonzero(moved != items)
        windows.add(0 if not len(changed) else changed[-1] - changed[0] + 1)
    assert max(windows) <= int(length * 0.8)
    assert items.tolist() == list(range(1, length + 1))  # not in place


def test_views_take_two_different_operators_and_leave_single_items_alone():
    items = np.arange(1, 11)
    kinds = set()
    for seed in range(60):
        views = two_views(items, RATIOS, np.random.default_rng(seed))
        actual = tuple("crop" if len(v) < 10 else "mask" if 0 in v else "reorder" for v in views)
        assert actual[0] != actual[1]
        kinds.add(actual)
    assert len(kinds) == len(OPERATORS) * (len(OPERATORS) - 1)
    alone = np.array([7])
    assert all(v.tolist() == [7] for v in two_views(alone, RATIOS, np.random.default_rng(0)))


def test_views_are_drawn_anew_at_each_access_and_by_the_seed_alone():
    sequences = list(make_log(markov_log(20, 20)).sequences)
    data = Prefixes(sequences, max_length=8, seed=3, ratios=RATIOS, one_pass=True)
    keys = [(index, 0) for index in range(8)]
    first, again = data[keys], data[keys]
    other = data[[(index, 1) for index in range(8)]]
    for name in ("view_1", "view_2", "view_1_lengths"):
        assert first[name].tolist() == again[name].tolist()
    assert first["view_1"].tolist() != other["view_1"].tolist()
    assert first["items"].tolist() == other["items"].tolist()
    assert not hasattr(Prefixes(sequences, max_length=8, seed=3)[keys], "view_1")


def test_the_made_up_log_walks_along_rings():
    rows = markov_log(300, 50, noise=0.0, seed=1)
    assert all((int(b) - int(a)) % 5 == 1 for _, own in rows for a, b in itertools.pairwise(own))
    assert rows == markov_log(300, 50, noise=0.0, seed=1)
    noisy = markov_log(300, 50, noise=1.0, seed=1)
    assert len({item for _, own in noisy for item in own}) == 50


def test_rings_of_a_made_up_log_have_two_items_or_more():
    with pytest.raises(ValueError, match="10 rings need 20 items, not 19"):
        markov_log(5, 19)
