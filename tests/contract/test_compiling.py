"""`trainer.compile` traces the encoders of each family, and training gives the same losses.

The graphs run as they were traced (``aot_eager``): generated kernels would take minutes.
"""

from functools import partialmethod

import pytest
from torch import nn
from torch._dynamo.utils import counters

from common.engine.run import train
from tests.smoke import losses_of

# dropout draws other numbers in a traced graph
CASES = [("dcl",), ("laclip",), ("simcse", "model.dropout=0.0"), ("contriever",), ("trend",)]


@pytest.mark.slow
@pytest.mark.parametrize("case", CASES, ids=lambda case: case[0])
@pytest.mark.usefixtures("unrendered_figures")
def test_compiled_encoders_train_as_others(case, tmp_path, monkeypatch):
    project, *words = case
    eager = partialmethod(nn.Module.compile, backend="aot_eager")
    monkeypatch.setattr(nn.Module, "compile", eager)
    counters.clear()
    losses = []
    for compiles in ("false", "true"):
        settings = [f"trainer.compile={compiles}", f"runs_dir={tmp_path}", f"run_id={compiles}"]
        losses.append(losses_of(train(project, "smoke", [*words, *settings])))
    assert counters["stats"]["unique_graphs"] > 0
    assert losses[0].keys() == losses[1].keys()
    for stage, values in losses[0].items():
        assert losses[1][stage] == pytest.approx(values, rel=1e-4), stage
