"""`load` of an export: with the settings of its run, on the original that its adapters belong
to."""

import json

import pytest
import torch

from common.config import UserError
from projects.lol import load
from projects.lol.module import LOL
from projects.lol.stages import build_decoder, save
from tests.cards import exported_by
from tests.projects.lol.conftest import config, tiny, tokens, with_adapters

OWN = [
    "base.steps=0",
    "model.config=null",
    "data.source=file",
    "data.file=none.json",
    "eval.source=truthfulqa",
    "methods.lol.beta=0.5",
    "prompt.truthful=the good",
]


@pytest.fixture
def adapters(tmp_path):
    """An original in a folder of its own; settings, and a module with adapters on it, exported
    alone.
    """
    tiny(1).float().save_pretrained(tmp_path / "mine")
    tokens().save_pretrained(tmp_path / "mine")
    words = [*OWN, f"model.pretrained={tmp_path}/mine"]
    cfg, module = config(*words), LOL(config(*words), with_adapters(tiny(1)), tokens(), lora=True)
    save(cfg, module.float().eval(), tmp_path / "export")
    assert [p.name for p in (tmp_path / "export").iterdir()] == ["amateur"]
    return words, module


def test_settings_of_the_command_line_come_back(adapters, tmp_path):
    """``methods``, ``prompt`` and ``model`` of the run were those of its config file after an
    export.
    """
    words, module = adapters
    exported_by("lol", tmp_path / "export", words)
    actual = load(tmp_path / "export")
    assert actual.method.beta == 0.5
    expected = build_decoder(config(*words), module, "lol").score("who", ["a man", "it is"])
    assert actual.score("who", ["a man", "it is"]) == pytest.approx(expected, abs=1e-5)


def test_adapters_never_lie_on_another_original(adapters, tmp_path):
    """A folder of an older version names its config alone, whose model may be another of the same
    shapes.
    """
    _, module = adapters
    export, other = tmp_path / "export", tmp_path / "other"
    tiny(2).float().save_pretrained(other)
    tokens().save_pretrained(other)
    exported_by("lol", export, [*OWN, f"model.pretrained={other}"])  # as a config would have it
    actual, own = load(export).models.lm.model, module.model
    ids = torch.tensor([[2, 7, 9]])
    torch.testing.assert_close(actual(ids).logits, own(ids).logits)
    path = export / "amateur/adapter_config.json"
    about = json.loads(path.read_text())
    for base, said in ((None, "names no model"), ("original", "has lost original/")):
        path.write_text(json.dumps({**about, "base_model_name_or_path": base}))
        with pytest.raises(UserError, match=said):
            load(export)
