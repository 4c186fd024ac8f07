"""Pickles: plain values are read, and nothing in them runs."""

import os
import pickle

import numpy as np
import pytest

from common.config import UserError
from common.data.plain_pickle import read_plain_pickle

ROWS = [(12345678, "a title", ""), {"captions": ["x", "y"], "image_id": "a.jpg", "n": 1.5}]


class Runs:
    """Makes a folder when it is unpickled."""

    def __init__(self, path):
        self.path = str(path)

    def __reduce__(self):
        return os.mkdir, (self.path,)


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_plain_values_come_back_and_code_is_refused(tmp_path, protocol):
    path = tmp_path / "rows.pkl"
    path.write_bytes(pickle.dumps(ROWS, protocol))
    assert read_plain_pickle(path) == ROWS
    trace = tmp_path / "trace"
    path.write_bytes(pickle.dumps([Runs(trace)], protocol))
    with pytest.raises(UserError, match="mkdir, which is no plain value"):
        read_plain_pickle(path)
    assert not trace.exists()
    pickle.loads(path.read_bytes())  # the twin: it would have run
    assert trace.exists()


def test_arrays_of_objects_are_read_and_their_content_is_checked(tmp_path):
    path, trace = tmp_path / "rows.npy", tmp_path / "trace"
    np.save(path, np.array(ROWS[1:], dtype=object), allow_pickle=True)
    assert read_plain_pickle(path) == ROWS[1:]
    np.save(path, np.array([Runs(trace)], dtype=object), allow_pickle=True)
    with pytest.raises(UserError, match="no plain value"):
        read_plain_pickle(path)
    assert not trace.exists()
    np.save(path, np.zeros(3))
    with pytest.raises(UserError, match="not of objects"):
        read_plain_pickle(path)


def test_an_array_in_a_plain_pickle_and_damaged_files_are_refused(tmp_path):
    path = tmp_path / "rows.pkl"
    path.write_bytes(pickle.dumps(np.zeros(2)))
    with pytest.raises(UserError, match="no plain value"):
        read_plain_pickle(path)
    for content in (b"", b"no pickle", pickle.dumps(ROWS)[:-3]):
        path.write_bytes(content)
        with pytest.raises(UserError, match="no pickle of plain values"):
            read_plain_pickle(path)
    with pytest.raises(UserError, match="does not exist"):
        read_plain_pickle(tmp_path / "absent.pkl")
