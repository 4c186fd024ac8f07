"""What pre-training is read against: words, letters, states of the encoder that training begins
with.
"""

from types import SimpleNamespace

import pytest
import torch

from common.engine.workspace import Workspace
from projects.space2 import baselines
from tests.projects.space2.conftest import config

TEXTS = ["b a", "a c", "a a b"]
LONG = "a much longer request with many more words than the other ones have"


@pytest.fixture
def vectors(monkeypatch, tmp_path):
    """Baseline and texts -> its unit vectors of them."""
    monkeypatch.setattr(baselines, "score_vectors", lambda cfg, make, workspace: make)

    def vectors(baseline, texts):
        make = baseline(config(), Workspace(tmp_path))
        return make(SimpleNamespace(texts=lambda: texts))[""][:, 0]

    return vectors


def test_words_and_letters_by_hand(vectors):
    """Sets of words; TF-IDF with idf log((1 + n) / (1 + df)) + 1 and 1 + log of counts; pieces of
    words.
    """
    z = vectors(baselines.word_overlap, TEXTS)
    torch.testing.assert_close(z @ z.T, torch.tensor([[1, 0.5, 1], [0.5, 1, 0.5], [1, 0.5, 1]]))
    z = vectors(baselines.tfidf_words, TEXTS[:2])
    idf = 1 + torch.tensor(1.5).log()
    torch.testing.assert_close(z[0] @ z[1], 1 / (1 + idf**2))
    words, letters = (
        vectors(b, ["booking", "bookings"]) for b in (baselines.tfidf_words, baselines.tfidf_chars)
    )
    assert words[0] @ words[1] == 0
    assert letters[0] @ letters[1] > 0.5


def test_states_are_means_over_the_tokens_of_a_text_and_whitened_on_what_is_scored(vectors):
    """Padding does not count; a raw vector does not depend on the other texts, a whitened one
    does."""
    alone, beside = (vectors(baselines.raw_mean, [*TEXTS[:2], *more]) for more in ((), (LONG,)))
    torch.testing.assert_close(beside[:2], alone, rtol=1e-4, atol=1e-5)
    alone, beside = (vectors(baselines.raw_whitened, [*TEXTS[:2], *more]) for more in ((), (LONG,)))
    assert not torch.allclose(beside[:2], alone, atol=1e-2)


def test_every_baseline_has_the_figures_of_a_run(tmp_path):
    """Without training: rank correlation with the trees; sub-spaces for the untrained network
    alone.
    """
    cfg, workspace = config(), Workspace(tmp_path)
    for name in ("word_overlap", "raw_whitened", "untrained"):
        actual = getattr(baselines, name)(cfg, workspace)
        assert -1 <= actual["turn_spearman"] <= 1
        assert any(key.startswith("view_") for key in actual) == (name == "untrained")
