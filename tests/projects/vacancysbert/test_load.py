"""`load` of what this project exports: one encoder, or one with a map for each side."""

import pytest
import torch

from common.config import UserError
from projects.vacancysbert import build, load
from tests.cards import exported_by
from tests.projects.vacancysbert.conftest import SKILLS, TITLES, config, module_of


def test_an_encoder_with_a_map_for_each_side_opens(tmp_path):
    """``titles/`` and ``skills/`` were refused, and the setting of a cleaning run would be lost."""
    words = ["model.asymmetric_head=true", "model.head_dim=48", "data.clean_titles=true"]
    module = module_of(*words).eval()
    build(config(*words)).export(module, tmp_path)
    with pytest.raises(UserError, match="not an exported model"):
        load(tmp_path)
    exported_by("vacancysbert", tmp_path, words)
    actual, titles = load(tmp_path), [*TITLES, "Java developer (m/f/d)"]
    assert actual.clean
    torch.testing.assert_close(actual.encode_titles(titles), module.encoder.encode_titles(titles))
    torch.testing.assert_close(actual.encode_skills(SKILLS), module.encoder.encode_skills(SKILLS))
    exported_by("vacancysbert", tmp_path)  # of an older version: the map is there for all that
    assert load(tmp_path).num_features == 48
    with pytest.raises(UserError, match="neither an exported encoder"):
        load(tmp_path / "titles")


def test_one_encoder_for_both_opens_as_a_sentence_encoder(tmp_path):
    """The default, which sentence-transformers opens as well."""
    module = module_of().eval()
    build(config()).export(module, tmp_path)
    torch.testing.assert_close(load(tmp_path).encode(TITLES), module.encoder.encode_titles(TITLES))
