"""One resolver for every `pretrained:` string; nothing here may touch the network."""

import pytest
import torch

from common.config import UserError
from common.encoders import pretrained
from common.encoders.pretrained import resolve_pretrained


@pytest.fixture(autouse=True)
def offline(monkeypatch, tmp_path):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setattr(pretrained, "_in_hub_cache", lambda *_: False)
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path / "hub"))
    monkeypatch.setenv("HOME", str(tmp_path))


def test_random_needs_nothing():
    assert resolve_pretrained("random").kind == "random"


def test_local_file_and_folder(tmp_path):
    (tmp_path / "w.safetensors").write_bytes(b"")
    file = resolve_pretrained(str(tmp_path / "w.safetensors"))
    folder = resolve_pretrained(str(tmp_path))
    assert (file.kind, file.path) == ("file", tmp_path / "w.safetensors")
    assert (folder.kind, folder.path) == ("folder", tmp_path)
    (tmp_path / "weights").write_bytes(b"")  # a file needs no suffix, and a folder may have one
    (tmp_path / "model.v2").mkdir()
    kinds = [resolve_pretrained(str(tmp_path / name)).kind for name in ("weights", "model.v2")]
    assert kinds == ["file", "folder"]


@pytest.mark.parametrize("spec", ["weights.pt", "./absent", "/no/such/folder", "a/b/c"])
def test_missing_local_path(spec):
    with pytest.raises(UserError, match="does not exist"):
        resolve_pretrained(spec)
    assert not resolve_pretrained(spec, require=False).present


def test_bundled_lists_what_there_is(tmp_path, monkeypatch):
    monkeypatch.setattr(pretrained, "BUNDLED", tmp_path)
    (tmp_path / "small-clip").mkdir()
    assert resolve_pretrained("bundled:small-clip").path == tmp_path / "small-clip"
    with pytest.raises(UserError, match="bundled models: small-clip"):
        resolve_pretrained("bundled:smal-clip")
    with pytest.raises(UserError, match="bundled:<name"):
        resolve_pretrained("bundled:../secret")


def test_open_clip_tag_and_file(tmp_path):
    ref = resolve_pretrained("open_clip:ViT-B-16/laion400m_e32", require=False)
    assert (ref.kind, ref.name, ref.tag) == ("open_clip", "ViT-B-16", "laion400m_e32")
    (tmp_path / "w.pt").write_bytes(b"")
    ref = resolve_pretrained(f"open_clip:ViT-B-16/{tmp_path}/w.pt")
    assert (ref.name, ref.tag, ref.path) == ("ViT-B-16", None, tmp_path / "w.pt")


@pytest.mark.parametrize(
    ("spec", "hint"),
    [
        ("open_clip:ViT-B-61/openai", "did you mean .*ViT-B-16"),
        ("open_clip:ViT-B-16/opena", "did you mean .*openai"),
        ("open_clip:ViT-B-16", "<architecture>/<tag or file>"),
        ("torchvision:resnet81", "did you mean .*resnet"),
        ("timm:vit_smal_patch16_224", "did you mean .*vit_small_patch16_224"),
        ("timm:resnet18.no_such_tag", r"did you mean resnet18\."),
        ("torchhub:resnet18", "unknown source"),
    ],
)
def test_misspelt_names_get_the_nearest_one(spec, hint):
    for require in (True, False):
        with pytest.raises(UserError, match=hint):
            resolve_pretrained(spec, require=require)


@pytest.mark.parametrize(
    "spec",
    ["org/model", "open_clip:ViT-B-32/openai", "torchvision:resnet18", "timm:resnet18.a1_in1k"],
)
def test_offline_and_not_cached_says_what_to_do(spec, monkeypatch):
    with pytest.raises(UserError, match=r"not in the local cache .* pretrained=random"):
        resolve_pretrained(spec)
    assert not resolve_pretrained(spec, require=False).present
    monkeypatch.setenv("HF_HUB_OFFLINE", "0")
    assert not resolve_pretrained(spec).present  # may be downloaded later


def test_cached_weights_are_present(monkeypatch):
    monkeypatch.setattr(pretrained, "_in_hub_cache", lambda *_: True)
    for spec in ("org/model", "open_clip:ViT-B-32/openai", "timm:resnet18.a1_in1k"):
        assert resolve_pretrained(spec).present


def cached(monkeypatch, *files):
    """The hub's cache holds these files and no other; returns what was asked for."""
    asked = []

    def is_cached(repo, name="config.json"):
        asked.append((repo, name))
        return name in files

    monkeypatch.setattr(pretrained, "_in_hub_cache", is_cached)
    return asked


@pytest.mark.parametrize(
    ("files", "present"),
    [
        (["config.json"], False),
        (["model.safetensors"], False),
        (["config.json", "model.safetensors"], True),
        (["config.json", "pytorch_model.bin"], True),
        (["config.json", "model.safetensors.index.json"], True),
    ],
)
def test_a_cached_config_alone_is_no_model(files, present, monkeypatch):
    """But its tokenizer can be read, so that only loading the weights fails."""
    cached(monkeypatch, *files)
    assert resolve_pretrained("org/model", require=False).present == present
    if "config.json" in files:
        ref = resolve_pretrained("org/model")
        assert ref.present == present


def test_the_file_of_an_open_clip_tag_is_not_part_of_its_repository(monkeypatch):
    """Tags name org/name/ or org/name/file; open_clip reads .safetensors first."""
    asked = cached(monkeypatch, "pytorch_model.bin")
    assert resolve_pretrained("open_clip:ViTamin-B/datacomp1b").present
    assert asked == [
        ("jienengchen/ViTamin-B", "pytorch_model.safetensors"),
        ("jienengchen/ViTamin-B", "pytorch_model.bin"),
    ]
    asked = cached(monkeypatch, "open_clip_model.safetensors")
    assert resolve_pretrained("open_clip:ViT-B-16/laion2b_s34b_b88k").present
    assert asked == [("laion/CLIP-ViT-B-16-laion2B-s34B-b88K", "open_clip_model.safetensors")]


@pytest.mark.parametrize("spec", ["bert--base", "my..model", "a" * 100])
def test_a_name_that_is_no_hugging_face_id_is_said(spec, monkeypatch):
    monkeypatch.undo()  # the true look into the cache
    with pytest.raises(UserError, match="nor a Hugging Face id"):
        resolve_pretrained(spec, require=False)


def test_library_errors_become_user_errors():
    ref = resolve_pretrained("org/model", require=False)
    with pytest.raises(UserError, match="not in the local cache"), pretrained.loading(ref):
        raise OSError("connection failed")
