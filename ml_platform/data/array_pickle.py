"""Reading a pickled scipy matrix without trusting the pickle, and without scipy.

In: an open file. Out: the matrix's state, a dictionary of arrays. A pickle may name any function to
call while it is loaded; some data sets are published as pickles and come from the network without a
checksum. So this unpickler knows the few names that an array needs, and refuses every other. Calls
of those few with arguments that make no sense end in ``pickle.UnpicklingError`` too.
"""

from __future__ import annotations

import pickle
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
