from itertools import pairwise

import numpy as np
import pytest
from scipy import stats

from ml_platform.operations.interleaving import (
    NO_TEAM,
    TEAM_A,
    TEAM_B,
    credit,
    preference,
    team_draft,
)


def rows(*lists: list[int]) -> np.ndarray:
    return np.array(lists, dtype=np.int32)


def draft_one(a: list[int], b: list[int], k: int, coins: list[bool]) -> tuple[list, list]:
    """The pseudocode of the paper, one query, coins given: True means B goes first."""
    shown: list[int] = []
    teams: list[int] = []
    coin = iter(coins)
    while len(shown) < k and set(a) - set(shown) and set(b) - set(shown):
        n_a, n_b = teams.count(TEAM_A), teams.count(TEAM_B)
        first_b = next(coin) if n_a == n_b else n_b < n_a
        ranked = b if first_b else a
        shown.append(next(item for item in ranked if item not in shown))
        teams.append(TEAM_B if first_b else TEAM_A)
    return shown, teams


def test_by_hand() -> None:
    """The only two outcomes of a list of two whose first items differ, both with items 1 and 2."""
    got = team_draft(
        np.tile([1, 9], (400, 1)), np.tile([2, 9], (400, 1)), 2, np.random.default_rng(0)
    )
    pairs = list(zip(got.items.tolist(), got.team.tolist(), strict=True))
    assert ([1, 2], [TEAM_A, TEAM_B]) in pairs
    assert ([2, 1], [TEAM_B, TEAM_A]) in pairs
    assert all(sorted(items) == [1, 2] for items, _ in pairs)
    first = sum(items == [1, 2] for items, _ in pairs)
    assert stats.binomtest(first, 400).pvalue > 0.001


@pytest.mark.parametrize("k", [1, 2, 5, 8])
def test_every_outcome_is_one_that_the_papers_algorithm_has(k: int) -> None:
    rng = np.random.default_rng(1)
    for _ in range(60):
        a, b = rng.permutation(8)[:6].tolist(), rng.permutation(8)[:6].tolist()
        possible = [
            draft_one(a, b, k, [bool(code >> bit & 1) for bit in range(8)]) for code in range(256)
        ]
        got = team_draft(rows(a), rows(b), k, rng)
        shown = got.items[0][got.items[0] >= 0].tolist()
        teams = got.team[0][: len(shown)].tolist()
        assert (shown, teams) in possible


def test_no_item_twice_and_teams_within_one() -> None:
    rng = np.random.default_rng(2)
    a = np.stack([rng.permutation(30)[:10] for _ in range(200)]).astype(np.int32)
    b = np.stack([rng.permutation(30)[:10] for _ in range(200)]).astype(np.int32)
    got = team_draft(a, b, 10, rng)
    assert all(len(set(row)) == 10 for row in got.items.tolist())
    for place in range(1, 11):
        lead = (got.team[:, :place] == TEAM_A).sum(axis=1) - (got.team[:, :place] == TEAM_B).sum(
            axis=1
        )
        assert (np.abs(lead) <= 1).all()
        assert (lead == 0).all() or place % 2 == 1


def test_the_list_ends_where_a_ranker_has_nothing_left() -> None:
    got = team_draft(rows([1, -1, -1]), rows([1, 2, 3]), 3, np.random.default_rng(0))
    # Whoever goes first takes item 1, and A has nothing left after it.
    assert got.items.tolist() == [[1, -1, -1]]
    assert got.team[0, 1:].tolist() == [NO_TEAM, NO_TEAM]


def test_credit_by_hand() -> None:
    team = np.array([[0, 1, 1, 0], [1, 0, -1, -1]], dtype=np.int8)
    clicked = np.array([[True, True, True, False], [False, True, False, False]])
    assert credit(clicked, team).tolist() == [1.0, -1.0]


def test_a_click_on_nothing_is_refused() -> None:
    with pytest.raises(ValueError, match="position without an item"):
        credit(np.array([[True]]), np.array([[NO_TEAM]], dtype=np.int8))
    with pytest.raises(ValueError, match="shape"):
        credit(np.array([[True]]), np.array([[0, 1]], dtype=np.int8))


