"""The event log's SQLite file: schema, durability settings, integrity check.

A torn tail of the write-ahead log (a crash in the middle of a commit) is SQLite's to heal: frames
carry checksums, and a commit that was never acknowledged disappears. Damage to the file proper is
not healed and never overwritten; it is named, and the service does not start on it.
"""

from __future__ import annotations

import fcntl
import os
import sqlite3
import uuid
from pathlib import Path

SCHEMA_VERSION = 1

_SCHEMA = f"""
CREATE TABLE IF NOT EXISTS events (
    seq INTEGER PRIMARY KEY AUTOINCREMENT,  -- AUTOINCREMENT: a number is never handed out twice
    event_id TEXT NOT NULL UNIQUE,
    received_at INTEGER NOT NULL,
    body BLOB NOT NULL
);
CREATE TABLE IF NOT EXISTS meta (key TEXT PRIMARY KEY, value TEXT NOT NULL);
PRAGMA user_version = {SCHEMA_VERSION};
"""


class EventLogError(RuntimeError):
    """The log could not do what was asked; nothing of the submission was stored."""


class EventLogCorruptError(EventLogError):
    """The file is damaged or is not an event log."""


def connect(path: Path) -> sqlite3.Connection:
    """A connection whose commits are synced and whose transactions are explicit."""
    connection = sqlite3.connect(path, isolation_level=None, check_same_thread=False, timeout=5.0)
    connection.execute("PRAGMA synchronous = FULL")
    connection.execute("PRAGMA fullfsync = ON")  # macOS: fsync alone stops at the drive's cache
    return connection


def open_file(path: Path) -> sqlite3.Connection:
    """Open or create the file, check all its pages, and make its directory entry durable.

    Raises:
        EventLogCorruptError: It is damaged, something else, or of another schema version.
        EventLogError: It cannot be opened (no such folder, no permission, disk full).
    """
    try:
        folder = os.open(path.parent, os.O_RDONLY)
    except OSError as error:
        raise EventLogError(f"cannot open event log {path}: {error}") from error
    try:
        # One process at a time: SQLite turns a new file to write-ahead logging without waiting for
        # its lock, so that of two workers that start on an empty folder one would fail.
        fcntl.flock(folder, fcntl.LOCK_EX)
        connection = _open_alone(path)
        os.fsync(folder)
    finally:
        os.close(folder)  # unlocks it
    return connection


def _open_alone(path: Path) -> sqlite3.Connection:
    try:
        connection = connect(path)
        verdict = connection.execute("PRAGMA quick_check(1)").fetchone()[0]
        if verdict != "ok":
            raise sqlite3.DatabaseError(verdict)
        version = connection.execute("PRAGMA user_version").fetchone()[0]
        if version not in (0, SCHEMA_VERSION):
            raise sqlite3.DatabaseError(f"schema version {version}, expected {SCHEMA_VERSION}")
        connection.execute("PRAGMA journal_mode = WAL")
        connection.executescript(_SCHEMA)
    except sqlite3.OperationalError as error:
        raise EventLogError(f"cannot open event log {path}: {error}") from error
    except sqlite3.DatabaseError as error:
        raise EventLogCorruptError(
            f"event log {path} is damaged or not an event log ({error}); move it aside to start "
            "an empty log, or restore a copy: it is never overwritten"
        ) from error
    return connection


def log_id(connection: sqlite3.Connection) -> str:
    """A random name given to the log when it was created; derived state is keyed by it."""
    connection.execute(
        "INSERT OR IGNORE INTO meta (key, value) VALUES ('log_id', ?)", (uuid.uuid4().hex,)
    )
    return str(connection.execute("SELECT value FROM meta WHERE key = 'log_id'").fetchone()[0])
