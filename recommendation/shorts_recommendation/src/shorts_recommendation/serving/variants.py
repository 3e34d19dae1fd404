"""Other ways to run the service, and what happens to it, beside the main rows.

In: a bundle. Out: ``serving/sessions_ahead_<n>/...``, slates made ahead from the n-th event on, or
never ("off"), and ``serving/cached_uploads/...``, the cached path with a new video every second.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from ml_platform.evaluation.results import Results
from shorts_recommendation.config import Config
from shorts_recommendation.serving.load_session import LoadSession, load_session
from shorts_recommendation.serving.record import record_session

AHEAD_AFTER: dict[str, dict[str, object]] = {
    "off": {"compute_ahead": False},
    "1": {"ahead_after": 1},
    "8": {"ahead_after": 8},
    "10": {"ahead_after": 10},
}
SECONDS = 8.0


def record_variants(
    bundle: Path,
    config: Config,
    results: Results,
    *,
    quick: bool,
    step: Callable[[int], object],
) -> dict[str, LoadSession]:
    """Each by a service of its own.

    Args:
        bundle: A bundle's folder.
        config: Rates in ``config.serving``.
        results: Gets the rows.
        quick: Two choices and two seconds.
        step: Called with 1 after each of the two kinds.
    """
    found: dict[str, LoadSession] = {}
    seconds = 2.0 if quick else SECONDS
    for name, change in list(AHEAD_AFTER.items())[: 2 if quick else None]:
        found[f"sessions_ahead_{name}"] = load_session(
            *(bundle, config.serving.load_sessions_rate_qps, seconds),
            cached=True,
            config=config.serving.model_copy(update=change),
            seed=config.seed,
            session_events=config.serving.prefetch,
        )
    step(1)
    rate_qps = config.serving.load_rate_qps
    found["cached_uploads"] = load_session(
        *(bundle, rate_qps, seconds),
        cached=True,
        config=config.serving,
        seed=config.seed,
        upload_every=round(rate_qps),
        content_dim=config.world.content_dim,
    )
    step(1)
    for name, session in found.items():
        record_session(results, name, session, config)
    return found
