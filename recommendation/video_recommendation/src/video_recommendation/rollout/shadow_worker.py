"""The shadow's child program: load a bundle, answer copies of live requests.

    python -m video_recommendation.rollout.shadow_worker BUNDLE --events events.sqlite

In: records of ``rollout.shadow``, one JSON line each. Out: the list that this bundle would have
shown, with scores. Nothing is written anywhere: the event log is opened read-only, no store is
asked, and an answer goes to the lane alone.

The record carries the user's history as production saw it, in external ids, so that both versions
answer the same question. What a record cannot carry, the counts of all items, is read here: the
bundle's training events and, once a second, what is new in the event log. Counts are as of the last
full minute before the request, so a record that waited does not see later events.
"""

from __future__ import annotations

import argparse
import sqlite3
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import orjson
from threadpoolctl import threadpool_limits

from feature_engineering.counters import EventCounter
from ml_platform.operations.shadow_child import answer_lines, end_with_parent, own_stdout
from ml_platform.serving.stages import RequestStages
from video_recommendation.serving.protocol import Recommender, UserState
from video_recommendation.serving.run import load_warm, one_thread

REFRESH_S = 1.0


class LiveCounts:
    """Item counts of the training events and the event log's, read-only.

    Args:
        recommender: Supplies training events and the catalogue.
        events: The event log's file.
        refresh_s: Pause between looks at the file.
    """

    def __init__(self, recommender: Recommender, events: Path, refresh_s: float = REFRESH_S):
        item_idx, timestamp = recommender.training_events()
        self.counter = EventCounter(
            item_idx, timestamp, n_items=len(recommender.catalogue.item_ids)
        )
        self._catalogue = recommender.catalogue
        self._refresh_s = refresh_s
        self._next_s = 0.0
        self._connection = sqlite3.connect(f"file:{events}?mode=ro", uri=True)
        log_id = self._connection.execute("SELECT value FROM meta WHERE key = 'log_id'").fetchone()
        self._seq = recommender.trained_through.get(log_id[0] if log_id else "", 0)

    def refreshed(self) -> EventCounter:
        """The counter, brought up to date when the last time is long enough ago."""
        if time.monotonic() >= self._next_s:
            self._next_s = time.monotonic() + self._refresh_s
            self._read()
        return self.counter

    def _read(self) -> None:
        rows = self._connection.execute(
            "SELECT seq, received_at, body FROM events WHERE seq > ? ORDER BY seq", (self._seq,)
        ).fetchall()
        known = []
        for seq, received_at, body in rows:
            event = orjson.loads(body)
            item_idx = self._catalogue.item_idx(event["item_id"])
            if item_idx is not None:
                known.append((item_idx, int(event.get("timestamp") or received_at)))
            self._seq = seq
        if known:
            new = np.array(known, np.int64)
            self.counter = self.counter.extended(new[:, 0].astype(np.int32), new[:, 1])


def answer(
    recommender: Recommender, counts: LiveCounts, record: Mapping[str, Any]
) -> dict[str, Any]:
    """What this bundle would have shown.

    Raises:
        RuntimeError: A stage of the recommender did not do its work: no fair comparison.
    """
    stages = RequestStages()
    listed = recommender.recommend(
        user_id=record["user_id"],
        state=_state(recommender, record),
        now=record["now"],
        k=record["k"],
        exclude=_known(recommender, record["exclude"])[1],
        counter=counts.refreshed(),
        stages=stages,
        surface=record["surface"],
    )
    if stages.degradations:
        first = stages.degradations[0]
        raise RuntimeError(f"stage {first.stage}: {first.reason}: {first.detail}")
    return {
        "items": recommender.catalogue.item_ids[[item.item_idx for item in listed]].tolist(),
        "scores": [item.score for item in listed],
    }


def _state(recommender: Recommender, record: Mapping[str, Any]) -> UserState:
    """The history in this bundle's indices; items that it does not know are left out."""
    rows, item_idx = _known(recommender, record["history_items"])
    rating = np.array(record["history_ratings"], np.float32)[rows]
    return UserState(item_idx, rating, np.array(record["history_times"], np.int64)[rows])


def _known(recommender: Recommender, item_ids: Sequence[int]) -> tuple[np.ndarray, np.ndarray]:
    """Positions i64 and indices i32 of the ids that the catalogue has."""
    found = [recommender.catalogue.item_idx(item) for item in item_ids]
    rows = np.array([row for row, idx in enumerate(found) if idx is not None], np.int64)
    return rows, np.array([idx for idx in found if idx is not None], np.int32)


def main(arguments: Sequence[str] | None = None) -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description="Answer copies of live requests.")
    parser.add_argument("bundle", type=Path)
    parser.add_argument("--events", type=Path, required=True, help="the server's event log")
    parser.add_argument("--delay-ms", type=float, default=0.0, help="for demonstrations: be slow")
    options = parser.parse_args(arguments)
    sink = own_stdout()  # before a library can print
    end_with_parent()
    threadpool_limits(1)
    one_thread()
    recommender = load_warm(options.bundle)
    counts = LiveCounts(recommender, options.events)

    def answered(record: Mapping[str, Any]) -> dict[str, Any]:
        time.sleep(options.delay_ms / 1e3)
        return answer(recommender, counts, record)

    answer_lines(answered, {"version": recommender.version}, sink=sink)


if __name__ == "__main__":
    main()
