"""Word similarity files and scores."""

import pytest
import torch

from common.config import UserError
from projects.mirror_bert.word_similarity import evaluate_word_similarity, load_word_pairs

SIMLEX = """word1\tword2\tPOS\tSimLex999\tconc(w1)
old\tnew\tA\t1.58\t2.72
smart\tintelligent\tA\t9.2\t1.75
wife\thusband\tN\t2.3\t4.5
car\tauto\tN\t9.0\t4.9
"""
ANGLES = {
    "old": 0,
    "new": 1.4,
    "smart": 0,
    "intelligent": 0.1,
    "wife": 0,
    "husband": 1,
    "car": 0,
    "auto": 0.2,
}


def encode(words):
    angles = torch.tensor([float(ANGLES[word]) for word in words])
    return torch.stack([angles.cos(), angles.sin()], dim=1)


def test_simlex_layout_and_score(tmp_path):
    path = tmp_path / "SimLex-999.txt"
    path.write_text(SIMLEX)
    pairs = load_word_pairs(path)
    assert (pairs.name, pairs.first[1], pairs.second[1]) == ("SimLex-999", "smart", "intelligent")
    assert (pairs.scores, pairs.subsets) == ([1.58, 9.2, 2.3, 9.0], ["A", "A", "N", "N"])
    metrics, cosines = evaluate_word_similarity(encode, {"simlex": pairs})
    assert metrics == pytest.approx(
        {
            "simlex_spearman": 1.0,
            "simlex_spearman_mean": 1.0,
            "word_similarity_average_spearman": 1.0,
        }
    )
    assert cosines["simlex"][2] == pytest.approx(0.5403, abs=1e-4)
    opposite = load_word_pairs(path)
    opposite.scores.reverse()
    assert evaluate_word_similarity(encode, {"simlex": opposite})[0]["simlex_spearman"] < 0.5


def test_other_columns_and_delimiters(tmp_path):
    path = tmp_path / "combined.csv"
    path.write_text("Word 1,Word 2,Human (mean)\nold ,new,1\ncar,auto,9.5\n")
    columns = {"first": "Word 1", "second": "Word 2", "score": "Human (mean)", "subset": None}
    pairs = load_word_pairs(path, **columns, delimiter=",")
    assert (pairs.first, pairs.scores) == (["old", "car"], [1.0, 9.5])
    assert pairs.subsets == ["combined", "combined"]


def test_unusable_files(tmp_path):
    path = tmp_path / "pairs.txt"
    with pytest.raises(UserError, match="does not exist"):
        load_word_pairs(path)
    path.write_text(SIMLEX)
    with pytest.raises(UserError, match="no column 'score'"):
        load_word_pairs(path, score="score")
    path.write_text(SIMLEX.replace("9.2", "high"))
    with pytest.raises(UserError, match="column 'SimLex999'.*high"):
        load_word_pairs(path)
    path.write_text(SIMLEX.splitlines()[0])
    with pytest.raises(UserError, match="has no word pairs"):
        load_word_pairs(path)
