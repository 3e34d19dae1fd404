"""The service under load: one process serves, another one asks, on the same machine.

In: a bundle's folder, calls, a rate. Out: latency as clients see it (open loop, Poisson arrivals,
from the scheduled moment), stages, batches, processor time and memory.
"""

from __future__ import annotations

import base64
import json
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from image_search.config import ServingConfig
from image_search.serving.process import peak_rss_bytes
from image_search.serving.traffic import Call
from ml_platform.serving.load_test import LoadReport
from ml_platform.serving.server_process import (
    ServerProcess,
    free_port,
    running_server,
    server_environment,
)

WARMUP_S = 3.0
STARTED_WITHIN_S = 120.0


@dataclass(frozen=True)
class Quantiles:
    """Milliseconds over n answers."""

    p50: float
    p95: float
    p99: float
    n: int


@dataclass(frozen=True)
class LoadSession:
    """One rate.

    Attributes:
        load: What clients saw.
        latency: Over all good answers; None where there were none.
        by_kind: The same by kind of query.
        stages: By kind and stage, ``image_decode``. Stages of the models are of a whole batch.
        batch_mean: Queries that shared a call of the models.
        cpu: Processor seconds for each second: server, client.
        peak_rss_bytes: Of the server since its start; 0 where the system does not say.
    """

    load: LoadReport
    latency: Quantiles | None
    by_kind: dict[str, Quantiles]
    stages: dict[str, Quantiles]
    batch_mean: float
    cpu: dict[str, float]
    peak_rss_bytes: int


@contextmanager
def serving(
    bundle: Path,
    config: ServingConfig,
    *,
    command: Sequence[str] | None = None,
    environment: Mapping[str, str] | None = None,
) -> Iterator[ServerProcess]:
    """Serves a bundle on a free loopback port, in a process of its own; stops it afterwards.

    Args:
        bundle: Its folder.
        config: Limits and lanes.
        command: Another program; ``{port}`` and ``{folder}`` stand for port and scratch folder.
        environment: More variables.

    Raises:
        RuntimeError: If it ends or is not ready in time; with the end of its output.
    """
    with tempfile.TemporaryDirectory() as scratch:
        folder, port = Path(scratch), free_port()
        mine = (
            *(sys.executable, "-m", "image_search.serving.server", str(bundle)),
            *("--state-dir", "{folder}", "--port", "{port}", "--serving"),
        )
        line = [part.format(port=port, folder=folder) for part in command or mine]
        if command is None:
            line.append(config.model_dump_json())
        with running_server(
            line,
            port,
            output=folder / "server.log",
            environment=environment,
            timeout_s=STARTED_WITHIN_S,
        ) as process:
            yield process


def measure(
    server: ServerProcess,
    calls: Sequence[Call],
    rate_qps: float,
    seconds: float,
    *,
    seed: int = 0,
    warmup_s: float = WARMUP_S,
) -> LoadSession:
    """Offers one rate to a running service, from a process of its own; calls are used in turn."""
    order = {
        "url": server.url,
        "kinds": [call.kind for call in calls],
        "wires": [base64.b64encode(call.wire).decode() for call in calls],
        "rate_qps": rate_qps,
        "seconds": seconds,
        "warmup_s": warmup_s,
        "seed": seed,
    }
    done = subprocess.run(
        [sys.executable, "-m", "image_search.serving.load_client"],
        input=json.dumps(order).encode(),
        stdout=subprocess.PIPE,
        env=server_environment(),
        check=True,
    )
    found = json.loads(done.stdout)
    return LoadSession(
        load=LoadReport(**found["report"]),
        latency=Quantiles(**found["all"]) if found["all"] else None,
        by_kind={kind: Quantiles(**values) for kind, values in found["latency"].items()},
        stages={name: Quantiles(**values) for name, values in found["stages"].items()},
        batch_mean=found["batch_mean"],
        cpu=found["cpu"],
        peak_rss_bytes=peak_rss_bytes(server.pid),
    )


def holds(session: LoadSession, p99_ms: float) -> bool:
    """Whether all were answered, and 99 in a hundred within the limit."""
    return (
        session.load.error_rate == 0
        and session.latency is not None
        and session.latency.p99 < p99_ms
    )
