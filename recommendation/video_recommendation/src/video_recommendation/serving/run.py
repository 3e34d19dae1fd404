"""Serve a bundle: load, warm up, listen. ``python -m video_recommendation.serving.run FOLDER``.

In: a bundle's folder, or a registry whose production version is served and followed, and a folder
for the event log, the embedded store and the request log. Out: a server that runs until SIGTERM or
Ctrl-C.

One thread a request. Throughput comes from requests side by side, and a library that starts a
thread for every core within each of them makes all of them wait. faiss and OpenBLAS count their
threads for the calling thread or the process, so the limit is set for every thread that computes.
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

from ml_platform.operations.registry import ModelRegistry
from video_recommendation.bundle import check_bundle, load_bundle
from video_recommendation.config import ServingConfig
from video_recommendation.recommender import Recommender
from video_recommendation.serving.attachments import Attach
from video_recommendation.serving.deployment import follow_registry
from video_recommendation.serving.engine import ServingSettings
from video_recommendation.serving.server import serve

logger = logging.getLogger(__name__)


def serve_bundle(
    folder: Path | None = None,
    *,
    registry_root: Path | None = None,
    host: str = "127.0.0.1",
    port: int = 8000,
    data_dir: Path,
    config_serving: ServingConfig | None = None,
    attach: Sequence[Attach] = (),
) -> None:
    """Serve until told to stop.

    Args:
        folder: A bundle to serve; without it the registry's production version.
        registry_root: The registry whose production alias the server follows: a promotion or a
            rollback is served seconds later, without a restart.
        host: Interface; loopback unless told otherwise, for the API has no authentication.
        port: TCP port.
        data_dir: Where events and requests are logged; created when absent. ``REDIS_URL`` in the
            environment replaces the embedded store.
        config_serving: Deadline and budgets; the first bundle's own by default.
        attach: What else hangs onto the engine.

    Raises:
        BundleError: if the bundle is missing or damaged.
        RegistryError: if the registry has no production version.
        ValueError: with neither a folder nor a registry.
    """
    if folder is None and registry_root is None:
        raise ValueError("name the folder of a bundle, or a registry")
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s %(message)s")
    begin = time.perf_counter()
    threadpool_limits(1)
    one_thread()
    registry = ModelRegistry(registry_root, check_bundle) if registry_root else None
    recommender = load_warm(folder or registry.path("production"))  # type: ignore[union-attr]
    if registry is not None:
        attach = [follow_registry(registry, load_warm), *attach]
    logger.info("bundle %s ready in %.1f s", recommender.version, time.perf_counter() - begin)
    settings = ServingSettings.of(
        config_serving or recommender.config.serving,
        data_dir,
        redis_url=os.environ.get("REDIS_URL") or None,
        thread_start=one_thread,
    )
    serve(recommender, settings, host=host, port=port, attach=attach)


def load_warm(folder: Path) -> Recommender:
    """A bundle that has answered a few requests, so that the first real one is not its slowest."""
    recommender = load_bundle(folder)
    recommender.warm_up()
    return recommender


def one_thread() -> None:
    """Limits torch and faiss to the calling thread."""
    torch.set_num_threads(1)
    faiss.omp_set_num_threads(1)


def main(arguments: Sequence[str] | None = None) -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description="Serve a bundle.")
    parser.add_argument("folder", type=Path, nargs="?", help="a bundle; or give --registry")
    parser.add_argument("--registry", type=Path, help="serve and follow its production version")
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=8000)
    parser.add_argument("--data-dir", type=Path, required=True)
    options = parser.parse_args(arguments)
    if options.folder is None and options.registry is None:
        parser.error("name the folder of a bundle, or --registry")
    serve_bundle(
        options.folder,
        registry_root=options.registry,
        host=options.host,
        port=options.port,
        data_dir=options.data_dir,
    )


if __name__ == "__main__":
    main()
