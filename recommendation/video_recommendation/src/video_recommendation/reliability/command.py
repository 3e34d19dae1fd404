"""``video-recommendation reliability``: break the running service on purpose and count.

In: the last bundle. Out: a table, ``reliability.json`` and a picture. Each experiment runs against
a server process of its own, under load from this process.

The 100 swaps, the store faults and some of the kills hit a server with the trained bundle. Most
kills hit the light server: starting the full one takes seconds, and what a kill can hurt (the event
log, the store, the request log, the restart) is the same in both. A quick run uses the light server
throughout, with few repetitions: it shows that the experiments work and measures nothing.

The last part needs no fault: what shadowing and logging cost, as a ratio (``rollout.overhead``).
"""

from __future__ import annotations

import signal
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ml_platform.evaluation.plot_style import png
from ml_platform.evaluation.results import Results, write_atomic
from ml_platform.operations.registry import ModelRegistry
from ml_platform.serving.store import EmbeddedServer
from video_recommendation.reliability.kill import KillReport, kill_repeatedly
from video_recommendation.reliability.light_server import LIGHT_USERS
from video_recommendation.reliability.plots import PLOT, store_timelines
from video_recommendation.reliability.report import (
    Reliability,
    print_reliability,
    record_reliability,
)
from video_recommendation.reliability.server_process import (
    FULL_MODULE,
    LIGHT_MODULE,
    ServerProcess,
    store_client,
)
from video_recommendation.reliability.slow_proxy import SlowProxy
from video_recommendation.reliability.store import StoreReport, StoreTraffic, survive
from video_recommendation.reliability.store_faults import (
    DELAYS_MS,
    StoreFault,
    embedded_faults,
    outside_faults,
)
from video_recommendation.reliability.swaps import SwapReport, register_all, swap_repeatedly
from video_recommendation.reliability.versions import (
    VersionMark,
    check_light,
    derive_bundles,
    light_bundles,
)
from video_recommendation.serving.load_session import request_lines

if TYPE_CHECKING:
    from video_recommendation.commands import Run

N_VERSIONS = 3
SCRATCH = "mlsd-reliability-"
QUICK_NOTE = "QUICK: the light server, few repetitions; these numbers are no results."
FULL_NOTE = "Load from a second process on the same machine; one worker."


@dataclass(frozen=True)
class Sizes:
    """Repetitions, seconds and rates; ``faults`` of the store by name.

    ``overhead_pairs`` of phases compare latency with and without shadowing (not in a quick run).
    """

    swaps: int
    calm_s: float
    light_kills: int
    full_kills: int
    kill_rate_qps: float
    before_s: float
    fault_s: float
    flapping_s: float
    after_s: float
    rate_qps: float
    faults: tuple[str, ...]
    overhead_pairs: int


EMBEDDED = ("stopped", "hanging", "flapping")
OUTSIDE = ("outside_stopped", "outside_hanging", *(f"outside_slow_{ms}ms" for ms in DELAYS_MS))
FULL = Sizes(
    swaps=100,
    calm_s=10.0,
    light_kills=45,
    full_kills=5,
    kill_rate_qps=100.0,
    before_s=3.0,
    fault_s=5.0,
    flapping_s=20.0,
    after_s=1.5,
    rate_qps=50.0,
    faults=(*EMBEDDED, *OUTSIDE),
    overhead_pairs=20,
)
QUICK = Sizes(
    swaps=2,
    calm_s=0.3,
    light_kills=1,
    full_kills=0,
    kill_rate_qps=100.0,
    before_s=0.3,
    fault_s=0.5,
    flapping_s=2.0,
    after_s=0.2,
    rate_qps=50.0,
    faults=("stopped", "flapping", "outside_hanging"),
    overhead_pairs=0,
)


@dataclass(frozen=True)
class Serving:
    """What an experiment serves: a module, its versions, and how a registry checks them."""

    module: str
    variants: Sequence[tuple[Path, VersionMark]]
    check: Callable[[Path], Mapping[str, Any]]
    reads: Sequence[str]


def run_reliability(run: Run, quick: bool = False) -> None:
    """See the module's docstring.

    Args:
        run: The command.
        quick: The light server only; writes beside the artifacts.

    Raises:
        BundleError: if there is no usable bundle (not for a quick run).
        SystemExit: with 1 if something happened that must not.
    """
    sizes, note = (QUICK, QUICK_NOTE) if quick else (FULL, FULL_NOTE)
    data = run.load()
    results = run.start_results(data)
    folder = run.artifacts / "demonstrations" if quick else run.results_folder()
    bundle = None if quick else run.artifacts / "latest" / "bundle"
    with ended_by_sigterm():
        found = _experiments(run, sizes, bundle)
        print_reliability(run.console, found, note=note)
        record_reliability(results, found)
        results.write(folder / "reliability.json")
        write_atomic(folder / "plots" / PLOT, png(store_timelines(found.faults, note)))
        if bundle is not None:
            _overhead(run, results, bundle, sizes)
            results.write(folder / "reliability.json")
    if found.failures:
        raise SystemExit(1)


def _experiments(run: Run, sizes: Sizes, bundle: Path | None) -> Reliability:
    """All that break something; with the light server throughout where there is no bundle."""
    with tempfile.TemporaryDirectory(prefix=SCRATCH) as name:
        scratch = Path(name)
        light = light_serving(scratch / "light")
        full = full_serving(bundle, scratch / "full") if bundle else light
        return Reliability(
            swaps=_swaps(run, full, sizes, scratch / "swaps"),
            kills=_kills(run, light, full, sizes, scratch),
            faults=(
                *_embedded(run, full, sizes, scratch / "embedded"),
                *_outside(run, full, sizes, scratch / "outside"),
            ),
            full=bundle is not None,
            rate_qps=sizes.rate_qps,
        )


