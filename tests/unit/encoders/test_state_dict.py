"""Reading checkpoints safely, and refusing those that do not fit."""

import argparse

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from common.config import UserError
from common.encoders.state_dict import load_state_dict_file, read_state_dict


def model() -> nn.Sequential:
    return nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 2))


class Unsafe:
    """Unpickling this would call a function."""

    def __reduce__(self):
        return print, ("code ran",)


@pytest.mark.parametrize("prefix", ["", "module.", "_orig_mod.", "module._orig_mod."])
@pytest.mark.parametrize("suffix", [".safetensors", ".pt"])
def test_prefixes_of_wrappers_are_removed(tmp_path, prefix, suffix):
    source, target = model(), model()
    path = tmp_path / f"weights{suffix}"
    state = {prefix + key: value.clone() for key, value in source.state_dict().items()}
    if suffix == ".pt":
        torch.save({"state_dict": state, "args": argparse.Namespace(lr=1.0), "epoch": 3}, path)
    else:
        save_file(state, path)
    load_state_dict_file(path, target)
    for key, value in source.state_dict().items():
        assert torch.equal(target.state_dict()[key], value)


def test_wrapper_names_inside_are_removed_but_a_module_child_is_kept(tmp_path):
    save_file({"encoder._orig_mod.module.weight": torch.ones(1)}, tmp_path / "w.safetensors")
    assert list(read_state_dict(tmp_path / "w.safetensors")) == ["encoder.module.weight"]


def test_an_entry_that_is_asked_for_goes_before_the_usual_ones(tmp_path):
    path = tmp_path / "w.pt"
    part = {"module.weight": torch.ones(2)}
    torch.save({"state_dict": {"whole": torch.zeros(1)}, "part": part, "empty": None}, path)
    assert list(read_state_dict(path)) == ["whole"]
    assert list(read_state_dict(path, entries=("absent", "empty", "part"))) == ["weight"]


def test_half_precision_file_fills_a_float32_model(tmp_path):
    source, target = model(), model()
    path = tmp_path / "w.safetensors"
    save_file({k: v.bfloat16() for k, v in source.state_dict().items()}, path)
    load_state_dict_file(path, target)
    assert target[0].weight.dtype == torch.float32
    assert torch.equal(target[0].weight, source[0].weight.bfloat16().float())


def test_a_prefix_selects_a_part(tmp_path):
    path = tmp_path / "w.safetensors"
    layer = nn.Linear(3, 4)
    state = {f"visual.{k}": v for k, v in layer.state_dict().items()}
    save_file({**state, "text.bias": torch.zeros(7)}, path)
    target = nn.Linear(3, 4)
    load_state_dict_file(path, target, prefix="visual.")
    assert torch.equal(target.weight, layer.weight)
    with pytest.raises(UserError, match=r"no entry that starts with 'audio\.'"):
        load_state_dict_file(path, target, prefix="audio.")


def test_everything_that_does_not_fit_is_named_and_nothing_is_loaded(tmp_path):
    target = model()
    before = {key: value.clone() for key, value in target.state_dict().items()}
    path = tmp_path / "w.safetensors"
    save_file(
        {"0.weight": torch.ones(4, 3), "0.bias": torch.ones(5), "2.bias": torch.ones(1)}, path
    )
    with pytest.raises(UserError) as caught:
        load_state_dict_file(path, target)
    message = str(caught.value)
    assert "missing: 1.weight, 1.bias" in message
    assert "unexpected: 2.bias" in message
    assert "other shape: 0.bias (5,) instead of (4,)" in message
    assert all(torch.equal(value, before[key]) for key, value in target.state_dict().items())


def test_long_lists_are_shortened(tmp_path):
    path = tmp_path / "w.safetensors"
    save_file({f"x{i}": torch.ones(1) for i in range(30)}, path)
    with pytest.raises(UserError, match=r"x0.* and 25 more"):
        load_state_dict_file(path, model())


def test_pickled_code_does_not_run(tmp_path, capsys):
    torch.save({"state_dict": {"w": torch.ones(1)}, "x": Unsafe()}, tmp_path / "evil.pt")
    with pytest.raises(UserError, match=r"convert it to \.safetensors"):
        read_state_dict(tmp_path / "evil.pt")
    assert "code ran" not in capsys.readouterr().out


def test_unreadable_files_are_user_errors(tmp_path):
    (tmp_path / "bad.safetensors").write_bytes(b"nothing")
    (tmp_path / "bad.pt").write_bytes(b"nothing")
    torch.save([torch.ones(1)], tmp_path / "list.pt")
    torch.save({"epoch": 1}, tmp_path / "empty.pt")
    for name in ("bad.safetensors", "bad.pt", "list.pt", "empty.pt", "absent.pt"):
        with pytest.raises(UserError, match=name.replace(".", r"\.")):
            read_state_dict(tmp_path / name)
