"""Views, masked items, prefixes and splits of a config: checklist items 8 to 10 and 15."""

import numpy as np
import pytest
import torch

from common.config import UserError
from projects.mclrec.data import load_sets
from tests.projects.mclrec.conftest import STILL, batch, config, module_of, training


def test_checklist_8_views_differ_in_their_operator_and_crops_move_the_user_vector():
    """Checklist 8: two operators a row, lengths by their floors, vectors at the last item of a crop."""
    words = ("data.prefixes=each", *STILL)
    rows = batch(*words, rows=range(200))
    cropped = 0
    for row in range(200):
        length = int(rows["lengths"][row])
        kinds = []
        for view in ("view_1", "view_2"):
            size = int(rows[f"{view}_lengths"][row])
            items = rows[view][row, :size]
            assert not rows[view][row, size:].any()
            kinds.append("crop" if size < length else "mask" if (items == 0).any() else "reorder")
            assert size in (length, max(1, length // 2))
            assert int((items == 0).sum()) in (0, length // 2)
        assert length == 1 or kinds[0] != kinds[1]
        assert length > 1 or torch.equal(rows["view_1"][row, :1], rows["view_2"][row, :1])
        cropped += "crop" in kinds
    assert cropped > 50
    module = module_of(*STILL).eval()
    h_1, _ = module.encode_views(rows)
    row = next(r for r in range(200) if 1 < rows["view_1_lengths"][r] < rows["lengths"][r])
    size = int(rows["view_1_lengths"][row])
    with torch.no_grad():
        alone = module.encoder.user_vectors(
            rows["view_1"][row : row + 1, :size], torch.tensor([size])
        )
    torch.testing.assert_close(h_1[row], alone[0], rtol=1e-5, atol=1e-6)


def test_checklist_9_masked_items_are_padding_that_no_key_shows():
    """Checklist 9: id 0, and the vector of id 0 does not reach the view's vector."""
    rows = batch(*STILL, "data.prefixes=each", rows=range(100))
    module = module_of(*STILL).eval()
    masked = [
        r for r in range(100)
        if (rows["view_1"][r, : rows["view_1_lengths"][r]] == 0).any()
        and rows["view_1"][r, rows["view_1_lengths"][r] - 1] > 0
    ]  # fmt: skip
    assert len(masked) > 5
    before = module.encode_views(rows)[0][masked]
    with torch.no_grad():
        module.encoder.item_embedding.weight[0] += 5.0
    torch.testing.assert_close(module.encode_views(rows)[0][masked], before, rtol=1e-5, atol=1e-5)
    with torch.no_grad():
        module.encoder.item_embedding.weight[1:] += torch.randn(8 * 5, 16)[
            : len(module.encoder.item_embedding.weight) - 1
        ]
    assert not torch.allclose(module.encode_views(rows)[0][masked], before, atol=1e-2)  # the twin


@pytest.mark.parametrize("kind", ["each", "one_pass"])
def test_checklist_10_examples_are_all_prefixes_without_held_out_items(kind):
    """Checklist 10: number and content of the pairs; validation and test items in none of them."""
    cfg = config(f"data.prefixes={kind}", "data.max_length=50")
    sets, data = load_sets(cfg), training(f"data.prefixes={kind}", "data.max_length=50")
    found = {}
    for index in range(len(data)):
        items, targets = data.example(index)
        for place in np.flatnonzero(targets):
            pair = (*items[: place + 1].tolist(), int(targets[place]))
            found[pair] = found.get(pair, 0) + 1
    wanted = {}
    for own in sets.log.sequences:
        for end in range(1, len(own) - 2):  # n - 3 prefixes: the last two items are held out
            pair = (*own[:end].tolist(), int(own[end]))
            wanted[pair] = wanted.get(pair, 0) + 1
    assert found == wanted
    assert len(data) == (sum(wanted.values()) if kind == "each" else len(sets.split.users))


def test_bundled_log_has_the_counts_that_the_config_promises():
    """Sheet, pitfalls: counts are asserted after loading; the row's filter."""
    cfg = config(name="mini")
    sets = load_sets(cfg)
    assert (len(sets.log.users), sets.num_items, sets.log.num_actions) == (10600, 3367, 97938)
    assert cfg.data.num_actions == 97938
    with pytest.raises(UserError, match="97,938 interactions"):
        load_sets(config("data.num_actions=5", name="mini"))


def test_missing_files_and_empty_logs_say_what_to_do(tmp_path):
    """Bad input."""
    with pytest.raises(UserError, match="QinHsiu/MCLRec"):
        load_sets(config("data.source=file", f"data.file={tmp_path}/none.inter"))
    path = tmp_path / "log.txt"
    path.write_text("u a b c\nv a b c\n", encoding="utf-8")
    with pytest.raises(UserError, match="lower them"):
        load_sets(config("data.source=file", f"data.file={path}"))
    small = config("data.source=file", f"data.file={path}", "data.min_user=1", "data.min_item=1")
    assert load_sets(small).num_items == 3
    with pytest.raises(UserError, match="need each other"):
        config("data.source=file")


def test_checklist_15_batch_and_training_size_are_settings():
    """Checklist 15: a share of the users is trained on, another one by the seed; all are tested."""
    whole, half = (
        training("data.prefixes=one_pass"),
        training("data.prefixes=one_pass", "data.train_share=0.5"),
    )
    assert len(half) == round(len(whole) / 2)
    other = training("data.prefixes=one_pass", "data.train_share=0.5", "seed=1")
    assert [x.tolist() for x in other.sequences] != [x.tolist() for x in half.sequences]
    assert len(load_sets(config("data.train_share=0.5")).split.users) == len(whole)
