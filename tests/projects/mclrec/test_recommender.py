"""An exported recommender and folders that are none."""

import json

import pytest
import torch

from common.config import UserError
from projects.mclrec.recommender import Recommender, load_recommender, save_recommender
from projects.mclrec.sasrec import SASRec


def test_lists_come_back_equal_and_damaged_folders_are_named(tmp_path):
    torch.manual_seed(0)
    options = {"dim": 8, "num_layers": 1, "ffn_dim": 8, "max_length": 4}
    made = Recommender(SASRec(3, **options), ["a", "b", "c"])
    folder = save_recommender(made, tmp_path / "x", options)
    assert json.loads((folder / "config.json").read_text())["num_items"] == 3
    actual = load_recommender(folder)
    expected = made(["a", "?", "b"], k=9)
    assert [item for item, _ in expected] == ["c"]
    assert actual(["a", "b"], k=9) == expected
    assert len(actual(["a"] * 9, k=9, mask_history=False)) == 3  # the last four are read
    (folder / "items.json").write_text('["a"]')
    with pytest.raises(UserError, match="must list 3 items"):
        load_recommender(folder)
    (folder / "items.json").unlink()
    with pytest.raises(UserError, match="export the run again"):
        load_recommender(folder)


def test_unknown_items_are_counted_and_named(caplog):
    """They were passed over without a word."""
    recommender = Recommender(SASRec(3, dim=8, num_layers=1, ffn_dim=8), ["a", "b", "c"])
    recommender(["a", "?", "b", 7])
    assert "2 of 4 items are unknown and left out: ?, 7" in caplog.text
    caplog.clear()
    recommender(["a", "b"])
    assert not caplog.text
    with pytest.raises(UserError, match=r"\(\?, 7\): give names .* such as a, b, c"):
        recommender(["?", 7])
