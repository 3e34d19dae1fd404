"""Windows and histories by hand, the split, full ranking, and every baseline's first principles."""

import numpy as np
import pytest

from ml_algorithms.sequence_models.baselines import (
    ease,
    fading,
    ials,
    markov_chain,
    popularity,
    transition_counts,
)
from ml_algorithms.sequence_models.evaluation import (
    leave_last_two_out,
    rank_all,
    sampled_hit_rate,
)
from ml_algorithms.sequence_models.sequences import (
    Histories,
    frequent_items,
    histories_of,
    training_windows,
)
from ml_platform.data.interactions import InteractionLog
from ml_platform.data.splits import leave_last_out


def log_of(*users: list[int], n_items: int = 6) -> InteractionLog:
    """Users as lists of items; event number n of a user happens at second 10 n."""
    lengths = [len(user) for user in users]
    item_idx = np.array([item for user in users for item in user], dtype=np.int32)
    return InteractionLog(
        user_ptr=np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64),
        item_idx=item_idx,
        rating=np.ones(len(item_idx), dtype=np.float32),
        timestamp=np.concatenate([10 * np.arange(n) for n in lengths]).astype(np.int64),
        user_ids=np.arange(len(users), dtype=np.int64),
        item_ids=np.arange(n_items, dtype=np.int64),
    )


def test_windows_by_hand() -> None:
    windows = training_windows(log_of([0, 1, 2, 3, 4], [5, 0], [3]), 3)
    expected = [[1, 2, 3, 4], [6, 6, 0, 1], [6, 6, 5, 0]]
    assert windows.items.tolist() == expected
    assert windows.times[1].tolist() == [0, 0, 0, 10]
    assert windows.n_targets == 3 + 1 + 1  # every event but a user's first


def test_every_event_but_the_first_is_a_target_once() -> None:
    log = log_of(*[list(range(n)) for n in (2, 3, 7, 12)], n_items=12)
    windows = training_windows(log, 3)
    targets = windows.items[:, 1:][windows.items[:, :-1] < 12]
    expected = np.concatenate([np.arange(1, n) for n in (2, 3, 7, 12)])
    assert sorted(targets) == sorted(expected)
    assert len(training_windows(log, 3, every_window=False)) == 4


def test_windows_refuse_what_they_cannot_cut() -> None:
    with pytest.raises(ValueError, match="length must be at least 1"):
        training_windows(log_of([0, 1]), 0)
    with pytest.raises(ValueError, match="no user has two events"):
        training_windows(log_of([0], [1]), 3)


def test_padded_histories_by_hand() -> None:
    log = log_of([0, 1, 2, 3], [5, 4])
    queries, _ = leave_last_out(log)
    histories = histories_of(log, queries)
    items, times = histories.padded(2)
    assert items.tolist() == [[1, 2], [6, 5]]
    assert times.tolist() == [[10, 20, 30], [0, 0, 10]]
    rows, seen = histories.seen()
    assert list(zip(rows, seen, strict=True)) == [(0, 0), (0, 1), (0, 2), (1, 5)]
    alone = histories.batch(1, 2)
    assert alone.items.tolist() == [5]
    assert alone.ptr.tolist() == [0, 1]


def test_an_empty_history_is_padding_at_the_time_of_asking() -> None:
    none = np.zeros(0, dtype=np.int64)
    histories = Histories(np.array([0, 0]), none, none, np.array([99]), 6)
    items, times = histories.padded(2)
    assert items.tolist() == [[6, 6]]
    assert times.tolist() == [[99, 99, 99]]


def test_rare_items_leave_and_the_rest_is_numbered_anew() -> None:
    rest = frequent_items(log_of([0, 3, 5], [3, 5, 1]), 2)
    assert rest.item_ids.tolist() == [3, 5]
    assert rest.item_idx.tolist() == [0, 1, 0, 1]


def test_the_last_event_is_tested_and_the_one_before_validates() -> None:
    split = leave_last_two_out(log_of([0, 1, 2, 3], [4, 5, 0]))
    assert split.test.relevant_items.tolist() == [3, 0]
    assert split.validation.relevant_items.tolist() == [2, 5]
    assert split.train.item_idx.tolist() == [0, 1, 4]
    assert split.test.histories.items.tolist() == [0, 1, 2, 4, 5]  # validation target included


