import numpy as np
import pytest

from common.data.text.masking import IGNORED, mask_tokens

IDS = np.random.default_rng(0).integers(5, 1000, size=(40, 500))


def masked(probability=0.15, special=None, seed=0):
    special = np.zeros(IDS.shape, dtype=bool) if special is None else special
    rng = np.random.default_rng(seed)
    return mask_tokens(IDS, special, rng, mask_id=4, vocab_size=1000, probability=probability)


def test_shares_are_those_of_bert():
    ids, labels = masked()
    chosen = labels != IGNORED
    assert chosen.mean() == pytest.approx(0.15, abs=0.01)
    assert (ids[chosen] == 4).mean() == pytest.approx(0.8, abs=0.02)
    assert (ids[chosen] == IDS[chosen]).mean() == pytest.approx(0.1, abs=0.02)
    assert np.array_equal(labels[chosen], IDS[chosen])
    assert np.array_equal(ids[~chosen], IDS[~chosen])


def test_special_positions_are_never_chosen():
    special = np.zeros(IDS.shape, dtype=bool)
    special[:, ::2] = True
    ids, labels = masked(1.0, special)
    assert (labels[:, ::2] == IGNORED).all()
    assert np.array_equal(ids[:, ::2], IDS[:, ::2])
    assert (labels[:, 1::2] != IGNORED).all()


def test_equal_generators_give_equal_masks():
    assert np.array_equal(masked(seed=1)[0], masked(seed=1)[0])
    assert not np.array_equal(masked(seed=1)[0], masked(seed=2)[0])


def test_whole_words_are_chosen_together():
    continues = np.random.default_rng(1).random(IDS.shape) < 0.4
    continues[:, 0] = False
    none = np.zeros(IDS.shape, dtype=bool)
    rng = np.random.default_rng(0)
    _, labels = mask_tokens(
        IDS, none, rng, mask_id=4, vocab_size=1000, probability=0.2, continues=continues
    )
    chosen = labels != IGNORED
    assert np.array_equal(chosen[:, 1:][continues[:, 1:]], chosen[:, :-1][continues[:, 1:]])
    assert chosen.mean() == pytest.approx(0.2, abs=0.01)
    alone = masked(0.2)[1] != IGNORED
    assert not np.array_equal(alone[:, 1:][continues[:, 1:]], alone[:, :-1][continues[:, 1:]])


def test_bad_arguments_are_refused():
    with pytest.raises(ValueError, match="probability"):
        masked(1.5)
    with pytest.raises(ValueError, match="one shape"):
        masked(special=np.zeros((2, 2), dtype=bool))
