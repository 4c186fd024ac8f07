"""`load` of what this project exports: a ranker, or the generator of phase I."""

import pytest
import torch

from common.config import UserError
from projects.wikides import build, load
from projects.wikides.inference import describe
from tests.projects.wikides.conftest import PARAGRAPH, config, generator_folder, ranker

assert generator_folder  # a fixture


def test_ranker_and_generator_open_and_describe_together(generator_folder, tmp_path):
    """The export of ``phase=describe`` was refused as no folder of sentence-transformers."""
    module = ranker().eval()
    build(config()).export(module, tmp_path)
    encoder, generator = load(tmp_path), load(generator_folder)
    torch.testing.assert_close(encoder.encode([PARAGRAPH]), module.encoder.encode([PARAGRAPH]))
    assert (generator.device, generator.model.training) == ("cpu", False)
    assert describe(generator, encoder, PARAGRAPH, widths=(1, 2), max_new_tokens=6)
    (tmp_path / "modules.json").unlink()
    with pytest.raises(UserError, match="neither an exported ranker"):
        load(tmp_path)