@pytest.mark.parametrize("user", ["random", "top_only", "relevant"])
def test_unbiased_where_the_rankers_are_equally_good(user: str) -> None:
    """Mean credit 0 for clicks blind to the ranker, and for two rankers of equal quality."""
    rng = np.random.default_rng(3)
    n = 6_000
    a, b = (np.argsort(rng.random((n, 20)), axis=1)[:, :10].astype(np.int32) for _ in range(2))
    shown = team_draft(a, b, 10, rng)
    chance = {
        "random": np.full((n, 10), 0.2),
        "top_only": np.tile(1 / np.arange(1, 11) ** 2, (n, 1)),
        "relevant": np.where(shown.items < 5, 0.5, 0.02),
    }[user]
    credits = credit(rng.random((n, 10)) < chance, shown.team)
    assert stats.ttest_1samp(credits, 0).pvalue > 0.001


def test_identical_rankers_share_the_credit() -> None:
    rng = np.random.default_rng(4)
    same = np.tile(np.arange(10, dtype=np.int32), (4_000, 1))
    shown = team_draft(same, same, 10, rng)
    assert (shown.items == same).all()
    first_item = credit(np.eye(1, 10, dtype=bool).repeat(4_000, axis=0), shown.team)
    assert stats.binomtest(int((first_item > 0).sum()), 4_000).pvalue > 0.001


def test_the_better_ranker_wins_more_the_better_it_is() -> None:
    """Credit per query rises with the share of queries on which B moves the relevant item up."""
    rng = np.random.default_rng(5)
    n = 3_000
    a = np.tile(np.arange(10, dtype=np.int32), (n, 1))
    found = []
    for share in (0.0, 0.3, 1.0):
        better = rng.random(n) < share
        b = np.where(better[:, None], np.roll(a, 2, axis=1), a)  # item 9 comes to place 2
        shown = team_draft(a, b, 5, rng)
        found.append(float(credit(shown.items == 9, shown.team).mean()))
    assert all(x < y for x, y in pairwise(found))
    assert abs(found[0]) < 0.02
    assert found[2] > 0.9  # only B can have picked it


def test_preference_sums_over_users_by_hand() -> None:
    credits = np.array([1.0, 1.0, -1.0, 2.0, 0.0, -1.0, 1.0])
    users = np.array([7, 7, 7, 8, 9, 5, 6])  # sums: 7 -> 1, 8 -> 2, 9 -> 0, 5 -> -1, 6 -> 1
    got = preference(credits, users)
    assert (got.wins_a, got.wins_b, got.ties) == (1, 3, 1)
    assert got.sign_p == pytest.approx(10 / 16)  # 2 * (1 + 4) / 16
    assert got.credit == pytest.approx(0.6)
    low, high = stats.ttest_1samp([1, 2, 0, -1, 1], 0).confidence_interval(0.95)
    assert (got.low, got.high) == pytest.approx((low, high))


def test_users_not_queries_decide() -> None:
    """One user with 100 clicks is one vote."""
    credits = np.ones(102)
    users = np.concatenate([np.zeros(100), [1, 2]]).astype(np.int64)
    assert preference(credits, users).sign_p == pytest.approx(0.25)
    assert preference(credits).sign_p < 1e-20


def test_false_positives_keep_the_promise() -> None:
    rng = np.random.default_rng(6)
    users = np.repeat(np.arange(100), 5)
    shared = rng.normal(size=(300, 100)).repeat(5, axis=1)  # a user's queries hang together
    noise = np.rint(shared + rng.normal(size=(300, 500)))
    wrong = np.mean([preference(row, users).sign_p < 0.05 for row in noise])
    t_wrong = np.mean([preference(row, users).credit_p < 0.05 for row in noise])
    assert wrong < 0.09  # 5% and three standard deviations of 300 runs
    assert 0.015 < t_wrong < 0.09


def test_bad_input_is_refused() -> None:
    rng = np.random.default_rng(0)
    with pytest.raises(ValueError, match="two lists a query"):
        team_draft(rows([1]), rows([1], [2]), 1, rng)
    with pytest.raises(ValueError, match="k must be"):
        team_draft(rows([1]), rows([1]), 0, rng)
    with pytest.raises(ValueError, match="nothing can be said"):
        preference(np.zeros(50))
    with pytest.raises(ValueError, match="users has shape"):
        preference(np.ones(3), np.array([1, 2]))
