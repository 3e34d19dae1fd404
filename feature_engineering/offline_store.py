"""The offline home of a feature set: parquet files of timestamped rows, joined point in time.

In: rows (entity_id i64, timestamp i64, one f32 column per feature), appended a file at a time. Out:
for N pairs (entity, moment) the latest row at or before each moment, never one after it.

    root/item_activity/v1/feature_set.json            name, version, hash of the content
    root/item_activity/v1/<time of writing>-<x>.parquet   rows of one append

A file appears whole or not at all: it is written beside its place, flushed to the disk, renamed.
Nothing is ever rewritten. A correction is a later append with the same (entity, timestamp), and the
row that was written last wins.

The join. Sort rows by (entity, timestamp); for a pair, the row wanted is the last one whose key is
not above the pair's: one binary search. Times are replaced by their ranks first, so that entity and
time fit into one integer key whatever the range of the timestamps is. O((R + N) log R), no loop.
This is pandas' ``merge_asof`` with ``by`` and ``direction="backward"``, and a test compares.
"""

from __future__ import annotations

import json
import os
import secrets
import time
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from feature_engineering.feature_sets import (
    NO_ROW,
    FeatureRows,
    FeatureSet,
    Int64Array,
    resolved,
)
from feature_engineering.schema import Float32Array

IDENTITY = "feature_set.json"
ENTITY, TIMESTAMP = "entity_id", "timestamp"


class OfflineStore:
    """Rows of one version of one feature set, under ``root/<name>/v<version>``."""

    def __init__(self, root: Path, feature_set: FeatureSet) -> None:
        """Opens or creates the folder.

        Raises:
            FeatureSetChangedError: if it was created with another content of the same version.
        """
        self.feature_set = feature_set
        self.folder = root / feature_set.name / f"v{feature_set.version}"
        self.folder.mkdir(parents=True, exist_ok=True)
        identity = self.folder / IDENTITY
        if not identity.exists():
            _write_whole(identity, json.dumps(_description(feature_set), indent=1).encode())
        remembered = json.loads(identity.read_text())["sha256"]
        feature_set.check_identity(remembered, str(self.folder))

    def append(
        self, entity_ids: npt.ArrayLike, timestamps: npt.ArrayLike, values: npt.ArrayLike
    ) -> Path:
        """Writes rows as one new file.

        Args:
            entity_ids: i64[N], external ids.
            timestamps: i64[N] Unix seconds, or one for all rows: when the values became known.
            values: f32[N, F], finite.

        Raises:
            ValueError: if shapes differ or a value is not finite.
        """
        ids, times, matrix = self.feature_set.checked_rows(entity_ids, timestamps, values)
        columns: dict[str, npt.NDArray[Any]] = {ENTITY: ids, TIMESTAMP: times}
        columns |= {n: matrix[:, i] for i, n in enumerate(self.feature_set.schema.names)}
        sink = pa.BufferOutputStream()
        pq.write_table(pa.table(columns), sink)
        # The name orders files by the time of writing: it decides which of two equal rows wins.
        path = self.folder / f"{time.time_ns():020d}-{secrets.token_hex(4)}.parquet"
        _write_whole(path, sink.getvalue())
        return path

    def files(self) -> list[Path]:
        """Files of rows, oldest first."""
        return sorted(self.folder.glob("*.parquet"))

    def rows(self, until: int | None = None) -> tuple[Int64Array, Int64Array, Float32Array]:
        """All rows up to and including a moment, sorted by (entity, timestamp), duplicates gone.

        Returns:
            entity_ids i64[R], timestamps i64[R], values f32[R, F].
        """
        keep = None if until is None else [(TIMESTAMP, "<=", until)]
        tables = [pq.read_table(path, filters=keep, partitioning=None) for path in self.files()]
        if not tables:
            return np.empty(0, np.int64), np.empty(0, np.int64), self._matrix(None)
        table = pa.concat_tables(tables)
        ids, times = table[ENTITY].to_numpy(), table[TIMESTAMP].to_numpy()
        order = np.lexsort((times, ids))  # stable: of equal rows the one written last comes last
        ids, times, matrix = ids[order], times[order], self._matrix(table)[order]
        last = np.ones(len(ids), dtype=bool)
        last[:-1] = (ids[1:] != ids[:-1]) | (times[1:] != times[:-1])
        return ids[last], times[last], matrix[last]

    def point_in_time_join(
        self, entity_ids: npt.ArrayLike, moments: npt.ArrayLike, *, apply_ttl: bool = True
    ) -> FeatureRows:
        """The latest row at or before each moment.

        Args:
            entity_ids: i64[N].
            moments: i64[N] Unix seconds, or one for all.
            apply_ttl: False where rows were written only when a value changed: such a row holds
                until the next one, however old it is.

        Returns:
            Values with defaults where there is no row or it is older than the time to live.
        """
        wanted = np.asarray(entity_ids, dtype=np.int64)
        when = np.broadcast_to(np.asarray(moments, dtype=np.int64), wanted.shape)
        ids, times, matrix = self.rows(int(when.max()) if len(when) else NO_ROW)
        position = latest_rows(ids, times, wanted, when)
        found = position >= 0
        values = np.zeros((len(wanted), len(self.feature_set.specs)), dtype=np.float32)
        values[found] = matrix[position[found]]
        timestamp = np.full(len(wanted), NO_ROW, dtype=np.int64)
        timestamp[found] = times[position[found]]
        return resolved(self.feature_set, values, timestamp, when, apply_ttl=apply_ttl)

    def _matrix(self, table: Any) -> Float32Array:
        n_rows = 0 if table is None else table.num_rows
        matrix = np.empty((n_rows, len(self.feature_set.specs)), dtype=np.float32)
        for column, name in enumerate(self.feature_set.schema.names if n_rows else ()):
            matrix[:, column] = table[name].to_numpy()
        return matrix


