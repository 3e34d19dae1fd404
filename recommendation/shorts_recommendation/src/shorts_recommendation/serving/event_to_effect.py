"""From an event to its effect: how soon the next feed stands on the new session embedding.

In: a running service, under load from elsewhere. Out: milliseconds from the moment at which a
client begins to POST an event until it holds a feed whose ``state_version`` is not smaller than
the event's number in the log: a list computed from a state, and so from a session embedding, that
has seen it.

Each probe is one user who watches a video and asks again at once, on one keep-alive connection; the
gaps between probes are exponential. A probe that finds a degraded answer (an old slate) asks again
until the effect is there; its time runs on.
"""

from __future__ import annotations

import http.client
import json
import threading
import time
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

import numpy as np

from shorts_recommendation.serving.load_session import LoadSession, Served, measure
from shorts_recommendation.serving.traffic import TrafficPlan

GIVE_UP_S = 5.0


@dataclass(frozen=True)
class Effect:
    """N probes, milliseconds f64[N] each.

    Attributes:
        total_ms: Event sent to feed in hand.
        post_ms: Of it the POST: durable and applied.
        reads: i64[N], feeds asked until the effect was there.
        under: The load meanwhile.
    """

    total_ms: np.ndarray
    post_ms: np.ndarray
    reads: np.ndarray
    under: LoadSession

    def at(self, q: float) -> float:
        """Percentile of the total."""
        return float(np.percentile(self.total_ms, q))

    @property
    def at_first_read(self) -> float:
        """Share of the probes whose first feed had the effect."""
        return float(np.mean(self.reads == 1))


def event_to_effect(
    served: Served, plan: TrafficPlan, rate_qps: float, n: int, *, probes_qps: float = 40.0
) -> Effect:
    """Offers a load and sends n probes through it.

    Args:
        served: The service.
        plan: Of the load.
        rate_qps: Of the load, feeds and events.
        n: Probes.
        probes_qps: Their rate; they come on top.

    Raises:
        RuntimeError: If a probe was refused, or its effect did not come in five seconds.
    """
    seconds = n / probes_qps + 1.0
    under: list[LoadSession] = []
    load = threading.Thread(
        target=lambda: under.append(measure(served, plan, rate_qps, seconds)), name="load"
    )
    load.start()
    time.sleep(3.0)  # the load's own warm-up
    rng = np.random.default_rng(plan.seed)
    users = rng.permutation(served.user_ids)
    rows: list[tuple[float, float, int]] = []
    name = f"effect{len(served.loads)}"
    connection = _connect(served.process.url)
    begin = time.perf_counter()
    due = np.cumsum(rng.exponential(1.0 / probes_qps, n)).tolist()
    for i in range(n):
        time.sleep(max(0.0, begin + due[i] - time.perf_counter()))
        video_id = int(rng.choice(served.video_ids))
        rows.append(_probe(connection, f"{name}-{i}", int(users[i % len(users)]), video_id, plan.k))
    connection.close()
    load.join()
    total_ms, post_ms, reads = np.array(rows).T
    return Effect(total_ms, post_ms, reads.astype(np.int64), under[0])


def _connect(url: str) -> http.client.HTTPConnection:
    parts = urlsplit(url)
    return http.client.HTTPConnection(parts.hostname or "", parts.port, timeout=GIVE_UP_S)


def _probe(
    connection: http.client.HTTPConnection, event_id: str, user_id: int, video_id: int, k: int
) -> tuple[float, float, int]:
    """One event and feeds until it shows; (total ms, POST ms, feeds)."""
    event = {"event_id": event_id, "user_id": user_id, "video_id": video_id, "watch_s": 12.0}
    begin = time.perf_counter()
    receipt = _ask(connection, "POST", "/v1/events", json.dumps(event).encode())
    posted = time.perf_counter()
    seq = receipt["events"][0]["seq"]
    reads = 0
    while time.perf_counter() - begin < GIVE_UP_S:
        reads += 1
        feed = _ask(connection, "GET", f"/v1/feed?user_id={user_id}&k={k}", None)
        if feed["state_version"] >= seq and feed["answered_by"] != "trending":
            return (time.perf_counter() - begin) * 1e3, (posted - begin) * 1e3, reads
    raise RuntimeError(f"event {seq} of user {user_id} had no effect in {GIVE_UP_S:g} s")


def _ask(
    connection: http.client.HTTPConnection, method: str, path: str, body: bytes | None
) -> dict[str, Any]:
    connection.request(method, path, body, {"Content-Type": "application/json"} if body else {})
    response = connection.getresponse()
    content = response.read()
    if response.status != 200:
        raise RuntimeError(f"{method} {path} was answered {response.status}: {content[:200]!r}")
    answer: dict[str, Any] = json.loads(content)
    return answer
