"""The HTTP service (serving/)."""

from __future__ import annotations

from pydantic import Field, PositiveInt

from ml_platform.evaluation.configuration import Stage


class ServingConfig(Stage):
    """The HTTP service (serving/)."""

    page: PositiveInt = 20
    """Results of one answer, unless the request says otherwise."""
    most: PositiveInt = 100
    """The most that a request may ask for."""
    max_batch: PositiveInt = 16
    """Pictures of one call of the network: more make the first of them wait for the last."""
    wait_ms: float = Field(default=2.0, ge=0)
    """How long an idle network waits for a second picture; 0 turns the waiting off. Under load
    nobody waits: the line is there already."""
    max_waiting: PositiveInt = 64
    """Queries in one line. 64 of them take about half of the deadline; beyond it the answer is 503
    at once."""
    deadline_ms: float = Field(default=1000.0, gt=0)
    """After so long an answer is 503 and its work is dropped: people have gone."""
    upload_bytes: PositiveInt = 8 << 20
    """Of one request's body: photographs of telephones take 2 to 6 MiB."""
    upload_pixels: PositiveInt = 16_000_000
    """Of one picture: above the 12 megapixels of common telephones; 64 MB while it is decoded with
    transparency."""
    upload_timeout_s: float = Field(default=10.0, gt=0)
    """For a body to arrive: the largest one needs 7 Mbit a second, a usual one 3 Mbit."""
    uploads_held_bytes: PositiveInt = 64 << 20
    """Of all bodies that are arriving or waiting to be decoded: eight of the largest."""
    decoders: PositiveInt = 2
    """Threads that decode; Pillow releases the interpreter meanwhile. Each may hold the largest
    picture several times over."""
    url_images: bool = False
    """Whether {"image_url": ...} is fetched. Off: a service that fetches what strangers name can
    be sent to places that only it can reach."""
    url_timeout_s: float = Field(default=3.0, gt=0)
    """For the whole of a fetch."""
    most_added: PositiveInt = 20_000
    """Items that may be added before the index should be built anew."""
    bench_qps: float = Field(default=50.0, gt=0)
    """Image queries a second of ``bench``: what the system is to carry on two cores."""
    bench_text_qps: float = Field(default=300.0, gt=0)
    bench_seconds: float = Field(default=60.0, gt=0)
    """Of each measured load; 3,000 image queries, so that the 99th percentile has 30 above it."""
    fuzz_requests: PositiveInt = 2_000
    """Hostile requests of ``fuzz``."""
