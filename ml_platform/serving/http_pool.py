"""Keep-alive HTTP/1.1 connections for the load test: as little client as possible.

In: encoded requests and the samples to fill. Out: samples with sent and finished times and an
outcome, the status as text or "connection".

Each connection carries one request at a time. A request takes an idle connection, or a new one
while fewer than `max_connections` are open, or waits in line, which its latency includes. Only
what our servers send is understood: status line, Content-Length body, keep-alive.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from dataclasses import dataclass
from typing import cast


@dataclass(slots=True, eq=False)
class Sample:
    """One request: when it was due, sent and finished (loop seconds), and how it ended."""

    due: float
    sent: float = 0.0
    finished: float = 0.0
    outcome: str = ""
    body: bytes = b""

    @property
    def done(self) -> bool:
        """Whether it ended, well or not."""
        return self.outcome != ""

    @property
    def ok(self) -> bool:
        """Whether it was answered with a 2xx or 3xx status."""
        return self.outcome[:1] in ("2", "3")

    def finish(self, outcome: str, at: float) -> None:
        """Close the sample; a late answer to an abandoned request changes nothing."""
        if not self.done:
            self.outcome, self.finished = outcome, at


def encode_request(line: str, address: tuple[str, int]) -> bytes:
    """``GET /path`` or ``POST /path {json}`` as bytes on the wire.

    Raises:
        ValueError: The line has another form.
    """
    method, _, rest = line.strip().partition(" ")
    path, _, body = rest.partition(" ")
    if not method.isupper() or not method.isalpha() or not path.startswith("/"):
        raise ValueError(f"a request line is 'GET /path' or 'POST /path {{json}}', got {line!r}")
    payload = body.strip().encode()
    head = f"{method} {path} HTTP/1.1\r\nHost: {address[0]}:{address[1]}\r\n"
    if payload:
        head += f"Content-Type: application/json\r\nContent-Length: {len(payload)}\r\n"
    return head.encode("ascii") + b"\r\n" + payload


def client_loop() -> asyncio.AbstractEventLoop:
    """Uvloop's where it is installed: the client then takes less of the server's processor."""
    try:
        import uvloop
    except ImportError:
        return asyncio.new_event_loop()
    return uvloop.new_event_loop()


class HttpPool:
    """Connections to one address.

    Args:
        address: Host and port.
        max_connections: Most that are open at once.
        keep_bodies: Fill `Sample.body`.
    """

    def __init__(
        self, address: tuple[str, int], max_connections: int, *, keep_bodies: bool = False
    ) -> None:
        self.address = address
        self.keep_bodies = keep_bodies
        self.max_connections = max_connections
        self.opened = 0
        self._live: set[_Connection] = set()
        self._idle: list[_Connection] = []
        self._waiting: deque[tuple[bytes, Sample]] = deque()
        self._opening: set[asyncio.Task[None]] = set()
        self._loop = asyncio.get_running_loop()

    async def probe(self) -> None:
        """Open the first connection.

        Raises:
            ConnectionError: Nothing listens there.
        """
        try:
            await self._open()
        except OSError as error:
            raise ConnectionError(f"nothing answers at {self.address}: {error}") from error

    def send(self, payload: bytes, sample: Sample) -> None:
        """Send now if a connection is free, else as soon as one is."""
        if self._idle:
            self._idle.pop().send(payload, sample)
            return
        self._waiting.append((payload, sample))
        if len(self._live) + len(self._opening) < self.max_connections:
            task = self._loop.create_task(self._open_for_waiting())
            self._opening.add(task)
            task.add_done_callback(self._opening.discard)

    def abandon(self) -> None:
        """Forget requests that wait, drop connections that still expect an answer."""
        self._waiting.clear()
        for connection in [c for c in self._live if c.sample is not None]:
            connection.sample = None
            connection.close()

    def close(self) -> None:
        """Close everything."""
        for task in self._opening:
            task.cancel()
        for connection in list(self._live):
            connection.close()

    async def _open(self) -> None:
        _, connection = await self._loop.create_connection(lambda: _Connection(self), *self.address)
        self.opened += 1
        self._live.add(connection)
        self.released(connection)

    async def _open_for_waiting(self) -> None:
        try:
            await self._open()
        except OSError:
            if self._waiting:  # this connection was wanted for the oldest one that waits
                self._waiting.popleft()[1].finish("connection", time.monotonic())

    def released(self, connection: _Connection) -> None:
        """A connection is free: serve who waits, else keep it."""
        if self._waiting:
            connection.send(*self._waiting.popleft())
        else:
            self._idle.append(connection)

    def lost(self, connection: _Connection) -> None:
        """A connection ended."""
        self._live.discard(connection)
        if connection in self._idle:
            self._idle.remove(connection)


class _Connection(asyncio.Protocol):
    """One keep-alive connection with at most one request in flight."""

    def __init__(self, pool: HttpPool) -> None:
        self._pool = pool
        self._transport: asyncio.Transport | None = None
        self._buffer = b""
        self.sample: Sample | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # uvloop's transports are streams without being subclasses of asyncio's.
        self._transport = cast(asyncio.Transport, transport)

    def send(self, payload: bytes, sample: Sample) -> None:
        """Write one request."""
        if self._transport is None:
            raise RuntimeError("the connection was not made yet")
        self.sample = sample
        sample.sent = time.monotonic()
        self._transport.write(payload)

    def close(self) -> None:
        """Close the socket."""
        if self._transport is not None:
            self._transport.close()

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        head_end = self._buffer.find(b"\r\n\r\n")
        if head_end < 0:
            return
        head = self._buffer[:head_end].lower()
        body_bytes = _content_length(head)
        if body_bytes is None:  # chunked or odd: cannot be followed
            self._finish("unreadable")
            self.close()
        elif len(self._buffer) >= head_end + 4 + body_bytes:
            if self._pool.keep_bodies and self.sample is not None:
                self.sample.body = self._buffer[head_end + 4 : head_end + 4 + body_bytes]
            self._buffer = self._buffer[head_end + 4 + body_bytes :]
            self._finish(head[9:12].decode("ascii", "replace"))
            if b"\r\nconnection: close" in head:
                self.close()
            else:
                self._pool.released(self)

    def connection_lost(self, exc: Exception | None) -> None:
        self._pool.lost(self)
        self._finish("connection")

    def _finish(self, outcome: str) -> None:
        if self.sample is not None:
            self.sample.finish(outcome, time.monotonic())
            self.sample = None


def _content_length(head: bytes) -> int | None:
    """Length of the body by the lower-case head; 0 for 204 and 304, None when not stated."""
    if head[9:12] in (b"204", b"304"):
        return 0
    _, found, rest = head.partition(b"\r\ncontent-length:")
    value = rest.partition(b"\r\n")[0].strip()
    return int(value) if found and value.isdigit() else None