def light_serving(folder: Path) -> Serving:
    """Three versions of the light recommender."""
    reads = request_lines(np.arange(1, LIGHT_USERS + 1), n=200)
    return Serving(LIGHT_MODULE, light_bundles(folder, N_VERSIONS), check_light, reads)


def full_serving(bundle: Path, folder: Path) -> Serving:
    """Three variants of the trained bundle.

    Raises:
        BundleError: if the bundle is missing or damaged.
    """
    from video_recommendation.bundle import check_bundle

    variants = derive_bundles(bundle, folder, N_VERSIONS)
    with np.load(bundle / "users.npz") as users:
        reads = request_lines(users["user_ids"])
    return Serving(FULL_MODULE, variants, check_bundle, reads)


def _swaps(run: Run, serving: Serving, sizes: Sizes, scratch: Path) -> SwapReport:
    registry = ModelRegistry(scratch / "registry", serving.check)
    register_all(registry, serving.variants)
    arguments = ["--registry", str(registry.root)]
    with (
        run.progress.stage("version swaps under load", sizes.swaps) as step,
        ServerProcess(serving.module, arguments, scratch / "data") as server,
    ):
        server.start()
        return swap_repeatedly(
            server,
            registry,
            [mark for _, mark in serving.variants],
            serving.reads,
            swaps=sizes.swaps,
            rate_qps=sizes.rate_qps,
            calm_s=sizes.calm_s,
            seed=run.config.seed,
            step=step,
        )


def _kills(
    run: Run, light: Serving, full: Serving, sizes: Sizes, scratch: Path
) -> dict[str, KillReport]:
    plans = (
        ("light", light, sizes.light_kills, sizes.kill_rate_qps),
        ("full", full, sizes.full_kills, sizes.rate_qps),
    )
    reports = {}
    for kind, serving, kills, rate_qps in plans:
        folder, mark = serving.variants[0]
        server = ServerProcess(serving.module, [str(folder)], scratch / f"kill-{kind}")
        if kills:
            with run.progress.stage(f"kill -9 under load, {kind} server", kills) as step, server:
                reports[kind] = kill_repeatedly(
                    server,
                    serving.reads,
                    mark,
                    kills=kills,
                    rate_qps=rate_qps,
                    seed=run.config.seed,
                    step=step,
                )
    return reports


def _embedded(run: Run, serving: Serving, sizes: Sizes, scratch: Path) -> list[StoreReport]:
    folder, mark = serving.variants[0]
    plan = StoreTraffic(serving.reads, mark, sizes.rate_qps, sizes.before_s, sizes.after_s)
    with (
        run.progress.stage("faults of the embedded store", len(EMBEDDED)) as step,
        ServerProcess(serving.module, [str(folder)], scratch) as server,
    ):
        server.start()
        socket = server.store_socket()
        faults = embedded_faults(socket, flapping_s=sizes.flapping_s)
        return _each_fault(server, socket, faults, plan, sizes, step)


def _outside(run: Run, serving: Serving, sizes: Sizes, scratch: Path) -> list[StoreReport]:
    folder, mark = serving.variants[0]
    plan = StoreTraffic(serving.reads, mark, sizes.rate_qps, sizes.before_s, sizes.after_s)
    with (
        run.progress.stage("faults of a store outside", len(OUTSIDE)) as step,
        _store_outside(scratch / "store") as (store_process, proxy),
        ServerProcess(
            serving.module, [str(folder)], scratch / "data", redis_url=f"unix://{proxy.socket}"
        ) as server,
    ):
        server.start()
        faults = outside_faults(store_process, proxy, fault_s=sizes.fault_s)
        return _each_fault(server, store_process.socket_path, faults, plan, sizes, step)


def _each_fault(
    server: ServerProcess,
    socket: Path,
    faults: Sequence[StoreFault],
    plan: StoreTraffic,
    sizes: Sizes,
    step: Callable[[int], None],
) -> list[StoreReport]:
    reports = []
    with store_client(socket) as store:
        for number, fault in enumerate(faults):
            if fault.name in sizes.faults:
                reports.append(survive(server, store, fault, plan, seed=number))
                step(1)
    return reports


@contextmanager
def _store_outside(folder: Path) -> Iterator[tuple[EmbeddedServer, SlowProxy]]:
    """A store of its own and a proxy before it; both end with the context."""
    store = EmbeddedServer(folder)
    try:
        with SlowProxy(store.socket_path.with_name("proxy.sock"), store.socket_path) as proxy:
            yield store, proxy
    finally:
        store.close()


def _overhead(run: Run, results: Results, bundle: Path, sizes: Sizes) -> None:
    """What shadowing and logging cost, on the bundle as it is."""
    from video_recommendation.rollout.overhead import measure_overhead, record_overhead

    with run.progress.stage("cost of shadowing and logging", 2 * sizes.overhead_pairs) as step:
        found = measure_overhead(bundle, pairs=sizes.overhead_pairs, step=step)
    run.console.print(found.table(), highlight=False, markup=False)
    record_overhead(results, found)


@contextmanager
def ended_by_sigterm() -> Iterator[None]:
    """SIGTERM unwinds like Ctrl-C, so that servers and folders go; only in the main thread."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def stop(number: int, frame: object) -> None:
        sys.exit(128 + number)

    before = signal.signal(signal.SIGTERM, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
