"""Do the parts of a bundle belong together? What checksums cannot answer.

In: a bundle's manifest and parts. Out: nothing, or a ``BundleError`` that names the parts.

The mistake to catch: the tower is trained again, the old index is copied in, and the checksums are
written anew. Every file is sound, nothing fails, and the service retrieves at random, because the
user vectors of one tower mean nothing among the item vectors of another. Two questions find it:

1. lineage: the manifest states by which tower the item vectors were computed and from which vectors
   the index was built, as digests. A hash comparison; it also names the file that was exchanged.
2. content: the index gives back the item vectors, and the tower computes them again. No digest
   helps against somebody who rewrites all of them; this does.

The content of the index is compared on up to SAMPLE rows, spread over the catalogue. The tower
computes all I rows, as a request encoder does with its own table whenever a bundle is loaded.

Legend: I items, D embedding dim, S sampled items.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

import faiss
import numpy as np

from feature_engineering.schema import FeatureSchema
from video_recommendation.retrieval.training import item_vectors
from video_recommendation.retrieval.two_tower import TwoTower

SAMPLE = 4096
"""Rows of the index that are compared; a catalogue of this size is compared whole."""
INDEX_TOLERANCE = 1e-6
TOWER_TOLERANCE = 1e-3
"""Unit vectors computed on another processor differ by about 1e-6, those of another tower by 1."""
MAX_RECODED = 0.05
"""Share of compressed vectors that may get another code: rounding differs with the batch size."""


class BundleError(RuntimeError):
    """A bundle that cannot be used, and why."""


# --- features -------------------------------------------------------------------------------------


def feature_table(schema: FeatureSchema) -> dict[str, dict[str, Any]]:
    """The schema as the manifest holds it: feature name to column and specification."""
    return {
        spec.name: {"column": column, **{k: v for k, v in asdict(spec).items() if k != "name"}}
        for column, spec in enumerate(schema.specs)
    }


def check_features(stored: Mapping[str, Mapping[str, Any]], schema: FeatureSchema) -> None:
    """Refuses a bundle that was trained on other features than ``schema``.

    Raises:
        BundleError: naming the features that were added, removed, moved or changed.
    """
    current = feature_table(schema)
    found = [f"{name} is new" for name in current if name not in stored]
    found += [f"{name} is gone" for name in stored if name not in current]
    # A column moves when one before it comes or goes; that one is named already.
    ignored = {"column"} if found else set()
    for name in (name for name in stored if name in current):
        before, after = stored[name], current[name]
        found += [
            f"{name} has {key} {after.get(key)!r}, had {before.get(key)!r}"
            for key in sorted({*before, *after} - ignored)
            if before.get(key) != after.get(key)
        ]
    if found:
        raise BundleError(f"trained on another feature schema: {'; '.join(found)}; train it again")


# --- lineage --------------------------------------------------------------------------------------


def make_lineage(files: Mapping[str, str], vectors: np.ndarray) -> dict[str, dict[str, str]]:
    """Which file was made from which: ``files`` are checksums, ``vectors`` f32[I, D]."""
    return {
        "item_vectors": {"sha256": array_sha256(vectors), "computed_by": files["two_tower.pt"]},
        "index": {"sha256": files["index.faiss"], "built_from": array_sha256(vectors)},
    }


def check_lineage(
    lineage: Mapping[str, Mapping[str, str]], files: Mapping[str, str], vectors: np.ndarray
) -> None:
    """Refuses parts that are not those that the lineage speaks of.

    Raises:
        BundleError: naming the part that was exchanged.
    """
    vectors_sha256 = array_sha256(vectors)
    if lineage["item_vectors"]["sha256"] != vectors_sha256:
        raise BundleError("arrays.npz holds other item vectors than the bundle was made with")
    if lineage["item_vectors"]["computed_by"] != files["two_tower.pt"]:
        raise BundleError("the item vectors were computed by another tower than two_tower.pt")
    if lineage["index"]["sha256"] != files["index.faiss"]:
        raise BundleError("index.faiss is not the index that was built from the item vectors")
    if lineage["index"]["built_from"] != vectors_sha256:
        raise BundleError("index.faiss was built from other vectors than those in arrays.npz")


def array_sha256(array: np.ndarray) -> str:
    """Digest of type, shape and content."""
    digest = hashlib.sha256(f"{array.dtype}{array.shape}".encode())
    digest.update(np.ascontiguousarray(array).data)
    return digest.hexdigest()


# --- content --------------------------------------------------------------------------------------


def check_index(index: faiss.Index, vectors: np.ndarray) -> None:
    """Refuses an index that does not hold ``vectors`` f32[I, D] under their row numbers.

    Raises:
        BundleError: with the sizes, or the share of sampled rows that differ.
    """
    if (index.ntotal, index.d) != vectors.shape:
        raise BundleError(
            f"the index holds {index.ntotal} vectors of {index.d} numbers, "
            f"the tower gave {len(vectors)} of {vectors.shape[1]}: build it again from them"
        )
    rows = np.unique(np.linspace(0, len(vectors) - 1, SAMPLE).astype(np.int64))
    expected, allowed = vectors[rows], 0.0
    if isinstance(index, faiss.IndexIVFPQ):  # compressed: what these vectors come back as
        expected, allowed = index.sa_decode(index.sa_encode(expected)), MAX_RECODED
    differs = np.abs(_held_vectors(index, rows) - expected).max(axis=1) > INDEX_TOLERANCE
    if differs.mean() > allowed:
        raise BundleError(
            f"the index does not belong to the item vectors: {differs.sum()} of {len(rows)} "
            "vectors in it are others; build it again from the vectors of this tower"
        )


def check_tower(model: TwoTower, vectors: np.ndarray) -> None:
    """Refuses item vectors f32[I, D] that the tower does not compute.

    Raises:
        BundleError: with the number of rows that differ and the largest difference.
    """
    computed = item_vectors(model)
    if computed.shape != vectors.shape:
        raise BundleError(
            f"the tower gives item vectors {computed.shape}, the bundle holds {vectors.shape}"
        )
    difference = np.abs(computed - vectors).max(axis=1)
    n_others = int((difference > TOWER_TOLERANCE).sum())
    if n_others:
        raise BundleError(
            f"the item vectors were not computed by this tower: {n_others} of {len(vectors)} "
            f"differ, by up to {difference.max():.2g}; compute them and their index again"
        )


def _held_vectors(index: faiss.Index, rows: np.ndarray) -> np.ndarray:
    """What the index holds under the row numbers i64[S]: f32[S, D]."""
    cells = faiss.try_extract_index_ivf(index)
    if cells is None:
        return np.asarray(index.reconstruct_batch(rows))
    cells.make_direct_map()  # where in the cells each row is; not needed to search
    held = np.asarray(index.reconstruct_batch(rows))
    cells.make_direct_map(False)
    return held
