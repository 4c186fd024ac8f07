"""`trainer.compile` compiles networks that training calls, and gives the same losses."""

from collections import Counter
from functools import partialmethod

import pytest
from torch import nn
from torch._dynamo.utils import counters

from common.engine.run import train
from tests.contract.projects import PROJECTS
from tests.smoke import losses_of

# dropout draws other numbers in a traced graph
CASES = [("dcl",), ("laclip",), ("simcse", "model.dropout=0.0"), ("contriever",), ("trend",)]


@pytest.mark.slow
@pytest.mark.parametrize("project", PROJECTS)
@pytest.mark.usefixtures("unrendered_figures")
def test_what_is_compiled_is_called(project, tmp_path, monkeypatch):
    """A compiled network whose methods are called instead of itself runs as it was."""
    calls: Counter[str] = Counter()

    def counted(self, *_, **__):
        name = type(self).__name__
        calls[name] += 0

        def call(*args, **kwargs):
            calls[name] += 1
            return self._call_impl(*args, **kwargs)

        self._compiled_call_impl = call

    monkeypatch.setattr(nn.Module, "compile", counted)
    train(project, "smoke", ["trainer.compile=true", f"runs_dir={tmp_path}", "run_id=counted"])
    assert calls
    assert not [name for name, count in calls.items() if not count]


@pytest.mark.slow
@pytest.mark.parametrize("case", CASES, ids=lambda case: case[0])
@pytest.mark.usefixtures("unrendered_figures")
def test_compiled_encoders_train_as_others(case, tmp_path, monkeypatch):
    """The graphs run as they were traced (``aot_eager``): generated kernels would take minutes."""
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
