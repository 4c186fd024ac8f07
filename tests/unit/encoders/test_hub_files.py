"""Tensors of a transformers folder, in one file or in shards."""

import json

import pytest
import torch
from safetensors.torch import save_file

from common.config import UserError
from common.encoders.hub_files import read_pretrained_state
from common.encoders.pretrained import resolve_pretrained

STATE = {"a.weight": torch.arange(4.0), "b": torch.ones(2)}


def test_one_file_and_shards(tmp_path):
    for name in ("one", "torch", "shards"):
        (tmp_path / name).mkdir()
    save_file(STATE, tmp_path / "one/model.safetensors")
    torch.save(STATE, tmp_path / "torch/pytorch_model.bin")
    for number, key in enumerate(STATE):
        save_file({key: STATE[key]}, tmp_path / f"shards/part{number}.safetensors")
    index = {"weight_map": {key: f"part{i}.safetensors" for i, key in enumerate(STATE)}}
    (tmp_path / "shards/model.safetensors.index.json").write_text(json.dumps(index))
    for name in ("one", "torch", "shards"):
        actual = read_pretrained_state(resolve_pretrained(str(tmp_path / name)))
        assert actual.keys() == STATE.keys()
        assert all(torch.equal(actual[k], STATE[k]) for k in STATE)
    (tmp_path / "shards/part1.safetensors").unlink()
    with pytest.raises(UserError, match=r"part1\.safetensors is missing"):
        read_pretrained_state(resolve_pretrained(str(tmp_path / "shards")))


def test_places_without_weights(tmp_path):
    with pytest.raises(UserError, match=r"neither model\.safetensors nor"):
        read_pretrained_state(resolve_pretrained(str(tmp_path)))
    with pytest.raises(UserError, match="give a folder"):
        read_pretrained_state(resolve_pretrained("random"))


def test_an_index_cannot_point_outside(tmp_path):
    save_file(STATE, tmp_path / "secret.safetensors")
    (tmp_path / "model").mkdir()
    index = {"weight_map": {"b": "../secret.safetensors"}}
    (tmp_path / "model/model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(UserError, match="missing"):
        read_pretrained_state(resolve_pretrained(str(tmp_path / "model")))


@pytest.mark.parametrize("content", ['{"metadata":', '{"metadata": {}}', "[]", '{"weight_map": 3}'])
def test_a_damaged_index_is_said(tmp_path, content):
    (tmp_path / "model.safetensors.index.json").write_text(content)
    with pytest.raises(UserError, match=r"index\.json is not an index of weights"):
        read_pretrained_state(resolve_pretrained(str(tmp_path)))
