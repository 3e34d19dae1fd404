"""Serve a bundle: load, warm up, listen. ``python -m shorts_recommendation.serving.run FOLDER``.

In: a bundle's folder, and a folder for the event log, the embedded store and the request log.
Out: a server that runs until SIGTERM or Ctrl-C.

One thread a library. Throughput comes from requests that share a batch, and from the event loop
working beside the models; a library that starts a thread for every core makes both wait.
"""

from __future__ import annotations

import argparse
import logging
import os
import time
from collections.abc import Sequence
from pathlib import Path

import faiss
import torch
from threadpoolctl import threadpool_limits

from shorts_recommendation.bundle import load_bundle
from shorts_recommendation.config import ServingConfig
from shorts_recommendation.serving.server import serve
from shorts_recommendation.serving.settings import ServingSettings

logger = logging.getLogger(__name__)


def serve_bundle(
    folder: Path,
    *,
    host: str = "127.0.0.1",
    port: int = 8000,
    data_dir: Path,
    config_serving: ServingConfig | None = None,
    workers: int = 1,
) -> None:
    """Serve until told to stop.

    Args:
        folder: A bundle.
        host: Interface; loopback unless told otherwise, for the API has no authentication.
        port: TCP port.
        data_dir: Where events and requests are logged; created when absent. ``REDIS_URL`` in the
            environment replaces the embedded store.
        config_serving: Deadline and batches; the bundle's own by default.
        workers: Processes; they share the bundle's memory.

    Raises:
        BundleError: if the bundle is missing or damaged.
    """
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s %(message)s")
    begin = time.perf_counter()
    threadpool_limits(1)
    one_thread()
    recommender = load_bundle(folder)
    recommender.warm_up()
    logger.info("bundle %s ready in %.1f s", recommender.version, time.perf_counter() - begin)
    settings = ServingSettings(
        data_dir,
        config_serving or recommender.config.serving,
        redis_url=os.environ.get("REDIS_URL") or None,
        thread_start=one_thread,
        workers=workers,
    )
    serve(recommender, settings, host=host, port=port, bundle=folder)


def one_thread() -> None:
    """Limits torch and faiss to the calling thread."""
    torch.set_num_threads(1)
    faiss.omp_set_num_threads(1)


def main(arguments: Sequence[str] | None = None) -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description="Serve a bundle.")
    parser.add_argument("folder", type=Path)
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=8000)
    parser.add_argument("--data-dir", type=Path, required=True)
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--serving", default="", help="a ServingConfig as JSON; the bundle's own")
    options = parser.parse_args(arguments)
    serving = ServingConfig.model_validate_json(options.serving) if options.serving else None
    serve_bundle(
        options.folder,
        host=options.host,
        port=options.port,
        data_dir=options.data_dir,
        config_serving=serving,
        workers=options.workers,
    )


if __name__ == "__main__":
    main()
