"""Values of the paper's configs, against the sheet and the sources that their comments name."""

import pytest

from tests.recipes import assert_recipe

SHARED = {
    "data.source": "file",
    "data.limit": None,
    "model.dropout": 0.1,
    "trainer.max_steps": None,
    "trainer.accumulate_grad_batches": 1,
    "eval.transfer": ["MR", "CR", "SUBJ", "MPQA", "SST2", "TREC", "MRPC"],
    "seed": 42,
}
RECIPES = {
    "paper": SHARED,
    "paper_bert_large": SHARED,
    "paper_defsent": SHARED,
    "paper_syncse_roberta_base": SHARED,
    "paper_syncse_roberta_large": SHARED,
}


@pytest.mark.parametrize("name", sorted(RECIPES))
def test_paper_configs_hold_the_recipe(name):
    """What `test_experiment` leaves out: the whole dictionary, dropout, transfer tasks, seed."""
    assert_recipe("defsent_plus", name, RECIPES[name])
