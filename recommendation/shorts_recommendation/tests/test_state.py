from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from handmade import START_S, make_catalogue, make_items_of, make_users

from shorts_recommendation.config import StateConfig
from shorts_recommendation.requests import OUTCOMES
from shorts_recommendation.state import Outcomes, UserStates, event_signal

CONFIG = StateConfig(history_length=4, seen_length=6)


@pytest.fixture
def states() -> UserStates:
    return UserStates(make_users(), make_items_of(make_catalogue()), CONFIG)


def _outcomes(n: int = 1, **values: Any) -> Outcomes:
    flags = {
        name: np.full(n, values.get(name, False))
        for name in ("long_view", "skip", "like", "share", "follow")
    }
    return Outcomes(watch_s=np.full(n, values.get("watch_s", 5.0), dtype=np.float32), **flags)


def _watch(states: UserStates, video: int, at_s: int, user: int = 0, **values: Any) -> None:
    states.apply(np.array([user]), np.array([video]), _outcomes(**values), np.array([at_s]))


def test_history_is_oldest_first_and_padded_on_the_left(states: UserStates) -> None:
    for number, video in enumerate((7, 8, 9)):
        _watch(states, video, START_S + number)
    batch = states.batch(np.array([0, 1]), np.array([START_S + 10] * 2))
    assert batch.history.tolist() == [[-1, 7, 8, 9], [-1, -1, -1, -1]]
    assert batch.history_position[0].tolist() == [0, 0, 1, 2]


def test_the_ring_keeps_the_last_events(states: UserStates) -> None:
    for number, video in enumerate((1, 2, 3, 4, 5, 6)):
        _watch(states, video, START_S + number)
    batch = states.batch(np.array([0]), np.array([START_S + 10]))
    assert batch.history[0].tolist() == [3, 4, 5, 6]
    assert sorted(batch.seen[0].tolist()) == [1, 2, 3, 4, 5, 6]


def test_recent_positives_are_newest_first(states: UserStates) -> None:
    _watch(states, 1, START_S, long_view=True)
    _watch(states, 2, START_S + 1, skip=True)
    _watch(states, 3, START_S + 2, long_view=True)
    batch = states.batch(np.array([0]), np.array([START_S + 3]))
    assert batch.recent_positive[0, :3].tolist() == [3, 1, -1]


def test_signal_by_hand() -> None:
    rows = np.array(
        [[1.0, 1, 0, 0, 0], [1.0, 1, 0, 1, 1], [0.05, 0, 1, 0, 0], [0.3, 0, 0, 0, 0]], np.float32
    )
    assert event_signal(rows).tolist() == pytest.approx([1.0, 3.0, -0.5, 0.3])
    assert rows.shape[1] == len(OUTCOMES)


def test_the_session_embedding_is_a_decayed_sum(states: UserStates) -> None:
    _watch(states, 1, START_S, long_view=True)
    _watch(states, 2, START_S + 5, skip=True)
    content = states.items.content
    expected = 0.8 * content[1] - 0.5 * content[2]
    batch = states.batch(np.array([0]), np.array([START_S + 6]))
    np.testing.assert_allclose(batch.session[0], expected, rtol=1e-5)
    np.testing.assert_allclose(batch.user[0, :32], expected, rtol=1e-5)


def test_a_new_session_starts_at_zero_and_keeps_the_taste(states: UserStates) -> None:
    _watch(states, 1, START_S, long_view=True)
    later = START_S + CONFIG.session_gap_s + 10
    batch = states.batch(np.array([0]), np.array([later]))
    assert not batch.session.any()
    assert batch.user[0, 32:64].any()
    assert batch.context[0, 15] == 1  # a new session
    _watch(states, 2, later, long_view=True)
    np.testing.assert_allclose(states.session[0], states.items.content[2], rtol=1e-6)
    assert states.n_sessions[0] == 2
    assert states.place[0, 1] == 0


def test_asking_changes_nothing(states: UserStates) -> None:
    _watch(states, 1, START_S, long_view=True)
    before = {n: a.copy() for n, a in vars(states).items() if isinstance(a, np.ndarray)}
    states.batch(np.array([0, 3]), np.array([START_S + 99_999] * 2))
    for name, array in before.items():
        np.testing.assert_array_equal(getattr(states, name), array, err_msg=name)


def test_the_tag_profile_adds_signals_by_tag(states: UserStates) -> None:
    _watch(states, 0, START_S, long_view=True)
    _watch(states, 1, START_S + 1, skip=True)
    expected = np.zeros(60)
    for tag in states.items.tags[0]:
        if tag >= 0:
            expected[tag] += 1.0
    expected *= CONFIG.profile_decay
    for tag in states.items.tags[1]:
        if tag >= 0:
            expected[tag] -= 0.5
    np.testing.assert_allclose(states.tag_profile[0], expected, rtol=1e-5)


def test_context_counts_the_session(states: UserStates) -> None:
    _watch(states, 1, START_S, skip=True)
    _watch(states, 2, START_S + 4, skip=True)
    context = states.batch(np.array([0]), np.array([START_S + 8])).context[0]
    assert context[4] == pytest.approx(np.log(3))
    assert context[7] == pytest.approx(2 / 5)
    assert context[30] == 1.0


def test_a_user_twice_in_one_call_is_refused(states: UserStates) -> None:
    with pytest.raises(ValueError, match="appears twice"):
        states.apply(np.array([1, 1]), np.array([2, 3]), _outcomes(2), np.array([START_S] * 2))


def test_a_copy_has_room_and_a_future_of_its_own(states: UserStates) -> None:
    _watch(states, 5, START_S)
    twin = states.copy(40)
    _watch(twin, 6, START_S + 1)
    assert states.n_events[0] == 1
    assert twin.n_events[0] == 2
    assert twin.batch(np.array([39]), np.array([START_S])).history[0].tolist() == [-1] * 4
    with pytest.raises(ValueError, match="capacity"):
        states.copy(3)


def test_too_many_tags_are_refused() -> None:
    catalogue = make_catalogue()
    catalogue.tags[0, 0] = 60
    with pytest.raises(ValueError, match="60 tags"):
        UserStates(make_users(), make_items_of(catalogue), CONFIG)
