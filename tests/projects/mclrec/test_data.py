"""Views, masked items, prefixes and splits of a config: checklist items 8 to 10 and 15."""

import numpy as np
import pytest
import torch

from common.config import UserError
from projects.mclrec.data import build_data, load_sets
from projects.mclrec.evaluate import encoder_score, ranks_of
from projects.mclrec.ranking import rank_metrics
from tests.projects.mclrec.conftest import STILL, batch, config, module_of, training


def test_checklist_8_views_differ_in_their_operator_and_crops_move_the_user_vector():
    """Checklist 8: two operators a row, lengths by their floors, vectors at the last item of a
    crop.
    """
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
        r
        for r in range(100)
        if (rows["view_1"][r, : rows["view_1_lengths"][r]] == 0).any()
        and rows["view_1"][r, rows["view_1_lengths"][r] - 1] > 0
    ]
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
    actual = {}
    for index in range(len(data)):
        items, targets = data.example(index)
        for place in np.flatnonzero(targets):
            pair = (*items[: place + 1].tolist(), int(targets[place]))
            actual[pair] = actual.get(pair, 0) + 1
    expected = {}
    for own in sets.log.sequences:
        for end in range(1, len(own) - 2):  # n - 3 prefixes: the last two items are held out
            pair = (*own[:end].tolist(), int(own[end]))
            expected[pair] = expected.get(pair, 0) + 1
    assert actual == expected
    assert len(data) == (sum(expected.values()) if kind == "each" else len(sets.split.users))


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


def test_validation_is_on_the_item_before_the_last():
    """Checklist 10: what selects weights never sees the test item, neither as history nor as
    target.
    """
    cfg = config()
    sets = load_sets(cfg)
    held_out = build_data(cfg, sets).val_sets["valid"]
    actual = [(own.tolist(), target) for own, target in (held_out[i] for i in range(len(held_out)))]
    assert actual == [(own[:-2].tolist(), own[-2]) for own in sets.log.sequences]


@pytest.mark.parametrize("masked", ["true", "false"])
def test_validation_ranks_as_the_evaluation_does(masked):
    """The same protocol, also where a masked history is longer than what is encoded."""
    words = ("data.max_length=3", f"eval.mask_history={masked}")
    cfg, module = config(*words), module_of(*words).eval()
    sets = load_sets(cfg)
    assert max(map(len, sets.split.train)) > 3
    held_out = build_data(cfg, sets).val_sets["valid"]
    with torch.no_grad():
        for start in (0, 50, 100):
            rows = [held_out[i] for i in range(start, min(start + 50, len(held_out)))]
            module.validation.add(held_out.collate(rows))
        part = config(*words, "eval.part=valid")
        expected = rank_metrics(ranks_of(part, sets, encoder_score(module.encoder, 3)), [5, 10, 20])
    actual = module.validation.result()
    assert actual.pop("val/mrr_at_10_rounded") == round(expected["mrr_at_10"], 4)
    assert actual == pytest.approx({f"val/{name}": value for name, value in expected.items()})


def test_each_operator_has_its_own_ratio():
    """Checklist 8: crop, mask and reorder by the setting of their name."""
    data = training("data.crop_ratio=0.3", "data.mask_ratio=0.4", "data.reorder_ratio=0.6")
    assert data.ratios == {"crop": 0.3, "mask": 0.4, "reorder": 0.6}


def test_a_made_up_log_needs_two_items_a_ring():
    """Too few items are refused by the config."""
    for count in (5, 9, 19):
        with pytest.raises(UserError, match="data.num_items must be >= 20"):
            config(f"data.num_items={count}")
    assert load_sets(config("data.num_items=20")).num_items == 20
