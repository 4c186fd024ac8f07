import numpy as np
import pytest
import torch

from projects.contriever.bins import TokenBins

RNG = np.random.default_rng(0)
SEQUENCES = [RNG.integers(1, 100, size=n).tolist() for n in RNG.integers(2, 20, size=300)]


def plain(ids, padding, rng):
    return {"input_ids": torch.from_numpy(ids), "padding": torch.from_numpy(padding)}


def bins(seed=0, tokens=64):
    return TokenBins(SEQUENCES, tokens=tokens, pad_id=0, prepare=plain, seed=seed)


def test_every_sequence_is_in_one_bin_of_an_epoch():
    data = bins()
    for epoch in (0, 1):
        rows = np.concatenate([data.rows(i, epoch) for i in range(len(data))])
        assert sorted(rows) == list(range(len(SEQUENCES)))


def test_bins_hold_the_sequences_and_stay_within_the_limit():
    data = bins()
    for i in range(len(data)):
        batch = data[[(i, 0)]]
        assert batch["input_ids"].numel() <= 64
        for row, ids, padding in zip(
            batch["ids"], batch["input_ids"], batch["padding"], strict=True
        ):
            assert ids[~padding].tolist() == SEQUENCES[row]
            assert (ids[padding] == 0).all()


def test_little_padding():
    data = bins(tokens=256)
    padding = [data[[(i, 0)]]["padding"].float().mean() for i in range(len(data))]
    assert float(torch.stack(padding).mean()) < 0.1


def test_companions_change_between_epochs_and_shapes_do_not():
    data = bins()
    first, second = ([data[[(i, e)]] for i in range(len(data))] for e in (0, 1))
    assert [b["input_ids"].shape for b in first] == [b["input_ids"].shape for b in second]
    assert any(a["ids"].tolist() != b["ids"].tolist() for a, b in zip(first, second, strict=True))
    again = bins()[[(3, 1)]]
    assert torch.equal(again["ids"], second[3]["ids"])


def test_a_sequence_that_does_not_fit_is_refused():
    with pytest.raises(ValueError, match="1 to 4 tokens"):
        bins(tokens=4)
