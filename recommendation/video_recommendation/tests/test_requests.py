"""Requests: the history is what came strictly before, whole and in order."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from handmade import make_batch, make_log

from ml_platform.data.splits import next_event_queries
from video_recommendation.requests import batch_of_queries, single_request

LOG = make_log(
    [(0, 1, 4.0, 10), (0, 2, 5.0, 20), (0, 3, 1.0, 20), (0, 0, 3.0, 30), (2, 4, 2.0, 25)],
    n_users=3,
    n_items=5,
)


def test_the_requests_of_a_log_by_hand():
    batch = batch_of_queries(LOG, next_event_queries(LOG, 20, None))
    assert len(batch) == 3  # the two events of second 20 are one request
    assert batch.user_idx.tolist() == [0, 0, 2]
    assert batch.now.tolist() == [20, 30, 25]
    assert batch.ptr.tolist() == [0, 1, 4, 4]
    assert batch.item_idx.tolist() == [1, 1, 2, 3]
    assert batch.rating.tolist() == [4, 4, 5, 1]
    assert batch.timestamp.tolist() == [10, 10, 20, 20]
    assert batch.lengths.tolist() == [1, 3, 0]
    assert batch.owner.tolist() == [0, 1, 1, 1]
    assert batch.steps_back.tolist() == [0, 2, 1, 0]


def test_histories_are_strictly_before_and_whole(tiny_system):
    log = tiny_system.data.log
    batch = batch_of_queries(log, next_event_queries(log, 0, None))
    assert (batch.timestamp < batch.now[batch.owner]).all()
    for q in range(0, len(batch), 997):
        user, now = int(batch.user_idx[q]), batch.now[q]
        expected = log.item_idx[(log.user_idx == user) & (log.timestamp < now)]
        np.testing.assert_array_equal(batch.item_idx[batch.ptr[q] : batch.ptr[q + 1]], expected)


def test_slices_put_together_are_the_batch():
    batch = batch_of_queries(LOG, next_event_queries(LOG, 0, None))
    parts = [batch.slice(begin, begin + 1) for begin in range(len(batch))]
    for name in ("user_idx", "now", "item_idx", "rating", "timestamp", "steps_back"):
        joined = np.concatenate([getattr(part, name) for part in parts])
        np.testing.assert_array_equal(joined, getattr(batch, name))
    assert all(part.ptr[0] == 0 and part.ptr[-1] == len(part.item_idx) for part in parts)
    assert len(batch.slice(1, 1)) == 0


def test_a_live_request_is_the_request_of_the_log():
    batch = batch_of_queries(LOG, next_event_queries(LOG, 20, None)).slice(1, 2)
    live = single_request(0, 30, np.array([1, 2, 3]), np.array([4, 5, 1]), np.array([10, 20, 20]))
    for field in dataclasses.fields(live):
        got, expected = getattr(live, field.name), getattr(batch, field.name)
        np.testing.assert_array_equal(got, expected)
        assert got.dtype == expected.dtype, field.name


def test_a_live_request_without_history():
    live = single_request(-1, 5, np.empty(0), np.empty(0), np.empty(0))
    assert (len(live), live.lengths.tolist(), live.steps_back.tolist()) == (1, [0], [])


@pytest.mark.parametrize("times", [[10, 30], [10, 31], [30, 10]])
def test_an_event_that_is_not_before_the_request_is_refused(times):
    with pytest.raises(ValueError, match="not before the request at 30"):
        single_request(0, 30, np.array([1, 2]), np.array([4.0, 5.0]), np.array(times))


def test_arrays_of_other_lengths_are_refused():
    with pytest.raises(ValueError, match="history of 2, 1, 2 events"):
        single_request(0, 30, np.array([1, 2]), np.array([4.0]), np.array([1, 2]))


def test_handmade_batches_are_well_formed():
    batch = make_batch([[(1, 4.0, 10)], []], now=[20, 20])
    assert (batch.ptr.tolist(), batch.user_idx.tolist()) == ([0, 1, 1], [-1, -1])
