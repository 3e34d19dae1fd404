"""What all tests share; the small trained system is built once."""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path

import pytest

# Idle OpenMP threads sleep instead of spinning. Read when the library is loaded, hence up here.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

sys.path.insert(0, str(Path(__file__).parent))  # importlib mode leaves test folders off the path

from tiny_system import TinySystem, build_tiny_system

# Started in the background, a shell has Ctrl-C ignored, and so would every process of the tests.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="session")
def tiny_system(tmp_path_factory: pytest.TempPathFactory) -> TinySystem:
    return build_tiny_system(tmp_path_factory.mktemp("tiny_system"))
