"""The feature store of one served version: written once a minute, read by every request.

In: the version's live counter, once a second from the keeper. Out: the rows of ``ITEM_ACTIVITY`` of
every item, as of the last full minute, in the online store; and for each request one MGET with the
rows of its candidates and its user.

The keeper asks every second and mostly nothing is to be done. Rows are written when a minute has
ended, when an event of an ended minute arrived late (its rows are corrected in place), and when the
store came back empty.

A request whose rows are mostly missing or stale is not served from defaults: a ranker that takes
every film for unseen ranks rubbish, and the counter in this process is a far better substitute. So
``read`` refuses, and the recommender's ladder goes one step down, named and counted. Single rows
are filled with defaults: that is what they are for.

Keys carry the version's prefix: a bundle brings its own training events, so two versions may count
differently. Where all counters come from one event log the prefix can go, and versions share rows.
"""

from __future__ import annotations

import logging
import threading
from typing import Protocol, runtime_checkable

import numpy as np

from feature_engineering.counters import EventCounter
from feature_engineering.feature_sets import NO_ROW, FeatureSet
from feature_engineering.online_store import CountRows, OnlineStore, count_nothing, read_together
from ml_platform.serving.stages import StageError
from ml_platform.serving.store import Store
from video_recommendation.data import Users
from video_recommendation.serving.protocol import Catalogue
from video_recommendation.stored_features import (
    ITEM_ACTIVITY,
    USER_PROFILE,
    StoredFeatures,
    item_activity,
    user_profile,
)

logger = logging.getLogger(__name__)

MAX_FILLED_SHARE = 0.5
"""Of the candidates of a request; with more defaults than rows the store is no help."""


class FeaturesUnusableError(StageError):
    """Most rows of a request are missing or stale: the materialiser is behind or has not begun."""


@runtime_checkable
class ReadsStoredFeatures(Protocol):
    """A recommender whose ``recommend`` takes ``features``, a ``FeatureReader``."""

    users: Users
    reads_stored_features: bool

    @property
    def catalogue(self) -> Catalogue:
        """The items whose rows are kept."""


class FeatureHome:
    """Writes and reads the stored features of one version. Thread-safe.

    Args:
        recommender: Gives the items and users whose rows are kept.
        store: Where rows live.
        prefix: Of all keys.
        count: Told of hits, missing and stale rows.
        profile_set: What a profile is; another one only to show what a second opinion does.
    """

    def __init__(
        self,
        recommender: ReadsStoredFeatures,
        store: Store,
        prefix: str,
        *,
        count: CountRows = count_nothing,
        profile_set: FeatureSet = USER_PROFILE,
    ) -> None:
        self._item_ids = np.asarray(recommender.catalogue.item_ids, dtype=np.int64)
        self._users = recommender.users
        self.items = OnlineStore(ITEM_ACTIVITY, store, namespace=prefix, count=count)
        self.profiles = OnlineStore(profile_set, store, namespace=prefix, count=count)
        self._written = (NO_ROW, -1)  # minute, events before it
        self._lock = threading.Lock()

    def materialise(self, counter: EventCounter, now: int) -> bool:
        """Brings the store up to the last full minute; cheap when it is there already.

        Args:
            counter: All events known by now.
            now: Unix seconds.

        Returns:
            Whether rows were written.

        Raises:
            StoreUnavailableError: The store is down; call again later.
        """
        with self._lock:
            everything, tick = np.arange(len(self._item_ids)), ITEM_ACTIVITY.tick(now)
            due = (tick, int(counter.before(everything, tick).sum()))
            if due == self._written and self.profiles.holds_rows():
                return False
            if not self.profiles.holds_rows():  # the first time, or after a restart of the store
                rows = user_profile(self._users, np.arange(len(self._users.user_ids)))
                self.profiles.write_many(self._users.user_ids, 0, rows)
            self.items.write_many(self._item_ids, tick, item_activity(counter, everything, tick))
            self._written = due
            return True

    def read(self, item_idx: np.ndarray, user_id: int, now: int) -> StoredFeatures:
        """See ``stored_features.FeatureReader``; one round trip.

        Raises:
            StoreUnavailableError: The store is down.
            FeaturesUnusableError: Most rows are missing or stale.
        """
        wanted = [(self.items, self._item_ids[item_idx]), (self.profiles, [user_id])]
        items, profiles = read_together(wanted, now)
        if items.filled.sum() > MAX_FILLED_SHARE * len(items):
            raise FeaturesUnusableError(
                f"of {len(items)} rows of {ITEM_ACTIVITY.label}, {items.missing.sum()} are missing "
                f"and {items.stale.sum()} stale"
            )
        as_of = np.where(items.filled, -1, items.timestamp)
        return StoredFeatures(items.values, profiles.values, as_of)
