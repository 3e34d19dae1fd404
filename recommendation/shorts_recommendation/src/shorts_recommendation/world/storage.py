"""A world and its log on disk: parquet tables for offline readers, npy and npz for the rest.

In: a world and a folder. Out, in the folder:
    catalogue.parquet   every column of ``Catalogue`` but ``content``; tags as tag_0, tag_1, tag_2
    content.npy         f16[V, 768]
    users.parquet       every column of ``Users``
    log-00000.parquet   and so on: every column of ``ImpressionLog``, in time order
    truth.npz           what no model may read
    world.json          the configuration, and the SHA-256 of every other file
``read_world`` checks each file against ``world.json`` first, so that half a file or a changed bit
is an error that names the file, not a strange result.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from ml_platform.data.download import file_digest
from shorts_recommendation.config import WorldConfig
from shorts_recommendation.log import N_TAGS_PER_VIDEO, Catalogue, ImpressionLog, Users
from shorts_recommendation.world.drawing import Shocks, UserTruth, VideoTruth
from shorts_recommendation.world.response import Behaviour
from shorts_recommendation.world.world import World

RECORD = "world.json"
ROW_GROUP = 262_144

T = TypeVar("T")


class DamagedWorldError(ValueError):
    """A stored world is incomplete or changed; the message names the file."""


def write_world(world: World, folder: Path, parts: list[Path]) -> None:
    """Writes everything but the log, then the record of all files.

    Args:
        world: What to write.
        folder: Exists already, with the log's parts in it.
        parts: The log's files, in time order.
    """
    catalogue = {
        f.name: getattr(world.catalogue, f.name)
        for f in fields(Catalogue)
        if f.name not in ("tags", "content")
    }
    for place in range(N_TAGS_PER_VIDEO):
        catalogue[f"tag_{place}"] = world.catalogue.tags[:, place]
    _write_table(catalogue, folder / "catalogue.parquet")
    _write_table(_columns(world.users), folder / "users.parquet")
    np.save(folder / "content.npy", world.catalogue.content)
    truth = {
        f"{name}.{key}": value
        for name in ("video_truth", "user_truth", "shocks")
        for key, value in _columns(getattr(world, name)).items()
    }
    np.savez(folder / "truth.npz", allow_pickle=False, **truth)
    names = ["catalogue.parquet", "users.parquet", "content.npy", "truth.npz"]
    record = {
        "config": world.config.model_dump(mode="json"),
        "behaviour": asdict(world.behaviour),
        "seed": world.seed,
        "start_s": world.start_s,
        "end_s": world.end_s,
        "parts": [part.name for part in parts],
        "sha256": {
            name: file_digest(folder / name) for name in names + [part.name for part in parts]
        },
    }
    (folder / RECORD).write_text(json.dumps(record, indent=1))


def read_world(folder: Path) -> tuple[World, ImpressionLog]:
    """The world and its log, checked.

    Raises:
        DamagedWorldError: names the file that is missing or differs from the record.
    """
    record = _checked_record(folder)
    table = _read_table(folder / "catalogue.parquet")
    tags = np.stack([table.pop(f"tag_{place}") for place in range(N_TAGS_PER_VIDEO)], axis=1)
    catalogue = Catalogue(**table, tags=tags, content=np.load(folder / "content.npy"))
    users = Users(**_read_table(folder / "users.parquet"))
    world = World(
        config=WorldConfig(**record["config"]),
        seed=record["seed"],
        catalogue=catalogue,
        users=users,
        start_s=record["start_s"],
        end_s=record["end_s"],
        video_truth=_read_truth(folder, "video_truth", VideoTruth),
        user_truth=_read_truth(folder, "user_truth", UserTruth),
        shocks=_read_truth(folder, "shocks", Shocks),
        behaviour=Behaviour(**record["behaviour"]),
    )
    return world, read_log([folder / name for name in record["parts"]])


def _read_truth(folder: Path, name: str, kind: type[T]) -> T:
    with np.load(folder / "truth.npz") as truth:
        prefix = f"{name}."
        return kind(
            **{key.removeprefix(prefix): truth[key] for key in truth if key.startswith(prefix)}
        )


def _checked_record(folder: Path) -> dict[str, Any]:
    """The record, after every file that it names was compared with it."""
    try:
        record: dict[str, Any] = json.loads((folder / RECORD).read_text())
        digests = record["sha256"]
    except (OSError, json.JSONDecodeError, KeyError) as error:
        raise DamagedWorldError(f"{folder / RECORD} cannot be read: {error!r}") from error
    for name, digest in digests.items():
        if not (folder / name).is_file():
            raise DamagedWorldError(f"{folder / name} is missing")
        if file_digest(folder / name) != digest:
            raise DamagedWorldError(f"{folder / name} differs from what was written")
    return record


def write_part(part: ImpressionLog, path: Path) -> Path:
    """Writes a part of the log as one parquet file; returns its path."""
    _write_table(_columns(part), path)
    return path


def read_log(parts: list[Path]) -> ImpressionLog:
    """The log of parts that follow each other in time."""
    tables = [_read_table(path) for path in parts]
    names = [f.name for f in fields(ImpressionLog)]
    return ImpressionLog(**{name: np.concatenate([t[name] for t in tables]) for name in names})


def content_sha256(catalogue: Catalogue, log: ImpressionLog) -> str:
    """One hash of the catalogue and the log, whatever files they are kept in."""
    digest = hashlib.sha256()
    for table in (catalogue, log):
        for name, column in _columns(table).items():
            digest.update(f"{name}:{column.dtype.str}:{column.shape}".encode())
            digest.update(np.ascontiguousarray(column).view(np.uint8).data)
    return digest.hexdigest()


def _columns(table: Any) -> dict[str, np.ndarray]:
    return {f.name: getattr(table, f.name) for f in fields(table)}


def _write_table(columns: dict[str, np.ndarray], path: Path) -> None:
    table = pa.table({name: pa.array(column) for name, column in columns.items()})
    pq.write_table(table, path, compression="zstd", row_group_size=ROW_GROUP)


def _read_table(path: Path) -> dict[str, np.ndarray]:
    table = pq.read_table(path)
    return {name: table[name].to_numpy() for name in table.column_names}
