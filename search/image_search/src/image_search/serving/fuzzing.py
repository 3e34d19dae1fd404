"""``fuzz``: a real server process under thousands of hostile requests; its memory is watched.

In: a server's address and process, a seed. Out: ``Fuzzed``: answers by family and status, resident
memory before, at its most and after. What must hold: the process lives, no answer is a 5xx, and
memory grows by less than ``GROWTH_LIMIT_BYTES``. 503 is not such an answer: it is the refusal that
overload gets, counted apart.

``GROWTH_LIMIT_BYTES``: two decoders may each hold the largest picture allowed (16 million pixels of
four bytes) up to three times while it changes its form, 384 MB, and bodies 64 MiB.
"""

from __future__ import annotations

import asyncio
import collections
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from image_search.serving.hostile import hostile, valid_files
from image_search.serving.load_session import serving
from image_search.serving.process import rss_bytes
from image_search.serving.traffic import image_call

if TYPE_CHECKING:
    from image_search.commands import Run

GROWTH_LIMIT_BYTES = 512 << 20
AT_ONCE = 16
PATIENCE_S = 3.0
ANSWER_WITHIN_S = 20.0
LOOK_EVERY_S = 0.01
NO_ANSWER = "closed"


@dataclass
class Fuzzed:
    """What happened.

    Attributes:
        answers: (family, status) -> how many; "closed" where the server hung up without one.
        failures: Requests that got a 5xx other than 503: (family, status, first bytes).
        before_bytes: Resident memory after some ordinary requests.
        most_bytes: At its most.
        after_bytes: At the end.
    """

    answers: collections.Counter[tuple[str, str]] = field(default_factory=collections.Counter)
    failures: list[tuple[str, str, bytes]] = field(default_factory=list)
    before_bytes: int = 0
    most_bytes: int = 0
    after_bytes: int = 0

    @property
    def n(self) -> int:
        """Requests."""
        return sum(self.answers.values())

    @property
    def growth_bytes(self) -> int:
        """Of the memory, at its most."""
        return self.most_bytes - self.before_bytes

    def by_status(self) -> dict[str, int]:
        """Status -> how many."""
        counts: collections.Counter[str] = collections.Counter()
        for (_, status), n in self.answers.items():
            counts[status] += n
        return dict(sorted(counts.items()))


def attack(port: int, pid: int, n: int, *, seed: int, step: Callable[[int], object]) -> Fuzzed:
    """Sends ordinary requests, then ``n`` hostile ones, several at once.

    Raises:
        RuntimeError: If the server does not answer ordinary requests before or after.
    """
    found = Fuzzed()
    ordinary = image_call(valid_files()[0], 3).wire
    asyncio.run(_ordinary(port, ordinary, 30))
    found.before_bytes = rss_bytes(pid)
    with _watched(pid, found):
        asyncio.run(_send_all(port, n, seed, found, step))
    asyncio.run(_ordinary(port, ordinary, 3))
    found.after_bytes = rss_bytes(pid)
    return found


async def _send_all(
    port: int, n: int, seed: int, found: Fuzzed, step: Callable[[int], object]
) -> None:
    rng = np.random.default_rng(seed)
    gate = asyncio.Semaphore(AT_ONCE)

    async def one(family: str, wire: bytes) -> None:
        try:
            status = await send(port, wire)
        finally:
            gate.release()
        found.answers[family, status] += 1
        if status.startswith("5") and status != "503":
            found.failures.append((family, status, wire[:200]))
        step(1)

    async with asyncio.TaskGroup() as group:
        for _ in range(n):
            await gate.acquire()
            group.create_task(one(*hostile(rng)))


async def send(port: int, wire: bytes) -> str:
    """The status of the answer, as text; "closed" where the server hung up without one."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        writer.write(wire)
        line = await _line(reader, PATIENCE_S)
        if line is None:  # the request announced more than it holds: no more comes
            writer.write_eof()
            line = await _line(reader, ANSWER_WITHIN_S)
    except OSError:  # reset while we were still sending: the server had heard enough
        line = b""
    finally:
        writer.close()
    if line is None:
        return "timeout"
    return line[9:12].decode("ascii", "replace") if line.startswith(b"HTTP/1.") else NO_ANSWER


async def _line(reader: asyncio.StreamReader, within_s: float) -> bytes | None:
    """The first line of the answer; None if none came in time."""
    try:
        return await asyncio.wait_for(reader.readline(), within_s)
    except TimeoutError:
        return None


async def _ordinary(port: int, wire: bytes, n: int) -> None:
    for _ in range(n):
        if (status := await send(port, wire)) != "200":
            raise RuntimeError(f"an ordinary picture is answered with {status}, not 200")


@contextmanager
def _watched(pid: int, found: Fuzzed) -> Iterator[None]:
    stop = threading.Event()

    def look() -> None:
        while not stop.wait(LOOK_EVERY_S):
            found.most_bytes = max(found.most_bytes, rss_bytes(pid))

    watcher = threading.Thread(target=look, daemon=True)
    watcher.start()
    try:
        yield
    finally:
        stop.set()
        watcher.join()
        found.most_bytes = max(found.most_bytes, rss_bytes(pid))


def fuzz(run: Run) -> None:
    """The command: attacks the last bundle, writes ``fuzz.json``, prints what was answered.

    Raises:
        RuntimeError: If a request got a 5xx, or memory grew beyond the limit.
    """
    results = run.start_results(run.load())
    n = run.config.serving.fuzz_requests
    begin = time.perf_counter()
    with (
        serving(run.latest_bundle.resolve(), run.config.serving) as server,
        run.progress.stage("hostile requests", n) as step,
    ):
        port = int(server.url.rpartition(":")[2])
        found = attack(port, server.pid, n, seed=run.config.seed, step=step)
    words = (
        f"{n:,} hostile requests from a seeded generator, {AT_ONCE} at once, against a real server "
        f"process in {time.perf_counter() - begin:.0f} s; memory read every "
        f"{LOOK_EVERY_S * 1e3:g} ms"
    )
    for status, count in found.by_status().items():
        results.add(f"fuzz/answers/{status}", count, n=n, protocol=words)
    families: collections.Counter[str] = collections.Counter()
    for (family, _), count in found.answers.items():
        families[family] += count
    for family, count in sorted(families.items()):
        results.add(f"fuzz/family/{family}", count, n=n, protocol=words)
    results.add("fuzz/failures/5xx", len(found.failures), n=n, protocol=words)
    for name in ("before", "most", "after", "growth"):
        mib = getattr(found, f"{name}_bytes") / 2**20
        results.add(f"fuzz/memory/{name}_mib", mib, n=n, protocol=words)
    results.add("fuzz/memory/limit_mib", GROWTH_LIMIT_BYTES / 2**20, protocol="of the growth")
    results.write(run.results_folder() / "fuzz.json")
    run.console.print(f"answers: {found.by_status()}", highlight=False)
    run.console.print(
        f"memory: {found.before_bytes / 2**20:.0f} MiB before, {found.most_bytes / 2**20:.0f} at "
        f"its most, {found.after_bytes / 2**20:.0f} after",
        highlight=False,
    )
    if found.failures or found.growth_bytes > GROWTH_LIMIT_BYTES:
        raise RuntimeError(f"the service failed: {found.failures[:3]}, grew {found.growth_bytes:,}")
