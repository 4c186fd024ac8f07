"""Files with random damage are read or refused in one sentence, whatever the damage is.

The quick suite tries a few dozen of each; ``make faults`` tries thousands.
"""

import contextlib
import gzip
import io
import json
import tarfile
import zipfile

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from common.config import UserError, load
from common.data.image.upright import upright
from common.data.image_text.captions import CaptionFiles
from common.data.image_text.shards import is_cut_off
from common.data.lines import LineFile, read_lines
from common.data.packed import PackedImages, write_packed
from common.data.retrieval.readers import _json, _json_lines
from common.data.speech.waveforms import load_waveform
from common.data.tables import read_csv, read_jsonl, read_parquet
from common.encoders.state_dict import read_state_dict
from common.engine import checkpoint as ckpt
from common.engine.lifecycle import lock
from common.engine.lifecycle.run import read_meta
from common.engine.report.contents import _gallery
from common.engine.tracking import read_metrics
from common.models import about, check_unchanged
from projects.laclip.config import Config


def png():
    buffer = io.BytesIO()
    Image.new("RGB", (9, 7), "red").save(buffer, "png")
    return buffer.getvalue()


def saved(save, *args):
    buffer = io.BytesIO()
    save(buffer, *args)
    return buffer.getvalue()


def archive():
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        for name, content in (("0.png", png()), ("0.txt", b"a red square")):
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    return buffer.getvalue()


def packed(folder):
    write_packed(folder / "x.npz", [png(), png()])
    return (folder / "x.npz").read_bytes()


def parquet():
    import pyarrow as pa
    import pyarrow.parquet as pq

    return saved(lambda file: pq.write_table(pa.table({"a": ["x", "y"], "b": [1, 2]}), file))


def safetensors():
    from safetensors.torch import save

    return save({"weight": torch.ones(3, 2)})


def wav():
    from scipy.io import wavfile

    return saved(lambda file: wavfile.write(file, 16000, np.arange(99, dtype=np.int16)))


def every_line(lines):
    return [lines[i] for i in range(len(lines))]


ROWS = "".join(json.dumps({"text": f"row {i}", "label": i}) + "\n" for i in range(4)).encode()
META = {"project": "p", "config": "c", "overrides": [], "started": "2026-01-01", "state": "failed"}
GALLERY = [{"query": {"text": "a"}, "results": [{"item": {"text": "b"}, "score": 0.5}]}]

FILES = {  # name: content, reader
    "table.csv": (b'a,b\n1,"x, y"\n2,z\n', read_csv),
    "table.tsv": (b"a\tb\n1\tx\n", read_csv),
    "pairs.csv": (
        b'0.png,"a, red"\n1.png,square\n',
        lambda p: list(map(CaptionFiles(p).texts, [0])),
    ),
    "rows.jsonl": (ROWS, read_jsonl),
    "rows.jsonl.gz": (gzip.compress(ROWS), read_jsonl),
    "more.jsonl.gz": (gzip.compress(ROWS), lambda p: list(_json_lines(p))),
    "whole.json": (json.dumps([{"a": 1}]).encode(), _json),
    "lines.txt": (b"one\ntwo\r\nthree", lambda p: [read_lines(p), *every_line(LineFile(p))]),
    "table.parquet": (parquet(), read_parquet),
    "image.png": (png(), upright),
    "shard.tar": (archive(), lambda p: is_cut_off(str(p))),
    "sound.wav": (wav(), lambda p: load_waveform(p, 16000)),
    "weights.safetensors": (safetensors(), read_state_dict),
    "step-1.ckpt": (
        saved(lambda f: torch.save({"state_dict": {"a": torch.ones(3)}}, f)),
        ckpt.load,
    ),
    "meta.json": (json.dumps(META).encode(), lambda p: read_meta(p.parent)),
    "exported.json": (
        json.dumps({**META, "version": "1", "files": {"x": "0"}}).encode(),
        lambda p: [about(p.parent), check_unchanged(p.parent)],
    ),
    "lock.json": (
        json.dumps({"pid": 7, "host": "h", "birth": 1.0, "started": "t"}).encode(),
        lambda p: lock.held(p.parent),
    ),
    "metrics.csv": (b"stage,step,name,value\nfit,1,loss,0.5\n", read_metrics),
    "gallery.json": (json.dumps(GALLERY).encode(), lambda p: _gallery(p, "a", p.parent)),
}

EDITS = st.lists(
    st.tuples(
        st.sampled_from(["flip", "cut", "insert", "repeat", "zero"]),
        st.floats(0, 1, exclude_max=True),
        st.binary(min_size=1, max_size=9),
    ),
    min_size=1,
    max_size=4,
)


def damaged(content, edits):
    for kind, place, extra in edits:
        at = int(place * len(content))
        middle = bytes(b ^ extra[0] for b in content[at : at + 1])
        tail = content[at + 1 :]
        content = {
            "flip": content[:at] + middle + tail,
            "cut": content[:at],
            "insert": content[:at] + extra + content[at:],
            "repeat": content + content[at:],
            "zero": content[:at] + bytes(len(extra)) + content[at + len(extra) :],
        }[kind]
    return content


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("damaged")


@pytest.mark.parametrize("name", FILES)
@given(edits=EDITS)
def test_a_damaged_file_is_read_or_refused(folder, name, edits):
    content, read = FILES[name]
    place = folder / name.replace(".", "_")
    place.mkdir(exist_ok=True)
    path = place / name
    path.write_bytes(damaged(content, edits))
    # a recording that is damaged is counted as a corrupt sample by its readers
    with contextlib.suppress(UserError, *((OSError,) if name == "sound.wav" else ())):
        read(path)
    for rest in place.glob(".*.npy"):
        rest.unlink()


@given(edits=EDITS)
def test_a_damaged_array_of_images_is_read_or_refused(folder, edits):
    path = folder / "images.npz"
    path.write_bytes(damaged(packed(folder), edits))
    with contextlib.suppress(UserError):
        PackedImages(path, max_corrupt=1.0).decode(8)


@pytest.mark.parametrize("name", FILES)
def test_an_undamaged_file_is_read(folder, name):
    """Else the others would pass because everything is refused."""
    content, read = FILES[name]
    path = folder / "whole" / name
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(content)
    if name == "exported.json":
        with pytest.raises(UserError, match="x is missing"):
            read(path)
    else:
        read(path)


KEYS = st.sampled_from(
    [
        "optim.lr",
        "data.batch_size",
        "trainer.max_steps",
        "run_id",
        "data.shards",
        "optim.betas",
        "x",
    ]
)
VALUES = st.one_of(
    st.text(max_size=12),
    st.sampled_from(["{", "[", "{0..1}.tar", "${x}", "!!python/object:os.system", "1e400", "null"]),
)


@given(key=KEYS, value=VALUES)
def test_whatever_is_typed_is_a_setting_or_one_sentence(key, value):
    with contextlib.suppress(UserError):
        assert isinstance(load(Config, "laclip", "smoke", [f"{key}={value}"]), Config)


def test_the_damage_is_real():
    assert damaged(b"abcd", [("cut", 0.5, b"x")]) == b"ab"
    assert damaged(b"abcd", [("flip", 0.0, b"\x01")]) == b"`bcd"
    assert zipfile.is_zipfile(io.BytesIO(FILES["step-1.ckpt"][0]))
