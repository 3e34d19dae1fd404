"""Start the API under uvicorn: one process, one bundle.

In: a loaded recommender and settings. Out: a server that runs until SIGTERM or Ctrl-C and then
finishes the requests in flight.
"""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Sequence
from pathlib import Path

import uvicorn

from video_recommendation.serving.app import create_app
from video_recommendation.serving.attachments import Attach
from video_recommendation.serving.engine import ServingSettings
from video_recommendation.serving.protocol import Recommender

# Python's default lets a computing thread keep the interpreter for 5 ms while the event loop and
# the other worker wait. With two workers that compute for 5 ms each, 0.5 ms halved the p99.
SWITCH_INTERVAL_S = 0.0005


def settings_from_environment(data_dir: Path) -> ServingSettings:
    """Settings with ``REDIS_URL`` taken from the environment; unset or empty means embedded."""
    return ServingSettings(data_dir, redis_url=os.environ.get("REDIS_URL") or None)


def serve(
    recommender: Recommender,
    settings: ServingSettings,
    *,
    host: str = "127.0.0.1",
    port: int = 8000,
    attach: Sequence[Attach] = (),
) -> None:
    """Serve until told to stop.

    Args:
        recommender: The loaded bundle, warmed up.
        settings: Folder, store, budgets, threads.
        host: Interface; loopback unless told otherwise, for the API has no authentication.
        port: TCP port; 0 for any free one, which uvicorn prints.
        attach: What hangs onto the engine.
    """
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s %(message)s")
    sys.setswitchinterval(SWITCH_INTERVAL_S)
    uvicorn.run(
        create_app(recommender, settings, attach),
        host=host,
        port=port,
        access_log=False,  # /metrics counts; a line for each request costs more than parsing it
        log_level="info",
        timeout_graceful_shutdown=10,
    )
