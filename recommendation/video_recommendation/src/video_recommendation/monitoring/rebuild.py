"""Rebuilds the features of logged requests from the event log, the offline way, and compares.

In: the logs that a service left behind and the bundle that it served. Out: a ``SkewReport`` of what
was served against what the batch builder and the parquet rows say.

Nothing of the online path is asked. Histories are the bundle's plus the events of the log strictly
before the request; counters know all events and are read as of its minute; item activity and
profiles come from parquet by a point-in-time join. Requests are rebuilt one at a time: a matrix
product over another number of rows may round its last bit otherwise, and that is not the skew that
is looked for.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from copy import copy
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import orjson

from feature_engineering.counters import EventCounter
from feature_engineering.offline_store import OfflineStore
from feature_engineering.parity import SkewReport, skew_report
from ml_platform.serving.event_log import EventLog
from video_recommendation.backfill import backfill_item_activity, backfill_user_profile
from video_recommendation.features import SCHEMA
from video_recommendation.recommender import Recommender, without
from video_recommendation.requests import RequestBatch, single_request
from video_recommendation.retrieval.sources import Candidates
from video_recommendation.serving.state import RECORD, merge_history, read_event
from video_recommendation.stored_features import StoredFeatures

READ_EVENTS = 10_000


@dataclass(frozen=True)
class LoggedRequest:
    """One line of the request log that holds features; ids are external.

    Attributes:
        features: f32[K, F], as the ranker saw the items shown.
        as_of: i64[K], minute of each item's stored row; -1 where defaults stood.
    """

    request_id: str
    user_id: int
    now: int
    item_ids: np.ndarray
    features: np.ndarray
    as_of: np.ndarray
    exclude: np.ndarray
    degraded_stages: tuple[str, ...]

    @property
    def is_comparable(self) -> bool:
        """Whether its inputs were complete; a step from the store to the counter changes none."""
        return set(self.degraded_stages) <= {"features"}


@dataclass(frozen=True)
class LiveEvents:
    """The event log: user_id i64[N] (external) and ``RECORD`` [N], in the order of the log."""

    user_id: np.ndarray
    record: np.ndarray

    def shifted(self, seconds: int) -> LiveEvents:
        """The same as a reader would have it that takes another time zone for UTC."""
        record = self.record.copy()
        record["timestamp"] += seconds
        return LiveEvents(self.user_id, record)


@dataclass(frozen=True)
class Comparison:
    """One replay against its rebuilding.

    Attributes:
        report: Over the rows that both sides have.
        n_requests: Requests that were rebuilt.
        n_set_aside: Requests that were not, because another stage than ``features`` had degraded:
            their inputs are known to differ, and the service has said so.
        n_unmatched: Items shown that the rebuilt request does not even propose.
    """

    report: SkewReport
    n_requests: int
    n_set_aside: int
    n_unmatched: int


def read_requests(path: Path) -> list[LoggedRequest]:
    """Lines with features of this code's schema; others are passed over.

    Raises:
        ValueError: if lines were written under another schema, for they cannot be compared.
    """
    found = []
    for line in path.read_bytes().splitlines():
        record: dict[str, Any] = orjson.loads(line)
        kept = record.get("features")
        if kept is None:
            continue
        if kept["schema"] != SCHEMA.sha256:
            raise ValueError(
                f"request {record['request_id']} was logged under schema {kept['schema'][:12]}, "
                f"this code has {SCHEMA.sha256[:12]}: rebuild it with the code of its version"
            )
        found.append(
            LoggedRequest(
                request_id=record["request_id"],
                user_id=record["user_id"],
                now=record["now"],
                item_ids=np.array(record["items"], dtype=np.int64),
                features=np.array(kept["values"], dtype=np.float32),
                as_of=np.array(kept["as_of"], dtype=np.int64),
                exclude=np.array(kept["exclude"], dtype=np.int64),
                degraded_stages=tuple(record["degraded_stages"]),
            )
        )
    return found


def read_events(path: Path, recommender: Recommender) -> LiveEvents:
    """The event log, as far as the bundle knows its items."""
    users, records, position = [], [], 0
    with EventLog(path) as log:
        while batch := log.read(position, READ_EVENTS):
            position = batch[-1].seq
            for said in map(read_event, batch):
                item_idx = recommender.catalogue.item_idx(said.item_id)
                if item_idx is not None:
                    users.append(said.user_id)
                    records.append((said.timestamp, item_idx, said.rating))
    return LiveEvents(np.array(users, dtype=np.int64), np.array(records, dtype=RECORD))


def compare(
    recommender: Recommender, requests: Sequence[LoggedRequest], events: LiveEvents, folder: Path
) -> Comparison:
    """Rebuilds the requests and reports the differences.

    Args:
        recommender: The bundle that served them.
        requests: As logged.
        events: All events since training.
        folder: For the parquet rows; empty.
    """
    logged, requests = requests, [request for request in requests if request.is_comparable]
    offline = _Offline.of(recommender, requests, events, folder)
    online, rebuilt, row_ids, n_unmatched = [], [], [], 0
    for request, batch, survivors, stored in offline.each(requests):
        matrix = offline.recommender.proposer.matrix(batch, survivors, stored)
        row_of = {int(item): row for row, item in enumerate(survivors.item_idx)}
        for place, item_id in enumerate(request.item_ids.tolist()):
            item_idx = offline.item_idx(item_id)
            row = None if item_idx is None else row_of.get(item_idx)
            if row is None:
                n_unmatched += 1
                continue
            online.append(request.features[place])
            rebuilt.append(matrix[row])
            row_ids.append(f"{request.request_id[:8]}/{item_id}")
    shape = (len(row_ids), len(SCHEMA))
    report = skew_report(
        np.array(online, dtype=np.float32).reshape(shape),
        np.array(rebuilt, dtype=np.float32).reshape(shape),
        SCHEMA,
        row_ids,
    )
    return Comparison(report, len(requests), len(logged) - len(requests), n_unmatched)


@dataclass(frozen=True)
class _Offline:
    """The bundle with counters that know everything, and the parquet homes."""

    recommender: Recommender
    events: LiveEvents
    items: OfflineStore
    profiles: OfflineStore

    @staticmethod
    def of(
        recommender: Recommender,
        requests: Sequence[LoggedRequest],
        events: LiveEvents,
        folder: Path,
    ) -> _Offline:
        log = recommender.log
        item_idx = np.concatenate([log.item_idx, events.record["item_idx"]])
        timestamp = np.concatenate([log.timestamp, events.record["timestamp"]])
        moments = [request.now for request in requests] or [recommender.data_end]
        items = backfill_item_activity(
            folder,
            recommender.catalogue.item_ids,
            item_idx,
            timestamp,
            begin=min(moments),
            end=max(moments),
        )
        profiles = backfill_user_profile(folder, recommender.users)
        counter = EventCounter(item_idx, timestamp, n_items=log.n_items)
        proposer = recommender.proposer
        retriever = replace(proposer.retriever, counter=counter)
        offline = copy(recommender)
        offline.proposer = replace(proposer, retriever=retriever)
        return _Offline(offline, events, items, profiles)

    def item_idx(self, item_id: int) -> int | None:
        return self.recommender.catalogue.item_idx(item_id)

    def each(
        self, requests: Sequence[LoggedRequest]
    ) -> Iterator[tuple[LoggedRequest, RequestBatch, Candidates, StoredFeatures]]:
        """Each request as a batch of one, its survivors and their rows; parquet is joined once."""
        found = [(request, *self._propose(request)) for request in requests]
        if not found:
            return
        now = np.array([request.now for request in requests])
        sizes = [len(survivors.item_idx) for _, _, survivors in found]
        item_ids = self.recommender.catalogue.item_ids
        wanted = item_ids[np.concatenate([s.item_idx for _, _, s in found])]
        rows = self.items.point_in_time_join(wanted, np.repeat(now, sizes), apply_ttl=False)
        users = [request.user_id for request in requests]
        profiles = self.profiles.point_in_time_join(users, now)
        ends = np.cumsum(sizes)
        for place, (request, batch, survivors) in enumerate(found):
            part = slice(ends[place] - sizes[place], ends[place])
            stored = StoredFeatures(
                rows.values[part], profiles.values[place : place + 1], rows.timestamp[part]
            )
            yield request, batch, survivors, stored

    def _propose(self, request: LoggedRequest) -> tuple[RequestBatch, Candidates]:
        """Retrieval and pre-ranking of one request as the offline replay does them."""
        recommender, record = self.recommender, self.events.record
        theirs = (self.events.user_id == request.user_id) & (record["timestamp"] < request.now)
        state = merge_history(recommender.history(request.user_id), record[theirs])
        batch = single_request(
            recommender.users.user_idx(request.user_id),
            request.now,
            state.item_idx,
            state.rating,
            state.timestamp,
        )
        excluded = [self.item_idx(item_id) for item_id in request.exclude.tolist()]
        known = np.array([i for i in excluded if i is not None], dtype=np.int32)
        pool = without(recommender.proposer.retrieve(batch), known)
        return batch, recommender.prerank(batch, pool)[1]
