"""The online home of a feature set: one row per entity in a Redis-protocol store, read by one MGET.

In: rows of the same feature set as offline, once a tick. Out: for N entities, now, their values in
one round trip, with defaults for what is missing or stale, and a count of both.

    {namespace}fs:item_activity:v1:{entity_id}   timestamp i64 | f32 x F, little-endian, no header
    {namespace}fs:item_activity:v1:sha256        the hash of the content that wrote them

Bytes without a header are safe because the name holds the version and every read fetches the hash
beside the rows: a reader whose columns or defaults differ is refused before it decodes a byte.

*A newer row is never overwritten by an older one.* A backfill that overtakes the stream, or two
writers of which one hung for a minute, would otherwise turn the clock back; the comparison runs in
the store, in a script, because a read followed by a write is a race.

*Nothing is guessed when the store is down.* Reads and writes raise ``StoreUnavailableError``; the
caller knows a better substitute than defaults for all, or says that it has none.

Counters are a callback, because who counts (Prometheus, a test) is the service's business.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Literal, Protocol, cast

import numpy as np
import numpy.typing as npt
import redis

from feature_engineering.feature_sets import (
    NO_ROW,
    FeatureRows,
    FeatureSet,
    FeatureSetChangedError,
    resolved,
)
from ml_platform.serving.store import Store

Outcome = Literal["hit", "missing", "stale"]
BATCH = 500
"""Rows of one script call: below a millisecond in which the store answers nobody else."""
KEEP_S = 7 * 86_400
"""Rows of a set with a time to live vanish so long after their last write: a version that nobody
writes any more cleans itself up. Far above any time to live, so that stale stays different from
missing."""

# KEYS: rows. ARGV: seconds to keep or 0, then a row for each key. Counts the rows it wrote.
_WRITE = """
local written = 0
for i, key in ipairs(KEYS) do
  local row = ARGV[i + 1]
  local old = redis.call('GETRANGE', key, 0, 7)
  if #old < 8 or struct.unpack('<i8', old) <= struct.unpack('<i8', row) then
    if ARGV[1] == '0' then redis.call('SET', key, row)
    else redis.call('SET', key, row, 'EX', ARGV[1]) end
    written = written + 1
  end
