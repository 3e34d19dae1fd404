"""What the service needs from a recommender: one batched call, fresh state arrays, uploads.

The service never looks at models. It keeps the users' states, gathers the requests of several users
into one ``RequestBatch`` and gets as many slates back. Shapes: B requests, k videos of a slate,
R videos that a client already holds.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np

from shorts_recommendation.config import Config
from shorts_recommendation.counters import CounterSnapshot, VideoCounters
from shorts_recommendation.items import ItemTable
from shorts_recommendation.log import Catalogue, Users
from shorts_recommendation.new_video import NewVideo
from shorts_recommendation.requests import RequestBatch
from shorts_recommendation.state import UserStates


class Slate(Protocol):
    """What one request gets: videos best first, in the order in which they are to be played."""

    @property
    def video_idx(self) -> np.ndarray:
        """i32[k]; shorter where the catalogue has no more."""

    @property
    def value(self) -> np.ndarray:
        """f32[k], comparable within one slate only."""

    @property
    def sources(self) -> np.ndarray:
        """u8[k], bit set: which sources proposed it."""

    @property
    def reasons(self) -> Sequence[str]:
        """K names of why it stands at its place: "relevance", "fresh", ..."""

    @property
    def propensity(self) -> np.ndarray:
        """f32[k], probability with which this video was chosen for this place."""

    @property
    def stage_ms(self) -> dict[str, float]:
        """Milliseconds of the stages of the call that made it; shared by the batch."""


class Recommender(Protocol):
    """The request path of one bundle. Called from one thread at a time."""

    version: str
    """Names the bundle; derived state in the store is keyed by it."""
    data_end: int
    """Unix seconds: where the server's clock starts."""
    catalogue: Catalogue
    users: Users
    config: Config
    items: ItemTable
    """The catalogue as models read it; like ``catalogue`` replaced by a larger one on uploads."""

    def new_states(self, capacity: int) -> UserStates:
        """States after the training log: rows 0..U-1 of the bundle's users, empty ones after.

        Args:
            capacity: Rows in all, at least U. Rows from U on are for users that come later; their
                requests arrive with ``user_idx`` -1.
        """

    def new_counters(self) -> VideoCounters:
        """The videos' counters after the training log, as an object of the caller's own."""

    def source_names(self) -> Sequence[str]:
        """Names of the bits of ``Slate.sources``."""

    def prepare(self, snapshot: CounterSnapshot) -> None:
        """Makes what depends on the moment alone; free for the snapshot of the last call."""

    def encode(self, batch: RequestBatch) -> np.ndarray:
        """Histories as f32[B, d]; changes only with an event, so the service keeps it by user."""

    def recommend(
        self,
        batch: RequestBatch,
        snapshot: CounterSnapshot,
        k: int,
        *,
        recent: np.ndarray,
        encoded: np.ndarray,
    ) -> Sequence[Slate]:
        """The next k videos of B requests.

        Args:
            batch: What is known of the users.
            snapshot: The published counters.
            k: Videos wanted.
            recent: i32[B, R], -1 padded: videos that the client still holds. They must not appear,
                and the sequence goes on after them.
            encoded: f32[B, d] of ``encode``.
        """

    def count_exposures(self, videos: np.ndarray) -> None:
        """Videos i32[n] were shown: the uploads' budget between two snapshots. From any thread."""

    def add_videos(self, videos: Sequence[NewVideo]) -> list[int]:
        """Takes uploads: their vectors go into the index and they join the fresh source.

        Returns:
            Their ``video_idx``, the next free ones.

        Raises:
            ValueError: One of them is impossible; nothing has changed.
        """

    def reseed(self, stream: int) -> None:
        """Draw anew: worker ``stream`` must not explore what the others do, nor after a restart."""

    def warm_up(self) -> None:
        """Answers a few requests, so that the first real one is not its slowest."""


SlateLike = Any
"""A slate as an implementation makes it; structurally a `Slate`."""
