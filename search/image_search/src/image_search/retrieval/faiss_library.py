"""FAISS without its type stubs: they know neither NumPy's arrays nor the parameters by keyword."""

from __future__ import annotations

from typing import Any

import faiss as _faiss

faiss: Any = _faiss