end
return written
"""


class CountRows(Protocol):
    """Told, after each read, how many rows of a set had which outcome."""

    def __call__(self, feature_set: str, outcome: Outcome, n: int) -> None:
        """``feature_set`` is its name, without the version: label values stay few."""


def count_nothing(feature_set: str, outcome: Outcome, n: int) -> None:
    """The default: nobody counts."""


class OnlineStore:
    """Rows of one version of one feature set in a store. Thread-safe.

    Args:
        feature_set: What the rows are.
        store: Where they are.
        namespace: Prefix of all keys, where several systems share a server.
        count: Told of hits, missing and stale rows.
    """

    def __init__(
        self,
        feature_set: FeatureSet,
        store: Store,
        *,
        namespace: str = "",
        count: CountRows = count_nothing,
    ) -> None:
        self.feature_set = feature_set
        self.store = store
        self._prefix = f"{namespace}fs:{feature_set.label}:"
        self._identity_key = f"{self._prefix}sha256"
        self._count = count
        self._record = np.dtype(
            [("timestamp", "<i8"), ("values", "<f4", (len(feature_set.specs),))]
        )
        self._script: redis.commands.core.Script | None = None

    def write_many(
        self, entity_ids: npt.ArrayLike, timestamps: npt.ArrayLike, values: npt.ArrayLike
    ) -> int:
        """Writes rows; a row that the store holds with a later timestamp stays.

        Args:
            entity_ids: i64[N].
            timestamps: i64[N], or one for all rows.
            values: f32[N, F], finite.

        Returns:
            How many rows were written.

        Raises:
            StoreUnavailableError: the store is down; some batches may have been written.
            FeatureSetChangedError: the store holds this version with another content.
            ValueError: if shapes differ or a value is not finite.
        """
        ids, times, matrix = self.feature_set.checked_rows(entity_ids, timestamps, values)
        records = np.empty(len(ids), dtype=self._record)
        records["timestamp"], records["values"] = times, matrix
        rows = [record.tobytes() for record in records]
        keep_s = 0 if self.feature_set.ttl_s is None else KEEP_S

        def run(client: redis.Redis) -> int:
            client.set(self._identity_key, self.feature_set.sha256, nx=True)
            self._check_identity(cast(bytes, client.get(self._identity_key)))
            script = self._script = self._script or client.register_script(_WRITE)
            with client.pipeline(transaction=False) as pipeline:
                keys = self._row_keys(ids.tolist())
                for begin in range(0, len(ids), BATCH):
                    batch = slice(begin, begin + BATCH)
                    script(keys=keys[batch], args=[keep_s, *rows[batch]], client=pipeline)
                return sum(pipeline.execute())

        return self.store.call(run)

    def holds_rows(self) -> bool:
        """Whether anybody has written; False after a restart of a store that keeps nothing.

        Raises:
            StoreUnavailableError: the store is down.
            FeatureSetChangedError: the rows were written with another content of this version.
        """
        read: Callable[[redis.Redis], object] = lambda client: client.get(self._identity_key)  # noqa: E731
        found = cast(bytes | None, self.store.call(read))
        if found is not None:
            self._check_identity(found)
        return found is not None

    def read_many(self, entity_ids: Sequence[int] | np.ndarray, now: int) -> FeatureRows:
        """Rows of N entities by one MGET, as of ``now``.

        Raises:
            StoreUnavailableError: the store is down.
            FeatureSetChangedError: the rows were written with another content of this version.
        """
        return read_together([(self, entity_ids)], now)[0]

    def keys(self, entity_ids: Sequence[int] | np.ndarray) -> list[str]:
        """What a read fetches: the identity, then one row for each entity."""
        ids = entity_ids.tolist() if isinstance(entity_ids, np.ndarray) else entity_ids
        return [self._identity_key, *self._row_keys(ids)]

    def decode(self, replies: Sequence[bytes | None], now: int) -> FeatureRows:
        """What the store answered for ``keys``, with defaults filled in and outcomes counted."""
        identity, rows = replies[0], replies[1:]
        if identity is not None:  # None: nothing was ever written, so every row is missing
            self._check_identity(identity)
        present = np.array([row is not None for row in rows], dtype=bool)
        raw = b"".join(row for row in rows if row is not None)
        if len(raw) != present.sum() * self._record.itemsize:
            raise FeatureSetChangedError(
                f"rows of {self.feature_set.label} are not {self._record.itemsize} bytes long: "
                f"something else writes to {self._prefix}*"
            )
        records = np.frombuffer(raw, dtype=self._record)
        values = np.zeros((len(rows), len(self.feature_set.specs)), dtype=np.float32)
        timestamp = np.full(len(rows), NO_ROW, dtype=np.int64)
        values[present], timestamp[present] = records["values"], records["timestamp"]
        found = resolved(self.feature_set, values, timestamp, now)
        self._count_outcomes(found)
        return found

    def _row_keys(self, entity_ids: Sequence[int]) -> list[str]:
        prefix = self._prefix
        return [f"{prefix}{entity_id}" for entity_id in entity_ids]

    def _check_identity(self, found: bytes) -> None:
        self.feature_set.check_identity(found.decode(), "the online store")

    def _count_outcomes(self, rows: FeatureRows) -> None:
        missing, stale = int(rows.missing.sum()), int(rows.stale.sum())
        outcomes: dict[Outcome, int] = {
            "hit": len(rows) - missing - stale,
            "missing": missing,
            "stale": stale,
        }
        for outcome, n in outcomes.items():
            if n:
                self._count(self.feature_set.name, outcome, n)


def read_together(
    wanted: Sequence[tuple[OnlineStore, Sequence[int] | np.ndarray]], now: int
) -> list[FeatureRows]:
    """Rows of several sets of one store, in one round trip.

    Args:
        wanted: (set, entity ids) pairs; the first one's store is asked.
        now: Unix seconds.

    Raises:
        StoreUnavailableError: the store is down.
        FeatureSetChangedError: see ``OnlineStore.read_many``.
        ValueError: if nothing is wanted or the sets live in different stores.
    """
    if not wanted or any(home.store is not wanted[0][0].store for home, _ in wanted):
        raise ValueError("read_together needs sets of one store")
    keys = [home.keys(entity_ids) for home, entity_ids in wanted]
    every_key = [key for part in keys for key in part]
    read: Callable[[redis.Redis], object] = lambda client: client.mget(every_key)  # noqa: E731
    replies = cast(list[bytes | None], wanted[0][0].store.call(read))
    found, begin = [], 0
    for (home, _), part in zip(wanted, keys, strict=True):
        found.append(home.decode(replies[begin : begin + len(part)], now))
        begin += len(part)
    return found
