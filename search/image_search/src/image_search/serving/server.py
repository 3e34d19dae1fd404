"""Start the API under uvicorn: one process, the bundle's searcher, threads for models and decoding.

In: a bundle's folder. Out: a server that runs until SIGTERM or Ctrl-C and then finishes what is in
flight. ``python -m image_search.serving.server FOLDER --state-dir DIR``.

One thread a library: throughput comes from queries that share a batch, and from decoders that work
beside the models. The admin token comes by the environment, where process lists do not show it.
"""

from __future__ import annotations

import argparse
import logging
import os
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import uvicorn

from image_search.config import Config, ServingConfig
from image_search.personalisation.blending import Personaliser
from image_search.searcher import Ask, Searcher
from image_search.serving.app import create_app
from image_search.serving.settings import TOKEN_VARIABLE, OnClick, ServingSettings

logger = logging.getLogger(__name__)

# Python's default lets a computing thread keep the interpreter for 5 ms while the event loop has
# requests to answer that need a tenth of that.
SWITCH_INTERVAL_S = 0.0005
STATE = "state"
"""Folder of the journal, in the run's folder beside its bundle."""


def serve_searcher(
    searcher: Searcher, settings: ServingSettings, *, host: str = "127.0.0.1", port: int = 8000
) -> None:
    """Serve until told to stop.

    Args:
        searcher: Of a bundle.
        settings: Limits, folder, token.
        host: Interface; loopback unless told otherwise, for searching needs no token.
        port: TCP port.

    Raises:
        OSError: The port is taken.
    """
    warm_up(searcher)
    sys.setswitchinterval(SWITCH_INTERVAL_S)
    logging.getLogger("python_multipart").setLevel(logging.ERROR)
    config = uvicorn.Config(
        create_app(searcher, settings),
        host=host,
        port=port,
        loop="auto",  # uvloop and httptools where they are installed
        http="auto",
        access_log=False,  # /metrics counts; a line for each request costs more than parsing it
        log_level="error",  # a warning for every malformed request would fill the disk
        timeout_graceful_shutdown=10,
        limit_concurrency=2048,
        h11_max_incomplete_event_size=64 * 1024,
    )
    uvicorn.Server(config).run()


def warm_up(searcher: Searcher, batches: Sequence[int] = (1, 2, 4, 8, 16)) -> None:
    """Runs every model at the sizes it will see: the first call of each is slow."""
    picture = np.full((28, 28, 3), 200, np.uint8)
    for size in batches:
        vectors = searcher.embed_images([picture] * size)
        searcher.search([Ask(vector=vector) for vector in vectors])
        if searcher.text is not None:
            # A category's name is a text that every tower can read.
            texts = searcher.embed_texts([searcher.catalogue.label_names[0]] * size)
            searcher.search([Ask(vector=vector, space="text") for vector in texts])


def one_thread() -> None:
    """Limits torch, faiss and the linear algebra to one thread each."""
    import faiss
    import torch
    from threadpoolctl import threadpool_limits

    threadpool_limits(1)
    torch.set_num_threads(1)
    faiss.omp_set_num_threads(1)


def clicks_of(searcher: Searcher) -> OnClick | None:
    """What personalisation makes of a click; None where the bundle knows no users."""
    personalise = searcher.personalise
    if not isinstance(personalise, Personaliser):
        return None

    def clicked(user_id: int, row: int, now_s: float) -> None:
        personalise.apply_clicks(user_id, np.array([row]), now_s)

    return clicked


def admin_token() -> str | None:
    """The token of the environment; None where it is not set."""
    return os.environ.get(TOKEN_VARIABLE) or None


def serve_bundle(
    folder: Path,
    *,
    state_dir: Path,
    config: Config | None = None,
    serving: ServingConfig | None = None,
    host: str = "127.0.0.1",
    port: int = 8000,
) -> None:
    """Loads a bundle and serves it until told to stop; see ``serve_searcher``.

    Raises:
        BundleError: If the bundle is missing or damaged.
    """
    from image_search.bundle import load_searcher

    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s %(message)s")
    config = config or Config()
    begin = time.perf_counter()
    one_thread()
    searcher = load_searcher(folder)
    logger.info("bundle %s loaded in %.1f s", searcher.version, time.perf_counter() - begin)
    settings = ServingSettings(
        serving or config.serving,
        state_dir,
        side=config.images.side,
        admin_token=admin_token(),
        on_click=clicks_of(searcher),
    )
    serve_searcher(searcher, settings, host=host, port=port)


def main(arguments: Sequence[str] | None = None) -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description="Serve a bundle.")
    parser.add_argument("folder", type=Path)
    parser.add_argument("--state-dir", type=Path, required=True)
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=8000)
    parser.add_argument("--serving", default="", help="a ServingConfig as JSON")
    options = parser.parse_args(arguments)
    serving = ServingConfig.model_validate_json(options.serving) if options.serving else None
    serve_bundle(
        options.folder,
        state_dir=options.state_dir,
        serving=serving,
        host=options.host,
        port=options.port,
    )


if __name__ == "__main__":
    main()
