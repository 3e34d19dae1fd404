"""Getting one file over HTTP so that it is complete and the right one, or saying why not.

In: URLs and the checksums that the file must have. Out: a verified file at its final path. A
download goes to a ``.part`` file beside it, which a later call resumes (HTTP Range), and gets its
name with ``os.replace`` only after its checksums agreed: no reader ever sees half a file.
"""

from __future__ import annotations

import hashlib
import http.client
import logging
import os
import re
import ssl
import urllib.error
import urllib.request
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn

logger = logging.getLogger(__name__)

TIMEOUT_S = 10.0  # to connect, and between two reads
CHUNK_BYTES = 1 << 18
RESUMES = 3  # how often one call goes on after a connection that broke off


class CorruptFileError(RuntimeError):
    """A file is not what it should be: wrong checksum, cut short, or a row that cannot be read."""


class DatasetUnavailableError(RuntimeError):
    """No source could give the data set. The message lists every source and what it answered."""


@dataclass(frozen=True)
class Attempt:
    """One source that was asked, and what came of it; ``served`` if it gave the files."""

    source: str
    outcome: str
    served: bool = False

    def __str__(self) -> str:
        return f"{self.source}: {self.outcome}"


def file_digest(path: Path, algorithm: str = "sha256") -> str:
    """The hexadecimal digest of a file, read in pieces."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, algorithm).hexdigest()


def verify_file(path: Path, checksums: Sequence[str], *, match_all: bool = False) -> None:
    """Checks a file against checksums of the form ``"sha256:<hex>"`` or ``"md5:<hex>"``.

    Args:
        path: the file.
        checksums: one of them must agree.
        match_all: each must agree.

    Raises:
        CorruptFileError: names the file, its size, and the digests that differ.
    """
    wrong = []
    for checksum in checksums:
        algorithm, _, expected = checksum.partition(":")
        actual = file_digest(path, algorithm)
        if actual == expected:
            if not match_all:
                return
        else:
            wrong.append(f"{algorithm} is {actual}, expected {expected}")
    if wrong:
        size = path.stat().st_size
        raise CorruptFileError(f"{path} ({size:,} bytes) is damaged: {'; '.join(wrong)}")


def download(url: str, target: Path, checksums: Sequence[str]) -> Path:
    """Downloads ``url`` to ``target``, going on where an earlier download broke off.

    Args:
        url: http or https. Where the server's certificate is not accepted, the same address is
            tried over plain http: the checksums, which come with this code, prove the content.
        target: where the file goes; ``target.part`` beside it holds what has come so far.
        checksums: all must agree. Without any, plain http is not tried.

    Raises:
        OSError: the connection failed (``urllib.error.URLError`` is one); the part is kept.
        CorruptFileError: a download from the first byte on does not have the checksums.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    if target.exists() and checksums:  # an earlier run ended between download and use
        try:
            verify_file(target, checksums, match_all=True)
        except CorruptFileError as error:
            logger.warning("%s; removed", error)
            target.unlink()
        else:
            return target
    part = target.with_name(target.name + ".part")
    resumed = part.exists()
    try:
        _fetch(url, part)
    except urllib.error.URLError as error:
        plain = url.replace("https://", "http://", 1)
        if not (isinstance(error.reason, ssl.SSLError) and checksums and plain != url):
            raise
        logger.warning("%s: %s; trying %s, which the checksum proves", url, error.reason, plain)
        _fetch(plain, part)
    try:
        verify_file(part, checksums, match_all=True)
    except CorruptFileError as error:
        part.unlink()
        if not resumed:
            raise
        # The part may come from another version of the file: start over once.
        logger.warning("%s; it was resumed, so it is fetched again from the start", error)
        return download(url, target, checksums)
    os.replace(part, target)
    return target


def _fetch(url: str, part: Path) -> None:
    """Brings ``part`` to its full length, resuming up to RESUMES times."""
    for attempt in range(RESUMES + 1):
        try:
            if _fetch_once(url, part):
                return
            reason = "the connection closed early"
        except urllib.error.HTTPError:
            raise  # an answer, not an accident: asking again changes nothing
        except (http.client.HTTPException, ConnectionError, TimeoutError) as error:
            reason = f"{type(error).__name__}: {error}"
        have = part.stat().st_size if part.exists() else 0
        logger.warning("%s: %s after %s bytes (attempt %d)", url, reason, f"{have:,}", attempt + 1)
    raise ConnectionError(f"{url} broke off {RESUMES + 1} times; {have:,} bytes kept in {part}")


def _fetch_once(url: str, part: Path) -> bool:
    """One request for what is missing; true if ``part`` is complete now."""
    have = part.stat().st_size if part.exists() else 0
    request = urllib.request.Request(url, headers={"Range": f"bytes={have}-"} if have else {})
    try:
        response = urllib.request.urlopen(request, timeout=TIMEOUT_S)
    except urllib.error.HTTPError as error:
        if error.code == 416 and have:  # nothing after byte `have`: complete, or not ours
            if _total_bytes(error.headers.get("Content-Range")) == have:
                return True
            part.unlink()
            return False
        raise
    with response:
        if response.status != 206:
            have = 0  # the server sends the whole file, Range or not
        length = response.headers.get("Content-Length")
        total = have + int(length) if length is not None else None
        _copy(response, part, have, total)
    return total is None or part.stat().st_size == total


def _total_bytes(content_range: str | None) -> int | None:
    match = re.search(r"/(\d+)$", content_range or "")
    return int(match.group(1)) if match else None


def _copy(response: Any, part: Path, have: int, total: int | None) -> None:
    """Appends the response to the first ``have`` bytes of ``part``, with a progress bar."""
    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn())
    console = Console(stderr=True)
    with (
        Progress(*columns, TimeRemainingColumn(), console=console, transient=True) as progress,
        part.open("r+b" if have else "wb") as stream,
    ):
        stream.seek(have)
        stream.truncate()
        task = progress.add_task(part.name.removesuffix(".part"), total=total, completed=have)
        while chunk := response.read(CHUNK_BYTES):
            stream.write(chunk)
            progress.advance(task, len(chunk))
