"""A server whose shadowing and request logging can be switched off and on while it runs.

    python -m video_recommendation.rollout.overhead_server BUNDLE --shadow BUNDLE --share 0.1 ...

In: bundles, and a file in the data folder: shadowing and logging are on while it exists. Out: the
service of ``serving.run``. For ``overhead`` alone, which compares both states of one process: a
second process would have other memory, another port, another neighbour on the core.
"""

from __future__ import annotations

import argparse
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, cast

from ml_platform.serving.request_log import RequestLog
from video_recommendation.rollout.shadow import ShadowTraffic, worker_settings
from video_recommendation.serving.engine import ServingEngine
from video_recommendation.serving.run import serve_bundle

SWITCH_FILE = "watching"
POLL_S = 0.05


class _NoLog:
    """Takes the request log's place while logging is off."""

    def append(self, record: Mapping[str, Any]) -> None:
        """Nothing."""

    def close(self) -> None:
        """Nothing."""


class SwitchedShadow:
    """Shadow traffic and request log behind a switch. An ``Attachment``."""

    name = "switched"

    def __init__(self, engine: ServingEngine, bundle: Path, share: float) -> None:
        self._engine = engine
        self._file = engine.settings.data_dir / SWITCH_FILE
        self._traffic = ShadowTraffic(
            engine, worker_settings(bundle, engine.log.path, share=share, timeout_s=10.0)
        )
        self._log = engine.requests
        self._on = True
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._follow, name="switch", daemon=True)
        self._thread.start()

    def describe(self) -> dict[str, Any]:
        """Whether it is on, whether the shadow has worked off what it took, and its counts."""
        lane = self._traffic.lane
        return {
            "on": self._on,
            "drained": lane.drained(),
            "counts": lane.counts,
            "closed_because": lane.closed_because,
        }

    def close(self) -> None:
        """See ``Attachment``."""
        self._stop.set()
        self._thread.join()
        self._turn(True)  # the engine closes its own log
        self._traffic.close()

    def _follow(self) -> None:
        while not self._stop.wait(POLL_S):
            self._turn(self._file.exists())

    def _turn(self, on: bool) -> None:
        if on == self._on:
            return
        self._on = on
        self._engine.requests = self._log if on else cast(RequestLog, _NoLog())
        if on:
            self._engine.observers.append(self._traffic)
        else:
            self._engine.observers.remove(self._traffic)


def main(arguments: Sequence[str] | None = None) -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description="Serve with a switch for shadowing and logging.")
    parser.add_argument("folder", type=Path)
    parser.add_argument("--shadow", type=Path, required=True)
    parser.add_argument("--share", type=float, required=True)
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--data-dir", type=Path, required=True)
    options = parser.parse_args(arguments)
    serve_bundle(
        options.folder,
        port=options.port,
        data_dir=options.data_dir,
        attach=[lambda engine: SwitchedShadow(engine, options.shadow, options.share)],
    )


if __name__ == "__main__":
    main()
