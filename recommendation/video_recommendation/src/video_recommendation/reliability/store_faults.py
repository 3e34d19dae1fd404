"""What can happen to a store, done on purpose.

Two homes of the store. *Embedded*: the server's own child, which the server restarts when it does
not answer. *Outside*: a store of its own behind a proxy, as a Redis on another machine; nobody but
its operator restarts it, and the way to it can be slow.

A fault takes its time, calls ``midway`` once while it lasts, and returns the moment at which it
ended (`time.monotonic`); one that the server has to end itself returns the moment it was done.
"""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import redis

from ml_platform.serving.store import EmbeddedServer
from video_recommendation.reliability.server_process import store_pid
from video_recommendation.reliability.slow_proxy import SlowProxy

Midway = Callable[[], None]
DELAYS_MS = (5, 50, 500)
FLAP_EVERY_S = 1.0


@dataclass(frozen=True)
class StoreFault:
    """One fault.

    Attributes:
        name: In keys of the results.
        label: In tables.
        words: Beside numbers and in plots.
        inflict: Does it; see the module.
    """

    name: str
    label: str
    words: str
    inflict: Callable[[Midway], float]


def embedded_faults(socket: Path, *, flapping_s: float) -> list[StoreFault]:
    """Faults of a server's own store.

    Args:
        socket: Where the store listens, also after a restart.
        flapping_s: How long it is killed every second.
    """

    def once(signal_number: int) -> Callable[[Midway], float]:
        def inflict(midway: Midway) -> float:
            os.kill(store_pid(socket), signal_number)
            at = time.monotonic()
            midway()
            return at

        return inflict

    def flap(midway: Midway) -> float:
        kills = max(2, round(flapping_s / FLAP_EVERY_S))
        for number in range(kills - 1):
            kill_if_there(socket)
            if number == (kills - 1) // 2:
                midway()
            time.sleep(FLAP_EVERY_S)
        kill_if_there(socket)
        return time.monotonic()

    return [
        StoreFault("stopped", "store killed", "embedded store killed", once(signal.SIGKILL)),
        # Never continued: the server has to notice and to replace it.
        StoreFault("hanging", "store frozen", "embedded store frozen", once(signal.SIGSTOP)),
        StoreFault(
            "flapping",
            "store flapping",
            f"embedded store killed every second for {flapping_s:g} s",
            flap,
        ),
    ]


def outside_faults(store: EmbeddedServer, proxy: SlowProxy, *, fault_s: float) -> list[StoreFault]:
    """Faults of a store that the server cannot restart.

    Args:
        store: The store's process.
        proxy: What the server is connected to.
        fault_s: How long each lasts.
    """

    def stop(midway: Midway) -> float:
        store.stop()
        _last(fault_s, midway)
        store.start()  # comes back empty
        return time.monotonic()

    def hang(midway: Midway) -> float:
        process = store_pid(store.socket_path)
        os.kill(process, signal.SIGSTOP)
        try:
            _last(fault_s, midway)
        finally:
            os.kill(process, signal.SIGCONT)
        return time.monotonic()

    def slow(delay_ms: int) -> Callable[[Midway], float]:
        def inflict(midway: Midway) -> float:
            proxy.delay_s = delay_ms / 1e3
            try:
                _last(fault_s, midway)
            finally:
                proxy.delay_s = 0.0
            return time.monotonic()

        return inflict

    return [
        StoreFault(
            "outside_stopped",
            "outside store gone",
            f"outside store gone for {fault_s:g} s, back empty",
            stop,
        ),
        StoreFault(
            "outside_hanging",
            "outside store frozen",
            f"outside store frozen for {fault_s:g} s",
            hang,
        ),
        *(
            StoreFault(
                f"outside_slow_{ms}ms",
                f"outside, {ms} ms late",
                f"answers of the outside store {ms} ms late for {fault_s:g} s",
                slow(ms),
            )
            for ms in DELAYS_MS
        ),
    ]


def kill_if_there(socket: Path) -> bool:
    """Kills the store behind a socket; False when none answers (it is just being restarted)."""
    try:
        os.kill(store_pid(socket), signal.SIGKILL)
    except (redis.RedisError, ProcessLookupError):
        return False
    return True


def _last(seconds: float, midway: Midway) -> None:
    time.sleep(seconds / 2)
    midway()
    time.sleep(seconds / 2)