def test_ranking_by_hand() -> None:
    """Scores fall with the item number; the user has seen items 0 and 2, the target is 3."""
    split = leave_last_two_out(log_of([0, 2, 3]))
    scores = -np.arange(6, dtype=np.float32)[None]
    ranking = rank_all(lambda histories: np.repeat(scores, len(histories), 0), split.test, k=2)
    assert ranking.items.tolist() == [[1, 3]]
    assert ranking.ndcg[0] == pytest.approx(1 / np.log2(3))
    seen_too = rank_all(
        lambda histories: np.repeat(scores, len(histories), 0), split.test, k=2, mask_seen=False
    )
    assert seen_too.hit_rate[0] == 0.0


def test_a_sampled_rank_is_kinder_than_a_full_one() -> None:
    """The target is 6th of 40 unseen: never in the top 3, yet often among 10 sampled items."""
    users = [[0, 1, 7]] * 200
    split = leave_last_two_out(log_of(*users, n_items=42))
    scores = -np.arange(42, dtype=np.float32)[None]
    scorer = lambda histories: np.repeat(scores, len(histories), 0)  # noqa: E731
    assert rank_all(scorer, split.test, k=3).hit_rate.mean() == 0.0
    sampled = sampled_hit_rate(scorer, split.test, n_sampled=10, k=3).mean()
    assert sampled > 0.8  # of 5 better ones among 39, at most two drawn
    every = sampled_hit_rate(scorer, split.test, n_sampled=39, k=3).mean()
    assert every == 0.0


def test_popularity_counts_and_recent_popularity_counts_late() -> None:
    log = log_of([0, 1, 1, 2], [1, 0, 2, 2])
    histories = leave_last_two_out(log_of([0, 1, 2])).test.histories
    assert popularity(log)(histories)[0].tolist() == [2, 3, 3, 0, 0, 0]
    assert popularity(log, since=20)(histories)[0].tolist() == [0, 1, 3, 0, 0, 0]


def test_markov_chain_by_hand() -> None:
    log = log_of([0, 1, 0, 2], [0, 1])
    assert transition_counts(log).toarray()[0, :3].tolist() == [0, 2, 1]
    none = np.zeros(0, dtype=np.int64)
    one = Histories(np.array([0, 1]), np.array([0]), np.array([0]), np.array([9]), 6)
    scores = markov_chain(log, smoothing=3.0)(one)[0]
    # p_0, p_1, p_2 are 3/6, 2/6, 1/6; item 0 was left three times.
    assert scores[:3].tolist() == pytest.approx([1.5 / 6, 3 / 6, 1.5 / 6])
    empty = Histories(np.array([0, 0]), none, none, np.array([9]), 6)
    assert markov_chain(log, smoothing=3.0)(empty)[0, :3].tolist() == pytest.approx(
        [3 / 6, 2 / 6, 1 / 6]
    )
    with pytest.raises(ValueError, match="smoothing must be positive"):
        markov_chain(log, smoothing=0.0)


def test_fading_halves_by_age_and_changes_ease() -> None:
    two = Histories(
        np.array([0, 3, 4]), np.array([0, 1, 2, 0]), np.zeros(4, int), np.array([9, 9]), 6
    )
    assert fading(two, 1.0).tolist() == [0.25, 0.5, 1.0, 1.0]
    with pytest.raises(ValueError, match="half_life must be positive"):
        fading(two, 0.0)
    log = log_of([0, 1, 2], [0, 1], [2, 3], [2, 4], [1, 5])
    plain, faded = ease(log, reg=1.0)(two), ease(log, reg=1.0, half_life=0.5)(two)
    assert faded[0, 3] / faded[0, 5] > plain[0, 3] / plain[0, 5]  # item 2 is the newest
    np.testing.assert_allclose(plain[1], faded[1])


def test_ials_prefers_the_items_of_like_users() -> None:
    log = log_of(*[[0, 1, 2]] * 8, *[[3, 4, 5]] * 8)
    one = Histories(np.array([0, 1]), np.array([0]), np.array([0]), np.array([9]), 6)
    scores = ials(log, factors=2, unobserved_weight=0.1, reg=0.01)(one)[0]
    assert scores[[1, 2]].min() > scores[[3, 4, 5]].max()
