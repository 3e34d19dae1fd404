"""``serve``, ``bench`` and ``fuzz``: the last bundle served, measured under load, and attacked.

``bench`` writes ``bench_serving.json`` with

    serving/image/...             pictures at the rate asked for, batched
    serving/image_unbatched/...   the same, every picture a call of its own
    serving/image_photo/...       the same pictures scaled up to photographs of 1,280 pixels
    serving/text/...              words at the rate asked for
    serving/mixed/...             pictures, words and "more like this" together
    serving/image_<rate>/...      the rising series (image_unbatched_<rate>, text_<rate>), and
    serving/knee_<sweep>/qps      the highest rate that held
    serving/saturated/...         twice the knee: what is refused, what the rest waits

and two pictures. On two cores the client takes its share of both: the figures are lower bounds.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import numpy as np
from rich.table import Table

from image_search.bundle import load_searcher
from image_search.config import ServingConfig
from image_search.images.captions import captions, traits_of
from image_search.images.image_set import ImageSet, owner_rows
from image_search.serving.load_session import LoadSession, holds, measure, serving
from image_search.serving.plots import latency_over_rate, stage_profile
from image_search.serving.record import LIMIT_P99_MS, record_session
from image_search.serving.server import STATE, serve_bundle
from image_search.serving.traffic import Call, item_call, mixed, text_call, uploads
from ml_platform.evaluation.plot_style import png
from ml_platform.evaluation.results import Results, write_atomic
from ml_platform.serving.server_process import ServerProcess

if TYPE_CHECKING:
    from image_search.commands import Run

Step = Callable[[int], object]
PICTURES = 4_000
"""Distinct uploads of a load; more than a load of 60 s at 50 a second sends."""
PHOTO_SIDE, PHOTOS, PHOTO_QPS = 1280, 60, 20.0
IMAGE_SWEEP = (25.0, 50.0, 75.0, 100.0, 150.0, 200.0, 300.0, 400.0, 600.0, 800.0)
TEXT_SWEEP = (300.0, 450.0, 600.0, 800.0, 1000.0, 1300.0, 1600.0)
SWEEP_S = 8.0
MIX = {"image": 0.25, "text": 0.5, "item": 0.25}


def serve(run: Run) -> None:
    """Serves the last bundle until Ctrl-C; changes are kept in its run's folder."""
    bundle = run.latest_bundle.resolve()
    run.console.print(f"http://127.0.0.1:8000 serves {bundle}", highlight=False)
    serve_bundle(bundle, state_dir=bundle.parent / STATE, config=run.config)


class Loads:
    """The calls of one bench, made from the pictures that were set aside as queries.

    Args:
        images: The image set of the bundle.
        item_ids: i64, of the bundle's items.
        text: Whether words can be asked with.
        seed: Of the drawn pictures.
        most: Distinct pictures.
    """

    def __init__(
        self, images: ImageSet, item_ids: np.ndarray, *, text: bool, seed: int, most: int
    ) -> None:
        rng = np.random.default_rng(seed)
        rows = rng.permutation(owner_rows(images).queries)[:most]
        pictures = [images.images[int(row)] for row in rows]
        self.image = uploads(pictures)
        self.photo = uploads(pictures[:PHOTOS], side=PHOTO_SIDE)
        self.item = [item_call(one) for one in rng.permutation(item_ids)[:most].tolist()]
        self.text: list[Call] = []
        if text:
            label, ids = images.label[rows], images.item_id[rows]
            said = captions(label, images.label_names, traits_of(pictures), ids, seed)
            self.text = [text_call(sentence) for sentence in said]

    def mixed(self, n: int, seed: int) -> list[Call]:
        """Pictures, words and items by the weights of MIX, those that there are."""
        parts = {"image": self.image, "text": self.text, "item": self.item}
        return mixed([(calls, MIX[name]) for name, calls in parts.items() if calls], n, seed)


def bench(run: Run) -> None:
    """The service under load; prints a table and writes the files."""
    images = run.load()
    results = run.start_results(images)
    config, quick = run.config.serving, run.config.quick
    searcher = load_searcher(run.latest_bundle)
    loads = Loads(
        images,
        searcher.catalogue.item_id,
        text=searcher.text is not None,
        seed=run.config.seed,
        most=200 if quick else PICTURES,
    )
    about = f"{len(searcher.catalogue):,} items, embedding {searcher.embedder.name}"
    about += f", ranker {searcher.ranker.name if searcher.ranker else 'none'}"
    del searcher
    bencher = Bench(run, results, loads, about)
    with run.progress.stage("serving: the rates asked for", 5) as step:
        named = bencher.named(config, 2.0 if quick else config.bench_seconds, step)
    with run.progress.stage("serving: rising load", 3) as step:
        sweeps = bencher.sweeps(config, 1.5 if quick else SWEEP_S, step, quick=quick)
    folder = run.results_folder()
    pictures = {
        "serving_latency_over_rate": latency_over_rate(sweeps, p99_ms=LIMIT_P99_MS),
        "serving_stages": stage_profile(
            {
                f"{name}, {session.load.offered_qps:g}/s": (name.partition("_")[0], session)
                for name, session in named.items()
                if name in ("image", "image_photo", "text")
            }
        ),
    }
    for name, figure in pictures.items():
        write_atomic(folder / "plots" / f"{name}.png", png(figure))
    results.write(folder / "bench_serving.json")
    run.console.print(table(bencher.rows))


