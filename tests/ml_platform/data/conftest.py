"""Fixtures of the data tests: tiny files in the owner's formats, and a real HTTP server."""

from __future__ import annotations

import re
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import settings

from ml_platform.data.datasets import Dataset, DatasetUnavailableError, load_dataset
from ml_platform.data.schema import content_sha256, ordered_tables, unknown_users

# A busy machine is not a bug, and examples are not kept between runs.
settings.register_profile("data", deadline=None, database=None)
settings.load_profile("data")


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line(
        "markers", "real_data: needs a real data set; skipped, with the reason, if no source has it"
    )


@pytest.fixture(autouse=True)
def _no_ambient_mirror(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Tests choose their own sources, except those on real data, which take what there is."""
    if "real_data" not in request.keywords:
        monkeypatch.delenv("MLSD_DATA_MIRROR", raising=False)


@pytest.fixture(scope="session")
def real_dataset() -> Callable[..., Dataset]:
    """``load_dataset`` that skips, with the list of attempts, if no source has the data set."""

    def load(name: str, **options: Any) -> Dataset:
        try:
            return load_dataset(name, **options)
        except DatasetUnavailableError as error:
            pytest.skip(str(error))

    return load


@pytest.fixture(scope="session")
def make_dataset() -> Callable[..., Dataset]:
    """Makes a data set of (user_id, item_id, rating, timestamp) rows."""

    def make(
        rows: list[tuple[int, int, float, int]], *, item_ids: list[int] | None = None
    ) -> Dataset:
        columns = ["user_id", "item_id", "rating", "timestamp"]
        interactions = pd.DataFrame(rows, columns=columns)
        ids = sorted(item_ids or set(interactions["item_id"]))
        items = pd.DataFrame({"item_id": ids, "title": "t", "year": 2000, "genres": ""})
        users = unknown_users(interactions["user_id"].to_numpy(np.int64))
        tables = ordered_tables(interactions, items, users)
        return Dataset("toy", *tables, content_sha256(*tables), "generator", "none", True)

    return make


U_DATA = "196\t242\t3\t881250949\n186\t302\t3\t891717742\n196\t302\t4\t881250949\n"
_FLAGS = "0|0|0|1|1|1|0|0|0|0|0|0|0|0|0|0|0|0|0"
U_ITEM = (
    f"242|Misérables, Les (1995)|01-Jan-1995||http://us.imdb.com/M/title-exact?x|{_FLAGS}\n"
    "267|unknown||||1|0|0|0|0|0|0|0|0|0|0|0|0|0|0|0|0|0|0\n"
    "302|Two Friends (1986) |26-Apr-1996|||0|0|0|0|0|0|0|0|1|0|0|0|0|0|0|0|0|0|0\n"
)
U_USER = "186|39|F|executive|00000\n196|49|M|writer|55105\n"


@pytest.fixture
def ml_100k_files(tmp_path: Path) -> dict[str, Path]:
    """u.data, u.item and u.user with three rows, in the format of ml-100k."""
    folder = tmp_path / "ml-100k"
    folder.mkdir()
    for name, text in (("u.data", U_DATA), ("u.item", U_ITEM), ("u.user", U_USER)):
        (folder / name).write_text(text, encoding="latin-1", newline="")
    return {name: folder / name for name in ("u.data", "u.item", "u.user")}


@dataclass
class FileServer:
    """A running HTTP server: its files, its faults, and the Range header of every request."""

    port: int = 0
    files: dict[str, bytes] = field(default_factory=dict)
    ranges: list[str | None] = field(default_factory=list)
    cut_after: list[int] = field(default_factory=list)  # one a request: bytes, then hang up
    ignore_range: bool = False

    def url(self, name: str, scheme: str = "http") -> str:
        return f"{scheme}://127.0.0.1:{self.port}/{name}"


@pytest.fixture
def file_server(monkeypatch: pytest.MonkeyPatch) -> Iterator[FileServer]:
    """A real server on the loopback interface, with ranges, that can break connections off."""
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    state = FileServer()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            wanted = self.headers.get("Range")
            state.ranges.append(wanted)
            body = state.files.get(self.path.lstrip("/"))
            if body is None:
                self.send_error(404)
                return
            begin = 0
            match = re.fullmatch(r"bytes=(\d+)-", wanted or "")
            if match and not state.ignore_range:
                begin = int(match.group(1))
                if begin >= len(body):
                    self.send_response(416)
                    self.send_header("Content-Range", f"bytes */{len(body)}")
                    self.end_headers()
                    return
                self.send_response(206)
                self.send_header("Content-Range", f"bytes {begin}-{len(body) - 1}/{len(body)}")
            else:
                self.send_response(200)
            self.send_header("Content-Length", str(len(body) - begin))
            self.end_headers()
            limit = state.cut_after.pop(0) if state.cut_after else len(body)
            self.wfile.write(body[begin : begin + limit])

        def log_message(self, format: str, *args: Any) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        state.port = server.server_address[1]
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        yield state
        server.shutdown()
        thread.join()
