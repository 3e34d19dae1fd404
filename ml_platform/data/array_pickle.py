"""Reading a pickled scipy matrix without trusting the pickle, and without scipy.

In: an open file. Out: the matrix's state, a dictionary of arrays, and its entries' coordinates.

A pickle may name any function to call while it is loaded; some data sets are published as pickles
and come from the network without a checksum. So this unpickler knows the few names that an array
needs, and refuses every other. Calls of those few with arguments that make no sense end in
``pickle.UnpicklingError`` too.
"""

from __future__ import annotations

import pickle
from collections.abc import Mapping
from typing import IO, Any

import numpy as np

BROKEN = (
    ArithmeticError, AttributeError, EOFError, ImportError, LookupError, MemoryError, TypeError,
    ValueError,
)  # fmt: skip
"""What the unpickler and numpy raise on bytes that nobody's ``dump`` wrote."""
MATRICES = {"coo_matrix", "csr_matrix", "coo_array", "csr_array"}


def load_matrix_state(stream: IO[bytes]) -> dict[str, Any]:
    """What a pickled scipy matrix in coordinates or compressed rows says of itself.

    Raises:
        pickle.UnpicklingError: It asks for a name that no array needs, is damaged, or is no matrix.
    """
    try:
        loaded = _ArraysOnly(stream).load()
    except BROKEN as error:
        raise pickle.UnpicklingError(f"damaged or made by hand: {error!r}") from error
    if not isinstance(loaded, _State):
        raise pickle.UnpicklingError(f"it holds a {type(loaded).__name__}, not a sparse matrix")
    return loaded.state


def coordinates(state: Mapping[str, Any]) -> tuple[tuple[int, int], np.ndarray, np.ndarray]:
    """Shape, row and column i[N] of the matrix's entries, whichever kind it is.

    Raises:
        KeyError, TypeError, ValueError: If a part is missing, of another type, or does not fit.
    """
    shape = state["_shape"]
    if not isinstance(shape, tuple) or [type(side) for side in shape] != [int, int]:
        raise ValueError(f"its shape is {shape!r}, not two numbers")
    if "coords" in state:  # scipy 1.13 and later
        row, column = (_index(part) for part in tuple(state["coords"]))
    elif "row" in state:
        row, column = _index(state["row"]), _index(state["col"])
    else:
        column = _index(state["indices"])
        row = _rows_of(_index(state["indptr"]), shape[0], len(column))
    return (shape[0], shape[1]), row, column


def _rows_of(indptr: np.ndarray, n_rows: int, n_pairs: int) -> np.ndarray:
    """The row of each pair; what it allocates is bounded by what the file holds."""
    lengths: np.ndarray = np.diff(indptr.astype(np.int64))
    fits = len(lengths) == n_rows and (lengths >= 0).all() and lengths.sum() == n_pairs
    if not fits:
        raise ValueError(
            f"its {len(lengths)} row lengths do not fit {n_rows} rows, {n_pairs} pairs"
        )
    return np.repeat(np.arange(n_rows), lengths)


def _index(values: object) -> np.ndarray:
    """An array of whole numbers, one dimension."""
    if not isinstance(values, np.ndarray) or values.ndim != 1 or values.dtype.kind not in "iu":
        raise ValueError(f"a {type(values).__name__} stands where an array of numbers should")
    return values


class _State:
    """Stands in for a scipy matrix: keeps what the pickle says of it, and does nothing."""

    def __init__(self, *_: object) -> None:
        self.state: dict[str, Any] = {}

    def __setstate__(self, state: object) -> None:
        if not isinstance(state, dict):
            raise pickle.UnpicklingError(f"a matrix of a {type(state).__name__}, not of names")
        self.state = state


class _ArraysOnly(pickle.Unpickler):
    """Builds numpy arrays and ``_State``; any other name in the pickle is refused."""

    def find_class(self, module: str, name: str) -> Any:
        root = module.split(".")[0]
        if root == "scipy" and name in MATRICES:
            return _State
        if (root, name) == ("numpy", "ndarray") or (root, name) == ("numpy", "dtype"):
            return getattr(np, name)
        if root == "numpy" and module.endswith("multiarray") and name == "_reconstruct":
            return np.ndarray(0).__reduce__()[0]
        if root == "numpy" and module.endswith("numeric") and name == "_frombuffer":
            return _from_buffer
        if (module, name) == ("_codecs", "encode"):  # how protocol 2 writes the bytes of an array
            return _latin_bytes
        raise pickle.UnpicklingError(f"it asks for {module}.{name}, which no array needs")


def _latin_bytes(text: str, encoding: str) -> bytes:
    """The bytes that protocol 2 keeps as text."""
    if encoding != "latin1":
        raise pickle.UnpicklingError(f"it asks for the encoding {encoding!r}, not for latin1")
    return text.encode("latin1")


def _from_buffer(buffer: Any, dtype: Any, shape: Any, order: Any) -> np.ndarray:
    """How numpy restores an array of protocol 5."""
    return np.frombuffer(buffer, dtype=dtype).reshape(shape, order=order)
