"""`common.models.load`: an exported folder by itself says which project reads it."""

import json
import shutil

import pytest
import torch

from common.config import UserError
from common.encoders.text.sentence import sentence_encoder
from common.engine.verbs import smoke_one
from common.export.sentence_encoders import save_sentence_encoder
from common.models import ABOUT, load
from tests.cards import exported_by

TEXTS = ["a small cat", "the town lies in the north"]
TINY = {
    "model_type": "bert",
    "vocab_size": 200,
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 32,
    "max_position_embeddings": 64,
}
SENTENCES = ["simcse", "esimcse", "mirror_bert", "debcse", "multicsr", "whitenedcse"]
# what sentence-transformers has no module for
OTHERS = {
    "layers": {"pooling": "avg_first_last"},
    "mask": {"pooling": "mask", "template": 'This sentence : "{text}" means [MASK] .'},
}


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    runs = tmp_path_factory.mktemp("runs")
    smoke_one("dcl", runs, further=["optim.lr=0.002"])
    (folder,) = runs.glob("dcl/smoke/*/export")
    return folder


def test_a_moved_export_opens_and_says_what_it_is(exported, tmp_path):
    moved = shutil.copytree(exported, tmp_path / "elsewhere")
    about = json.loads((moved / ABOUT).read_text())
    assert (about["project"], about["config"]) == ("dcl", "smoke")
    assert about["run"] == exported.parent.name
    assert about["overrides"] == ["optim.lr=0.002"]  # neither runs_dir nor tracking
    network = load(str(moved))
    assert not network.training
    assert network.encoder.num_features > 0
    assert {"config.json", "model.safetensors"} <= about["files"].keys()
    (moved / "config.json").write_text((moved / "config.json").read_text() + " ")
    with pytest.raises(UserError, match=r"config\.json is not the file that was exported"):
        load(moved)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (None, "make export"),
        ("{", "damaged"),
        ("{}", "project"),
        ("[]", "no object"),
        ("null", "no object"),
        ('{"project": "dcl", "config": "mini", "version": "0", "overrides": "a=b"}', "damaged"),
        ('{"project": "os", "config": "mini", "version": "0"}', "no project 'os'"),
        ('{"project": "../dcl", "config": "mini", "version": "0"}', "no project"),
    ],
)
def test_what_is_no_exported_model_is_refused(tmp_path, content, said):
    if content is not None:
        (tmp_path / ABOUT).write_text(content)
    with pytest.raises(UserError, match=said):
        load(tmp_path)
    with pytest.raises(UserError, match="no such folder"):
        load(tmp_path / "missing")


@pytest.fixture(scope="module", params=OTHERS)
def plain(request, tmp_path_factory):
    """An encoder that is exported as a plain folder of transformers; its folder."""
    torch.manual_seed(0)
    encoder = sentence_encoder("random", config=TINY, max_length=40, **OTHERS[request.param]).eval()
    folder = save_sentence_encoder(encoder, tmp_path_factory.mktemp(request.param))
    assert not (folder / "modules.json").exists()
    return encoder, folder


@pytest.mark.parametrize("project", SENTENCES)
def test_sentence_encoders_open_whichever_format_their_pooling_has(plain, project):
    """`load` once read folders of sentence-transformers alone, which half of the poolings don't
    become.
    """
    encoder, folder = plain
    exported_by(project, folder)
    torch.testing.assert_close(load(folder).encode(TEXTS), encoder.encode(TEXTS))
