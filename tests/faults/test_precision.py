"""Every precision that the schema names trains, evaluates and exports, or is refused with the
reason.
"""

from contextlib import ExitStack
from pathlib import Path
from typing import get_args, get_type_hints

import pytest

import common.families
from common.config import TrainerConfig, UserError
from common.engine.verbs import smoke_one
from tests.contract.projects import PROJECTS

pytestmark = pytest.mark.slow

# one project of each family whose smoke is short
FAMILIES = {
    "image_text": "laclip",
    "images": "dcl",
    "retrieval": "vacancysbert",
    "sentences": "simcse",
}
PRECISIONS = set(get_args(get_type_hints(TrainerConfig)["precision"])) - {"32-true"}  # the smoke's
# momentum encoders, spectra, boxes
REFUSE = {"cocosoda", "coconut", "contriever", "dito", "esimcse"}
WORST = 1e-5  # distance of embeddings after export and reload


def test_each_family_has_a_project_here():
    folders = Path(common.families.__path__[0]).iterdir()
    assert set(FAMILIES) == {p.name for p in folders if p.is_dir() and p.name != "__pycache__"}


@pytest.mark.usefixtures("unrendered_figures")
@pytest.mark.parametrize("precision", sorted(PRECISIONS))
@pytest.mark.parametrize("project", [*FAMILIES.values(), "peft_augmentation"])
def test_runs_of_another_precision_are_evaluated_and_exported(project, precision, tmp_path):
    assert smoke_one(project, tmp_path, further=[f"trainer.precision={precision}"]) <= WORST
    assert list(tmp_path.glob(f"{project}/smoke/*/metrics.json"))


@pytest.mark.usefixtures("unrendered_figures")
@pytest.mark.parametrize("project", sorted({*PROJECTS} - {*FAMILIES.values()}))
def test_weights_in_sixteen_bits_work_or_are_refused(project, tmp_path):
    """Each project has parts of its own that compute in float32 whatever the weights are."""
    with ExitStack() as stack:
        if project in REFUSE:
            stack.enter_context(pytest.raises(UserError, match="bf16-mixed"))
        assert smoke_one(project, tmp_path, further=["trainer.precision=bf16-true"]) <= WORST


def test_what_cannot_be_had_is_refused(command):
    code, said, made = command("train", "coconut", "smoke", "trainer.precision=bf16-true")
    assert (code, made) == (2, False)
    assert "take bf16-mixed" in said
