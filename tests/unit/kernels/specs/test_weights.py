"""Masks, weights and biases of the specs, tile by tile; composition; encoding."""

import pytest
import torch

from common.kernels.specs.weights import (
    Bias,
    Block,
    Diagonal,
    Exclude,
    ExcludePositive,
    ExcludeSelf,
    Index,
    Labels,
    LowRank,
    OnlyPositive,
    Spec,
    Tile,
    Valid,
    decode,
    encode,
    nt_xent_spec,
)
from tests.unit.kernels.cases import spec_cases

N, M = 7, 11
CASES = spec_cases(N, M)


def whole(spec: Spec, part: Tile) -> list[torch.Tensor]:
    """Mask A, mask B, omega, beta of a tile, written out in full."""
    fills = (
        (spec.mask(part, "rows"), True),
        (spec.mask(part, "columns"), True),
        (spec.omega(part), 0.0),
        (spec.beta(part), 0.0),
        (spec.positive(part), False),
    )
    return [
        torch.as_tensor(fill if value is None else value).expand(part.shape)
        for value, fill in fills
    ]


@pytest.mark.parametrize("name", CASES)
def test_tiles_are_pieces_of_the_whole(name: str) -> None:
    full = whole(CASES[name], Tile(0, N, 0, M))
    for r0, r1, c0, c1 in ((0, 3, 0, 4), (3, 7, 4, 11), (2, 5, 8, 9), (6, 7, 0, 11)):
        for piece, value in zip(whole(CASES[name], Tile(r0, r1, c0, c1)), full, strict=True):
            torch.testing.assert_close(piece, value[r0:r1, c0:c1], check_dtype=False)


@pytest.mark.parametrize("name", CASES)
def test_encoding_round_trip(name: str) -> None:
    again = decode(*encode(CASES[name].prepare()))
    tile = Tile(0, N, 0, M)
    for left, right in zip(whole(again, tile), whole(CASES[name].prepare(), tile), strict=True):
        torch.testing.assert_close(left, right)


def test_global_offsets_move_the_diagonal() -> None:
    spec = Diagonal() & ExcludeSelf()
    tile = Tile(0, 3, 0, 4, row_start=5, col_start=4)
    mask = spec.mask(tile)
    assert mask is not None
    assert mask.logical_not().nonzero().tolist() == [[0, 1], [1, 2], [2, 3]]
    assert spec.mask(Tile(0, 3, 0, 4, row_start=50)) is None
    assert spec.positive(Tile(0, 3, 0, 4, row_start=50)) is None


def test_weights_of_positives() -> None:
    tile = Tile(0, 2, 0, 4)
    assert Block(2).omega(tile).tolist() == [[0.5, 0.5, 0, 0], [0, 0, 0.5, 0.5]]
    pos = torch.tensor([3, -1])
    assert Index(pos, 2.0).omega(tile).tolist() == [[0, 0, 0, 2], [0, 0, 0, 0]]
    labels = Labels(torch.tensor([1, 0]), torch.tensor([1, 0, 1, 1]), exclude_self=True)
    assert labels.omega(tile).tolist() == [[0, 0, 0.5, 0.5], [0, 0, 0, 0]]
    partner = nt_xent_spec(2)
    assert partner.omega(Tile(0, 4, 0, 4)).argmax(1).tolist() == [2, 3, 0, 1]


def test_and_intersects_or_unites() -> None:
    tile = Tile(0, 2, 0, 2)
    ids = torch.tensor([1, 1])
    exclude, valid = Exclude(ids, torch.tensor([1, 2])), Valid(torch.tensor([True, False]))
    assert (exclude & valid).mask(tile).tolist() == [[False, True], [False, False]]
    assert (exclude | valid).mask(tile).tolist() == [[True, True], [False, True]]


def test_a_positive_survives_exclusion_only_if_asked() -> None:
    ids, tile = torch.tensor([5, 5]), Tile(0, 2, 0, 2)
    assert (Diagonal() & Exclude(ids, ids)).mask(tile).tolist() == [[True, False], [False, True]]
    strict = Diagonal() & Exclude(ids, ids, keep_positive=False)
    assert not strict.mask(tile).any()
    assert not (Diagonal() & ExcludePositive()).mask(tile).diagonal().any()
    assert OnlyPositive().mask(tile).expand(2, 2).any().item() is False


def test_or_of_weights_is_refused() -> None:
    with pytest.raises(ValueError, match="Diagonal carries weights"):
        Diagonal() | ExcludeSelf()


def test_wrong_side_data_is_named() -> None:
    spec = Diagonal() & Exclude(torch.arange(3), torch.arange(4))
    spec.check(3, 4)
    with pytest.raises(ValueError, match=r"Exclude\.key has 4 entries, expected 5"):
        spec.check(3, 5)


def test_impossible_options_are_refused() -> None:
    u = torch.zeros(2, 1)
    with pytest.raises(ValueError, match="affine, relu or softmax"):
        LowRank(u, u, "cosine")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="row_shift belongs to"):
        LowRank(u, u, "softmax")
    with pytest.raises(ValueError, match="both u and v"):
        Bias(u=u)


def test_label_counts_include_only_real_positives() -> None:
    query, key = torch.tensor([0, 1, 2]), torch.tensor([0, 1, 0, 5])
    assert Labels(query, key).positives().tolist() == [2, 1, 0]
    own = Labels(query, key, exclude_self=True)
    assert own.positives(0).tolist() == [1, 0, 0]  # key 2 does not have the label of query 2
    assert own.positives(3).tolist() == [2, 1, 0]  # query 0 is key 3, under another label
