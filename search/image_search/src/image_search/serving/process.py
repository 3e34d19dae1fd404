"""What this process has taken of the machine."""

from __future__ import annotations

import os
import resource
import time
from pathlib import Path


def rss_bytes(pid: int | None = None) -> int:
    """Resident memory now; 0 where the system does not say (``/proc``)."""
    return _status("VmRSS", pid)


def peak_rss_bytes(pid: int | None = None) -> int:
    """The most resident memory so far; 0 where the system does not say."""
    return _status("VmHWM", pid)


def cpu_s() -> float:
    """Processor seconds of all threads."""
    return time.process_time()


def _status(name: str, pid: int | None) -> int:
    try:
        lines = Path(f"/proc/{pid or os.getpid()}/status").read_text().splitlines()
    except OSError:
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 if pid is None else 0
    found = [line.split()[1] for line in lines if line.startswith(f"{name}:")]
    return int(found[0]) * 1024 if found else 0
