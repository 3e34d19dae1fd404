"""A feature set: columns of one entity, computed together, versioned together, with one owner.

In: a declaration (name, version, entity, columns, tick, time to live). Out: an identity that both
homes of the values remember, and the one rule that turns a stored row into what a model is given:

    no row                         -> the defaults, counted as missing
    a row older than ``ttl_s``     -> the defaults, counted as stale
    otherwise                      -> the row

The offline home (``offline_store``) and the online home (``online_store``) differ in where rows
come from; both end in ``resolved``, so they cannot differ in what a missing or a stale row means.

Identity. A set is known by (name, version), and each home keeps the hash of the content that it was
first written with. Whoever comes with another content under the same version is refused: otherwise
a default of 0 that became -1 would reach half of the readers and none of the training rows. The
hash covers what changes a value or its meaning (entity, tick, time to live; name, default and
description of every column) and leaves out the owner: a team that moves does not change a value.

What is borrowed: the grouping with a time to live from Feast's feature views, the version in the
name from schema evolution. What is not: there is no registry server; the homes are the registry.
"""

from __future__ import annotations

import hashlib
import json
import re
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

import numpy as np
import numpy.typing as npt

from feature_engineering.schema import FeatureSchema, FeatureSpec, Float32Array

Int64Array = npt.NDArray[np.int64]
BoolArray = npt.NDArray[np.bool_]
Entity = Literal["item", "user"]

NO_ROW = int(np.iinfo(np.int64).min)
"""Timestamp that stands for "there is no row"."""
_NAME = re.compile(r"[a-z][a-z0-9_]*")


class FeatureSetChangedError(RuntimeError):
    """A home holds this (name, version) with another content."""


@dataclass(frozen=True)
class FeatureSet:
    """Columns that share an entity, a refresh and an owner.

    Attributes:
        name: Lower case, for example ``item_activity``.
        version: From 1; raised whenever the content changes.
        entity: Whose rows these are; every column's group must be the same.
        specs: The columns, in their stored order.
        owner: The module that computes them.
        tick_s: Seconds between two materialisations; a row's timestamp is a multiple of it.
        ttl_s: Age in seconds above which a row is stale; None for rows that do not age.
        description: One line, what a row says.
    """

    name: str
    version: int
    entity: Entity
    specs: tuple[FeatureSpec, ...]
    owner: str
    tick_s: int
    ttl_s: int | None
    description: str

    def __post_init__(self) -> None:
        if not _NAME.fullmatch(self.name):
            raise ValueError(f"feature set name {self.name!r}: use lower case, digits, underscores")
        if self.version < 1 or self.tick_s < 1:
            raise ValueError(f"{self.name}: version {self.version} and tick {self.tick_s} are >= 1")
        if self.ttl_s is not None and self.ttl_s < self.tick_s:
            raise ValueError(
                f"{self.name}: with a time to live of {self.ttl_s} s every row is stale before the "
                f"next tick of {self.tick_s} s writes it again"
            )
        foreign = [spec.name for spec in self.specs if spec.group != self.entity]
        if foreign:
            raise ValueError(f"{self.name} holds rows of a {self.entity}; not of one: {foreign}")

    @cached_property
    def schema(self) -> FeatureSchema:
        """The columns as a schema: order, names, defaults."""
        return FeatureSchema(self.specs)

    @property
    def label(self) -> str:
        """Name and version, as keys, folders and messages show them."""
        return f"{self.name}:v{self.version}"

    @cached_property
    def sha256(self) -> str:
        """Hash of what changes a value or its meaning."""
        columns = [(spec.name, spec.default, spec.description) for spec in self.specs]
        content = [self.entity, self.tick_s, self.ttl_s, columns]
        return hashlib.sha256(json.dumps(content).encode()).hexdigest()

    def tick(self, now: int) -> int:
        """The last full tick at or before ``now``, Unix seconds."""
        return now // self.tick_s * self.tick_s

    def check_identity(self, found_sha256: str, home: str) -> None:
        """Compares with the hash that a home remembers.

        Raises:
            FeatureSetChangedError: if they differ.
        """
        if found_sha256 != self.sha256:
            raise FeatureSetChangedError(
                f"{home} holds {self.label} with content {found_sha256[:12]}, this code has "
                f"{self.sha256[:12]}: a changed set needs version {self.version + 1}"
            )

    def checked_rows(
        self, entity_ids: npt.ArrayLike, timestamps: npt.ArrayLike, values: npt.ArrayLike
    ) -> tuple[Int64Array, Int64Array, Float32Array]:
        """Rows to be stored, as i64[N], i64[N] (a single timestamp is repeated) and f32[N, F].

        Raises:
            ValueError: if lengths differ or a value is not finite: what is unknown is not stored,
                its absence is what says so.
        """
        ids = np.asarray(entity_ids, dtype=np.int64)
        times = np.broadcast_to(np.asarray(timestamps, dtype=np.int64), ids.shape)
        matrix = np.asarray(values, dtype=np.float32)
        if ids.ndim != 1 or matrix.shape != (len(ids), len(self.specs)):
            raise ValueError(
                f"{self.label}: {ids.shape} entities and values {matrix.shape}; expected (N,) and "
                f"(N, {len(self.specs)})"
            )
        bad = ~np.isfinite(matrix)
        if bad.any():
            names = [self.schema.names[column] for column in np.flatnonzero(bad.any(axis=0))]
            raise ValueError(f"{self.label}: values that are not finite in {names}; leave rows out")
        return ids, times, matrix


@dataclass(frozen=True)
class FeatureRows:
    """What a home gave for N (entity, moment) pairs, ready for a model.

    Attributes:
        values: f32[N, F], defaults filled in.
        timestamp: i64[N] of the row found, also when it is stale; ``NO_ROW`` where there is none.
        age_s: i64[N], moment - timestamp; -1 where there is no row.
        missing: bool[N].
        stale: bool[N].
    """

    values: Float32Array
    timestamp: Int64Array
    age_s: Int64Array
    missing: BoolArray
    stale: BoolArray

    def __len__(self) -> int:
        return len(self.values)

    @property
    def filled(self) -> BoolArray:
        """bool[N]: defaults stand where a row should."""
        return self.missing | self.stale


def resolved(
    feature_set: FeatureSet,
    values: Float32Array,
    timestamp: Int64Array,
    moment: Int64Array | int,
    *,
    apply_ttl: bool = True,
) -> FeatureRows:
    """Applies the time to live and fills in the defaults: the rule that both homes share.

    Args:
        feature_set: Gives defaults and time to live.
        values: f32[N, F] as stored; rows without a timestamp may hold anything. Changed in place.
        timestamp: i64[N], ``NO_ROW`` where there is no row.
        moment: When the values are asked for, Unix seconds; one, or i64[N].
        apply_ttl: False where rows were written on change only, so that an old row still holds.
    """
    missing = timestamp == NO_ROW
    age_s = np.where(missing, -1, moment - np.where(missing, 0, timestamp))
    if apply_ttl and feature_set.ttl_s is not None:
        stale = age_s > feature_set.ttl_s
    else:
        stale = np.zeros(len(values), dtype=bool)
    filled = missing | stale
    if filled.any():
        values[filled] = feature_set.schema.defaults
    return FeatureRows(values, timestamp, age_s, missing, stale)
