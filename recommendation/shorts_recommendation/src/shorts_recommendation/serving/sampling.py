"""Where a running process spends its time: a table of samples, and processor seconds by thread.

In: seconds to look. Out: how often each function of our packages was the innermost one of ours on a
thread's stack, by thread. A sampler needs the interpreter to look at stacks, so it sees a thread
when that thread lets go of it: pure Python is seen late, waiting and native code are seen well. The
processor seconds by thread come from the kernel and have no such bias; read both.
"""

from __future__ import annotations

import collections
import sys
import threading
import time
from collections.abc import Mapping
from types import FrameType

OURS = ("shorts_recommendation", "ml_platform", "ml_algorithms")
EVERY_S = 0.002
_IDLE = ("wait", "select", "_run", "_next", "_write", "_keep", "sleep", "get", "step")


def sample(seconds: float, *, every_s: float = EVERY_S) -> dict[str, int]:
    """Samples of all threads but this one: counts by "thread: module.function"."""
    own = threading.get_ident()
    counts: collections.Counter[str] = collections.Counter()
    end = time.perf_counter() + seconds
    while time.perf_counter() < end:
        names = {t.ident: t.name for t in threading.enumerate()}
        for ident, frame in sys._current_frames().items():
            if ident != own and (place := _place(frame)) is not None:
                counts[f"{names.get(ident, 'native')}: {place}"] += 1
        time.sleep(every_s)
    return dict(counts.most_common())


def threads_cpu_s() -> dict[str, float]:
    """Processor seconds by thread of this process; empty where the system does not tell."""
    if not hasattr(time, "pthread_getcpuclockid"):
        return {}
    return {
        thread.name: time.clock_gettime(time.pthread_getcpuclockid(thread.ident))
        for thread in threading.enumerate()
        if thread.ident is not None
    }


def shares(counts: Mapping[str, float]) -> dict[str, float]:
    """Counts as shares of their sum."""
    total = sum(counts.values()) or 1.0
    return {name: count / total for name, count in counts.items()}


def _place(frame: FrameType | None) -> str | None:
    """The innermost function of ours; None for a thread that waits for work."""
    if frame is not None and frame.f_code.co_name in _IDLE:
        return None
    while frame is not None:
        module = frame.f_globals.get("__name__", "")
        if module.startswith(OURS):
            return f"{module.rpartition('.')[2]}.{frame.f_code.co_name}"
        frame = frame.f_back
    return None