def latest_rows(
    ids: Int64Array, times: Int64Array, wanted: Int64Array, moments: Int64Array
) -> Int64Array:
    """For each pair the position of the last row of its entity with time <= moment, or -1.

    Args:
        ids: i64[R], sorted together with ``times`` by (id, time).
        times: i64[R].
        wanted: i64[N], entity of each pair.
        moments: i64[N].
    """
    entities, code = np.unique(ids, return_inverse=True)
    moments_known, rank = np.unique(times, return_inverse=True)
    span = len(moments_known) + 1
    keys = code * span + rank + 1  # ranks 1..T; a moment before every row has rank 0
    if not len(entities):
        return np.full(len(wanted), -1, dtype=np.int64)
    wanted_code = np.minimum(np.searchsorted(entities, wanted), len(entities) - 1)
    wanted_rank = np.searchsorted(moments_known, moments, side="right")
    position = np.searchsorted(keys, wanted_code * span + wanted_rank, side="right") - 1
    # What was found may belong to the entity before; and an unknown entity has borrowed a code.
    known = (entities[wanted_code] == wanted) & (ids[np.maximum(position, 0)] == wanted)
    return np.where(known & (position >= 0), position, -1)


def _description(feature_set: FeatureSet) -> dict[str, Any]:
    return {
        "name": feature_set.name,
        "version": feature_set.version,
        "sha256": feature_set.sha256,
        "entity": feature_set.entity,
        "owner": feature_set.owner,
        "tick_s": feature_set.tick_s,
        "ttl_s": feature_set.ttl_s,
        "columns": list(feature_set.schema.names),
    }


def _write_whole(path: Path, content: bytes) -> None:
    """Beside its place, to the disk, then renamed: a reader sees the whole file or none."""
    draft = path.with_name(f".{path.name}.{secrets.token_hex(4)}.draft")
    try:
        with draft.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(draft, path)
    finally:
        draft.unlink(missing_ok=True)
