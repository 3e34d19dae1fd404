"""Start the API under uvicorn: one process, one bundle, one thread that computes.

In: a loaded recommender and settings. Out: a server that runs until SIGTERM or Ctrl-C and then
finishes the requests in flight.
"""

from __future__ import annotations

import logging
import sys

import uvicorn

from shorts_recommendation.serving.app import create_app
from shorts_recommendation.serving.protocol import Recommender
from shorts_recommendation.serving.settings import ServingSettings

# Python's default lets the computing thread keep the interpreter for 5 ms while the event loop has
# requests to answer that need a tenth of that.
SWITCH_INTERVAL_S = 0.0005


def serve(
    recommender: Recommender,
    settings: ServingSettings,
    *,
    host: str = "127.0.0.1",
    port: int = 8000,
) -> None:
    """Serve until told to stop.

    Args:
        recommender: The loaded bundle, warmed up.
        settings: Folder, store, knobs.
        host: Interface; loopback unless told otherwise, for the API has no authentication.
        port: TCP port; 0 for any free one, which uvicorn prints.
    """
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s %(message)s")
    sys.setswitchinterval(SWITCH_INTERVAL_S)
    uvicorn.run(
        create_app(recommender, settings),
        host=host,
        port=port,
        loop="auto",  # uvloop and httptools where they are installed
        http="auto",
        access_log=False,  # /metrics counts; a line for each request costs more than parsing it
        log_level="info",
        timeout_graceful_shutdown=10,
    )
