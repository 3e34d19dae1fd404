"""Where a run took place: the commit of the code and the machine under it.

Out: the `commit` and `hardware` fields of a results file (`results`). A number without them cannot
be reproduced, and a latency without a machine means nothing.
"""

import os
import platform
import resource
import subprocess
import sys
from pathlib import Path
from typing import Self

from pydantic import BaseModel, ConfigDict

UNKNOWN_COMMIT = "unknown"


class Hardware(BaseModel):
    """The machine of a run."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    cpu: str
    cores: int
    memory_gib: int

    @classmethod
    def detect(cls) -> Self:
        """This machine: CPU model, cores this process may use, memory in GiB (rounded)."""
        return cls(cpu=_cpu_model(), cores=_usable_cores(), memory_gib=_memory_gib())

    def __str__(self) -> str:
        cores = "1 core" if self.cores == 1 else f"{self.cores} cores"
        return f"{self.cpu}, {cores}, {self.memory_gib} GiB"


def git_commit(root: Path) -> str:
    """The short commit `root` stands at, with -dirty where the tree differs from it.

    Changes to committed results and plots do not count: a run writes them itself, and the next
    system's run is no less reproducible for that.

    Returns:
        For instance "3f2a91c04b7d" or "3f2a91c04b7d-dirty"; "unknown" outside a repository,
        before its first commit, or without git.
    """
    commit = _git(root, "rev-parse", "--short=12", "HEAD")
    if commit is None:
        return UNKNOWN_COMMIT
    changes = _git(root, "status", "--porcelain", "--", ":/", ":(exclude,top,glob)**/results/**")
    return commit if changes == "" else f"{commit}-dirty"


def _git(root: Path, *arguments: str) -> str | None:
    """The output of a git command in `root`; None where git is absent or refuses."""
    try:
        done = subprocess.run(
            ["git", "-C", str(root), *arguments], capture_output=True, text=True, timeout=30
        )
    except (FileNotFoundError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() if done.returncode == 0 else None


def _cpu_model() -> str:
    """The CPU's name as Linux or macOS gives it, else the architecture."""
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        for line in cpuinfo.read_text(encoding="utf-8", errors="replace").splitlines():
            name, _, value = line.partition(":")
            if name.strip() == "model name":
                return " ".join(value.split())
    if platform.system() == "Darwin":
        asked = subprocess.run(
            ["sysctl", "-n", "machdep.cpu.brand_string"], capture_output=True, text=True
        )
        if asked.returncode == 0 and asked.stdout.strip():
            return asked.stdout.strip()
    return platform.machine() or "unknown"


def _usable_cores() -> int:
    """Cores this process may run on; in a container that is fewer than the machine has."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _memory_gib() -> int:
    return round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30)


def peak_memory_bytes() -> float:
    """Largest resident size of this process since it started its program.

    Linux reports it as VmHWM; getrusage there also counts what the parent had when it forked, so it
    serves only where there is no /proc.
    """
    status = Path("/proc/self/status")
    if status.exists():
        line = next(text for text in status.read_text().splitlines() if text.startswith("VmHWM"))
        return float(line.split()[1]) * 1024
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return float(peak if sys.platform == "darwin" else peak * 1024)  # macOS counts bytes
