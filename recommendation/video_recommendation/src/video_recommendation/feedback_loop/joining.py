"""From two logs to training rows: which impression was watched, and is it too early to tell?

In: the impressions of the request log and the events of the event log, both up to now. Out:
``TrainingRows``, one for every impression, and ``JoinCounts``, in which every event and every
impression is found again: nothing is dropped without a number.

Whose event is it? The client makes an event's id from what it was shown, "request/item/kind", so a
late event finds its own impression even where the item was shown again since, and a retry is a
duplicate and not a second watch. Guessing by (user, item, time) would credit the wrong place.

When is an impression a negative? A watch is known minutes or a day after its impression, so "no
event yet" means little for a young row. Our rule: a row younger than the attribution window is
*immature* and is left out of training, watched or not; it comes with the next day's rows. To keep
the young positives and drop only the young negatives would teach that the newest items are always
watched; to take the young negatives at their word would teach the opposite. The alternative is to
model the delay and weigh young rows by it (Chapelle, "Modeling Delayed Feedback in Display
Advertising", KDD 2014): worth it where a window that catches nearly all feedback lasts weeks and
models must learn within hours. Here twelve hours catch 96% of the watches, so waiting is cheap.

An event that comes after its row has matured is counted as late and corrects the row from the next
training on: rows are joined anew from the whole logs each time. What remains is a small deficit of
positives in rows just past the window.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields

import numpy as np

from video_recommendation.feedback_loop.logs import Impressions, LoggedWatch


@dataclass(frozen=True)
class JoinCounts:
    """Where every event and every impression went.

    Attributes:
        events: All that were read.
        first: The first event of an impression: it makes the row a positive.
        repeated: A further event of the same impression (a rating after its watch).
        duplicates: The same event id read again (a log that was shipped twice).
        organic: Without a request: the user found the item without a list.
        unknown_request: Names a request that the request log does not have.
        not_shown: Names an item that its request did not show.
        late: Of ``first``: came after the attribution window.
        impressions, mature, immature: Rows.
        positives: Watched rows among the mature ones.
        immature_positives: Watched rows that are nevertheless left out.
    """

    events: int
    first: int
    repeated: int
    duplicates: int
    organic: int
    unknown_request: int
    not_shown: int
    late: int
    impressions: int
    mature: int
    immature: int
    positives: int
    immature_positives: int

    def check(self) -> None:
        """Makes sure that every event, row and label has exactly one place.

        Raises:
            ValueError: with all counts, when one went missing.
        """
        placed = (self.first, self.repeated, self.duplicates, self.organic)
        lost = self.events - sum(placed) - self.unknown_request - self.not_shown
        rows = self.impressions - self.mature - self.immature
        labels = self.first - self.positives - self.immature_positives
        if lost or rows or labels:
            counts = {field.name: getattr(self, field.name) for field in fields(self)}
            raise ValueError(f"the join lost {lost} events, {rows} rows, {labels} labels: {counts}")


@dataclass(frozen=True)
class TrainingRows:
    """One row for each impression, in the order of the log.

    Attributes:
        impressions: What was shown.
        watched: bool[R], as far as known.
        rating: f32[R], 0 where none is known.
        mature: bool[R], older than the window: may be trained on.
        counts: The books.
    """

    impressions: Impressions
    watched: np.ndarray
    rating: np.ndarray
    mature: np.ndarray
    counts: JoinCounts

    @property
    def trainable(self) -> np.ndarray:
        """bool[R]: mature, and the ranker's features are known."""
        return self.mature & ~np.isnan(self.impressions.features).any(axis=1)


def join(
    impressions: Impressions, events: Sequence[LoggedWatch], *, as_of: int, window_s: int
) -> TrainingRows:
    """Labels every impression with what is known at ``as_of``.

    Args:
        impressions: All that were shown before ``as_of``.
        events: All received before ``as_of``, in the order of the log.
        as_of: Unix seconds, the moment of training.
        window_s: Attribution window: a row matures at this age.
    """
    row_of = impressions.row_of
    requests = set(impressions.request_ids)
    watched = np.zeros(len(impressions), dtype=np.bool_)
    rating = np.zeros(len(impressions), dtype=np.float32)
    tally = dict.fromkeys(
        ("first", "repeated", "duplicates", "organic", "unknown_request", "not_shown", "late"), 0
    )
    seen: set[str] = set()
    for event in events:
        if event.event_id in seen:
            tally["duplicates"] += 1
            continue
        seen.add(event.event_id)
        row = row_of.get((event.request_id or "", event.item_id))
        if row is None:
            tally[_homeless(event, requests)] += 1
            continue
        tally["repeated" if watched[row] else "first"] += 1
        if not watched[row] and event.received_at - impressions.shown_at[row] >= window_s:
            tally["late"] += 1
        watched[row] = True
        rating[row] = event.rating if event.rating is not None else rating[row]
    mature = as_of - impressions.shown_at >= window_s
    counts = JoinCounts(
        events=len(events),
        impressions=len(impressions),
        mature=int(mature.sum()),
        immature=int((~mature).sum()),
        positives=int((mature & watched).sum()),
        immature_positives=int((~mature & watched).sum()),
        **tally,
    )
    counts.check()
    return TrainingRows(impressions, watched, rating, mature, counts)


def _homeless(event: LoggedWatch, requests: set[str]) -> str:
    """Why an event has no impression."""
    if event.request_id is None:
        return "organic"
    return "not_shown" if event.request_id in requests else "unknown_request"
