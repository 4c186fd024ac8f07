"""`load` of an export: texts are prepared as its run judges them."""

import pytest
import torch

from common.config import UserError
from projects.contriever import build, load
from projects.contriever.stages import recipe_of
from tests.projects.contriever.conftest import config, module_of

TEXTS = ["The \u201cHouse\u201d \u2013 of the State", "people"]
SWITCHES = ["eval.normalize_text=true", "eval.lower_case=true"]


def test_an_exported_encoder_prepares_texts_as_in_evaluation(tmp_path):
    """Quotes, dashes and capitals, which such an encoder never met, reached it raw."""
    cfg, module = config(*SWITCHES), module_of(*SWITCHES).eval()
    build(cfg).export(module, tmp_path)
    actual = load(tmp_path)
    expected = recipe_of(cfg).queries(module.encoder, TEXTS)
    torch.testing.assert_close(actual.encode(TEXTS), expected)
    torch.testing.assert_close(actual.encode(TEXTS[0])[0], expected[0])
    assert not torch.allclose(module.encoder.encode(TEXTS), expected)  # else nothing is tested
    ids = [
        encoder.tokenize([text])["input_ids"]
        for encoder, text in ((actual, TEXTS[0]), (module.encoder, 'the "house" - of the state'))
    ]
    assert torch.equal(*ids)
    # what evaluates the folder prepares by its own config, once
    again = build(config()).load_export(tmp_path).encoder
    torch.testing.assert_close(again.encode(TEXTS), module.encoder.encode(TEXTS))
    (tmp_path / "contriever.json").write_text("{}")
    with pytest.raises(UserError, match="normalize_text"):
        load(tmp_path)
    (tmp_path / "contriever.json").unlink()  # of an older version
    torch.testing.assert_close(load(tmp_path).encode(TEXTS), module.encoder.encode(TEXTS))


def test_an_exported_encoder_of_unit_vectors_gives_unit_vectors(tmp_path):
    words = [*SWITCHES, "method.norm_query=true", "method.norm_document=true"]
    build(config(*words)).export(module_of(*words).eval(), tmp_path)
    torch.testing.assert_close(load(tmp_path).encode(TEXTS).norm(dim=1), torch.ones(2))
