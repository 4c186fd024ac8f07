"""Pickles that hold plain values alone, read without running what a pickle can run."""

import pickle
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from common.config import UserError, first_line
from common.damage import ERRORS

# what an object array of NumPy is made of; the module was renamed in NumPy 2
_ARRAYS = {
    **{("numpy", name): getattr(np, name) for name in ("ndarray", "dtype")},
    **{
        (module, "_reconstruct"): np.empty(0, object).__reduce__()[0]
        for module in ("numpy.core.multiarray", "numpy._core.multiarray")
    },
}


class _PlainUnpickler(pickle.Unpickler):
    """Builds containers, numbers and strings; every name of code is refused."""

    def __init__(self, file: BinaryIO, arrays: bool) -> None:
        super().__init__(file, encoding="latin1")  # pickles of Python 2 hold bytes as text
        self.arrays = arrays

    def find_class(self, module: str, name: str) -> Any:
        if self.arrays and (module, name) in _ARRAYS:
            return _ARRAYS[module, name]
        raise pickle.UnpicklingError(f"it asks for {module}.{name}, which is no plain value")


def read_plain_pickle(path: Path) -> Any:
    """The lists, dictionaries, strings and numbers of a pickle, or of an ``.npy`` of objects.

    Only containers are built: a pickle that names a class or function is refused before any of it
    is called (NumPy's own arrays are allowed in ``.npy``).

    Raises:
        UserError: a missing or damaged file, or a pickle of anything else.
    """
    if not path.is_file():
        raise UserError(f"{path} does not exist")
    try:
        with path.open("rb") as file:
            if path.suffix != ".npy":
                return _PlainUnpickler(file, arrays=False).load()
            version = np.lib.format.read_magic(file)  # type: ignore[no-untyped-call]
            header = (
                np.lib.format.read_array_header_1_0
                if version == (1, 0)
                else np.lib.format.read_array_header_2_0
            )
            *_, dtype = header(file)  # type: ignore[no-untyped-call]
            if dtype != np.dtype(object):
                raise ValueError(f"an array of {dtype}, not of objects")
            return _PlainUnpickler(file, arrays=True).load().tolist()
    except (pickle.UnpicklingError, AttributeError, TypeError, *ERRORS) as error:
        raise UserError(f"{path} is no pickle of plain values: {first_line(error)}") from error
