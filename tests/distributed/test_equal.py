"""`assert_ranks_equal_one` passes where ranks agree with one process, and says where they don't."""

import pytest
import torch

from common.distributed.process import rank
from tests.distributed.equal import assert_ranks_equal_one


def steps(distributed, wrong=""):
    actual = {"weight": torch.ones(2), "bias": torch.zeros(1)}
    if distributed and rank() == 1:  # the second rank alone is wrong
        if wrong == "value":
            actual["bias"] += 1e-3
        elif wrong == "missing":
            del actual["bias"]
        elif wrong == "more":
            actual["other"] = torch.zeros(1)
        elif wrong == "nan":
            actual["bias"] += torch.nan
    return actual


def test_equal_ranks_pass_and_give_what_one_process_had(two_ranks):
    alone = assert_ranks_equal_one(two_ranks, steps, rtol=1e-6, atol=1e-6)
    assert alone.keys() == {"weight", "bias"}


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ("value", "bias of rank 1: "),
        ("nan", "bias of rank 1: "),
        ("missing", "other names.*bias"),
        ("more", "other names.*other"),
    ],
)
def test_another_value_or_another_name_on_one_rank_fails(two_ranks, wrong, said):
    with pytest.raises(AssertionError, match=said):
        assert_ranks_equal_one(two_ranks, steps, rtol=1e-6, atol=1e-6, wrong=wrong)