class Bench:
    """Measures loads one after the other and records each.

    Args:
        run: Of the command.
        results: Gets every figure.
        loads: What to send.
        about: What is served, for the protocols.
    """

    def __init__(self, run: Run, results: Results, loads: Loads, about: str) -> None:
        self._bundle, self._seed = run.latest_bundle.resolve(), run.config.seed
        self._results, self._loads, self._about = results, loads, about
        self.rows: dict[str, LoadSession] = {}

    def named(self, config: ServingConfig, seconds: float, step: Step) -> dict[str, LoadSession]:
        """The loads with names; one service for each setting."""
        loads, image_qps, text_qps = self._loads, config.bench_qps, config.bench_text_qps
        shorter = min(seconds, 20.0)
        with serving(self._bundle, config) as server:
            self._measure("image", server, loads.image, image_qps, seconds, config)
            step(1)
            if loads.text:
                self._measure("text", server, loads.text, text_qps, shorter, config)
            step(1)
            calls = loads.mixed(4 * len(loads.image), self._seed)
            self._measure("mixed", server, calls, 2 * image_qps, shorter, config)
            step(1)
            self._measure("image_photo", server, loads.photo, PHOTO_QPS, shorter, config)
            step(1)
        single = unbatched(config)
        with serving(self._bundle, single) as server:
            self._measure("image_unbatched", server, loads.image, image_qps, seconds, single)
            step(1)
        return self.rows

    def sweeps(
        self, config: ServingConfig, seconds: float, step: Step, *, quick: bool
    ) -> dict[str, list[LoadSession]]:
        """Rising rates, up to the first that does not hold; then twice the knee of pictures."""
        found = {}
        series = {
            "image": (config, self._loads.image, IMAGE_SWEEP),
            "image_unbatched": (unbatched(config), self._loads.image, IMAGE_SWEEP),
            "text": (config, self._loads.text, TEXT_SWEEP),
        }
        for name, (setting, calls, rates) in series.items():
            if calls:
                found[name] = self._sweep(
                    name, setting, calls, rates[: 2 if quick else None], seconds
                )
            step(1)
        return found

    def _sweep(
        self,
        name: str,
        config: ServingConfig,
        calls: Sequence[Call],
        rates: Sequence[float],
        seconds: float,
    ) -> list[LoadSession]:
        rows: list[LoadSession] = []
        with serving(self._bundle, config) as server:
            for rate in rates:
                variant = f"{name}_{rate:g}"
                rows.append(self._measure(variant, server, calls, rate, seconds, config))
                if not holds(rows[-1], LIMIT_P99_MS):
                    break
            knee = max((r.load.offered_qps for r in rows if holds(r, LIMIT_P99_MS)), default=0.0)
            words = (
                f"highest rate tried with p99 < {LIMIT_P99_MS:g} ms and no error; {seconds:g} s a "
                f"rate; {self._about}"
            )
            self._results.add(f"serving/knee_{name}/qps", knee, protocol=words)
            if name == "image" and knee:
                self._measure("saturated", server, calls, 2 * knee, seconds, config)
        return rows

    def _measure(
        self,
        variant: str,
        server: ServerProcess,
        calls: Sequence[Call],
        rate: float,
        seconds: float,
        config: ServingConfig,
    ) -> LoadSession:
        seed = self._seed + len(self.rows)  # other gaps for every load
        session = measure(server, calls, rate, seconds, seed=seed)
        kinds = ", ".join(sorted({call.kind for call in calls}))
        batches = f"batches of up to {config.max_batch}, an idle model waits {config.wait_ms:g} ms"
        mean = np.mean([len(call.wire) for call in calls[:200]])
        words = (
            f"{kinds} queries of {mean:,.0f} bytes in the mean, k = 20, {batches}; {self._about}"
        )
        record_session(self._results, variant, session, words)
        self.rows[variant] = session
        return session


def unbatched(config: ServingConfig) -> ServingConfig:
    """Every picture a call of its own."""
    return config.model_copy(update={"max_batch": 1, "wait_ms": 0.0})


def table(sessions: dict[str, LoadSession]) -> Table:
    """One line a load."""
    found = Table(title="The service under load: one process, open loop, Poisson")
    for column in (
        "load",
        "offered/s",
        "n",
        "errors",
        "p50 ms",
        "p95 ms",
        "p99 ms",
        "batch",
        "cores",
    ):
        found.add_column(column, justify="left" if column == "load" else "right")
    for name, session in sessions.items():
        load, latency = session.load, session.latency
        times = [latency.p50, latency.p95, latency.p99] if latency else []
        found.add_row(
            name,
            f"{load.offered_qps:g}",
            f"{load.n:,}",
            f"{load.error_rate:.1%}",
            *(f"{ms:.1f}" for ms in times),
            *("-" for _ in range(3 - len(times))),
            f"{session.batch_mean:.1f}",
            f"{session.cpu['server']:.2f}",
        )
    return found
