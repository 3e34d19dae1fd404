"""A proxy in front of a store that lets answers wait: a network or a neighbour that is slow.

In: the socket of a store. Out: another socket that speaks to it; every piece of an answer is passed
on `delay_s` after it came. The delay may be changed while clients are connected.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
from pathlib import Path
from types import TracebackType

CHUNK_BYTES = 65_536


class SlowProxy:
    """Listens from `__enter__` on, on a thread of its own.

    Args:
        socket: Where it listens; must not exist.
        store: The socket it passes everything on to.
    """

    def __init__(self, socket: Path, store: Path) -> None:
        self.delay_s = 0.0
        self.socket = socket
        self._store = store
        self._loop = asyncio.new_event_loop()
        self._tasks: set[asyncio.Task[None]] = set()
        self._thread = threading.Thread(target=self._loop.run_forever, name="slow-proxy")

    def __enter__(self) -> SlowProxy:
        self._thread.start()
        asyncio.run_coroutine_threadsafe(self._listen(), self._loop).result()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        asyncio.run_coroutine_threadsafe(self._close(), self._loop).result()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    async def _listen(self) -> None:
        self._server = await asyncio.start_unix_server(self._serve, str(self.socket))

    async def _close(self) -> None:
        self._server.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        if task is not None:
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)
        try:
            store_reader, store_writer = await asyncio.open_unix_connection(str(self._store))
        except OSError:  # the store is gone: so is this connection
            writer.close()
            return
        asking = asyncio.ensure_future(_pass_on(reader, store_writer))
        try:
            await self._pass_on_late(store_reader, writer)
        finally:
            asking.cancel()
            await asyncio.gather(asking, return_exceptions=True)
            for side in (writer, store_writer):
                side.close()

    async def _pass_on_late(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        with contextlib.suppress(ConnectionError):
            while piece := await reader.read(CHUNK_BYTES):
                if self.delay_s:
                    await asyncio.sleep(self.delay_s)
                writer.write(piece)
                await writer.drain()


async def _pass_on(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with contextlib.suppress(ConnectionError):
        while piece := await reader.read(CHUNK_BYTES):
            writer.write(piece)
            await writer.drain()
    writer.close()  # the client has gone: the store's side ends, and with it the other direction
