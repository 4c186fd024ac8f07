"""Every precision that the schema names trains, evaluates and exports, or is refused with the reason."""

import pytest

from common.engine.verbs import smoke_one

# one project of each family whose smoke is short
FAMILIES = ["laclip", "dcl", "simcse"]
# the distance of embeddings after export and reload
PRECISIONS = {"64-true": 1e-5, "bf16-true": 1e-5}


@pytest.mark.usefixtures("unrendered_figures")
@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("project", FAMILIES)
def test_weights_of_another_dtype_are_evaluated_and_exported(project, precision, tmp_path):
    words = [f"trainer.precision={precision}"]
    assert smoke_one(project, tmp_path, further=words) <= PRECISIONS[precision]
    assert list(tmp_path.glob(f"{project}/smoke/*/metrics.json"))


def test_what_cannot_be_had_is_refused(command):
    code, said, made = command("train", "coconut", "smoke", "trainer.precision=bf16-true")
    assert (code, made) == (2, False)
    assert "take bf16-mixed" in said
