"""Any module to model.safetensors + config.json and back; writing is atomic."""

import pytest
import torch
from torch import nn

from common.config import UserError
from common.encoders.image.towers import ConvNet
from common.encoders.image.vit import QKNormViT
from common.export.files import write_atomic
from common.export.safetensors import load_safetensors, save_safetensors

SIZES = {"image_size": 16, "patch_size": 8, "width": 24, "depth": 1, "heads": 3}


class Tied(nn.Module):
    """Two names for one matrix."""

    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Linear(3, 3, bias=False), nn.Linear(3, 3, bias=False)
        self.b.weight = self.a.weight


def test_reload_is_exact(tmp_path):
    tower = QKNormViT(**SIZES).eval()
    images = torch.randn(2, 3, 16, 16)
    again = load_safetensors(save_safetensors(tower, tmp_path, SIZES), QKNormViT)
    assert torch.equal(again(images), tower(images))
    assert not again.training
    with torch.no_grad():
        again.trunk.norm.weight[0] += 0.5
    assert not torch.allclose(again(images), tower(images))


def test_tied_weights_stay_tied(tmp_path):
    source = Tied()
    again = load_safetensors(save_safetensors(source, tmp_path), Tied)
    assert torch.equal(again.b.weight, source.a.weight)
    assert again.a.weight is again.b.weight


def test_wrong_model_or_folder(tmp_path):
    save_safetensors(ConvNet((4, 6)), tmp_path, {"widths": [4, 6]})
    with pytest.raises(UserError, match="belongs to another model"):
        load_safetensors(tmp_path, QKNormViT)
    with pytest.raises(UserError, match="not a checkpoint of this ConvNet"):
        load_safetensors(tmp_path, lambda widths: ConvNet((*widths, 8)))
    with pytest.raises(UserError, match="not an exported model"):
        load_safetensors(tmp_path / "absent", ConvNet)


def test_failed_write_leaves_the_old_file(tmp_path):
    path = tmp_path / "x.json"
    write_atomic(path, lambda file: file.write_text("old"))

    def fail(file):
        file.write_text("half")
        raise RuntimeError("disk full")

    with pytest.raises(RuntimeError):
        write_atomic(path, fail)
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]
