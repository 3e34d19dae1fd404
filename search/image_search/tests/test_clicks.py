"""The simulated click log: its truth by hand, its policy, its statistics, its order of time."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from scipy import stats

from image_search.catalogue import gallery_catalogue
from image_search.clicks.audience import Audience, draw_audience
from image_search.clicks.log import ClickLog, Windows
from image_search.clicks.policy import draw_pages, pools
from image_search.clicks.simulate import (
    Clicks,
    own_rows,
    picture_rows,
    query_pictures,
    simulate_clicks,
)
from image_search.clicks.truth import (
    BASE,
    CHARM,
    FRESH,
    INTEREST,
    PRICE,
    QUALITY,
    STYLE,
    VISUAL,
    Truth,
    mean_distance,
    price_places,
)
from image_search.config import ClicksConfig
from image_search.images.image_set import QUERY, ImageSet, owner_rows

SMALL = ClicksConfig(users=60, pages=1200, page=5, pool=30, queries=25, test_queries=25)


@pytest.fixture(scope="module")
def made(tiny: ImageSet) -> Clicks:
    catalogue = gallery_catalogue(tiny, owner_rows(tiny).gallery, 0)
    return simulate_clicks(tiny, catalogue, SMALL, seed=7)


def hand_made() -> Truth:
    """Two items, one user, one query; every number below is easy."""
    return Truth(
        audience=Audience(
            taste=np.array([[1, 0]], np.float32),
            price_level=np.array([1.0], np.float32),
            interest=np.array([[0.75, 0.25]], np.float32),
            activity=np.array([1.0], np.float32),
        ),
        query_visual=np.array([[1, 0]], np.float32),
        item_visual=np.array([[1.0, 0], [0.45, 1]], np.float32),
        item_style=np.array([[1, 0], [0, 1]], np.float32),
        item_constant=np.array([0.1, -0.2], np.float32),
        price_place=np.array([0.0, 1.0], np.float32),
        item_class=np.array([0, 1]),
        age_days=np.array([30.0, 0.0], np.float32),
        now_s=10 * 86_400.0,
        examination=np.array([1.0, 0.5]),
    )


class TestTruth:
    def test_the_utility_is_the_sum_that_the_module_says(self) -> None:
        found = hand_made().utility(np.array([0]), np.array([0]), np.array([[0, 1]]))
        first = BASE + VISUAL * 0.55 + 0.1 + FRESH * 0.5 - PRICE * 1 + STYLE * np.sqrt(2) * 1
        second = BASE + 0 - 0.2 + FRESH * 1 - PRICE * 0 + 0
        expected = [first + INTEREST * 0.25, second - INTEREST * 0.25]
        assert found[0] == pytest.approx(expected, abs=1e-5)

    def test_an_item_was_fresher_a_month_ago(self) -> None:
        truth = hand_made()
        ask = (np.array([0]), np.array([0]), np.array([[0]]))
        earlier = truth.utility(*ask, time_s=np.array([0.0]))  # ten days before the end
        now = truth.utility(*ask)
        assert earlier - now == pytest.approx(FRESH * (2 ** (-20 / 30) - 0.5), abs=1e-5)

    def test_nobody_known_has_no_taste_and_the_mean_price_term(self) -> None:
        truth = hand_made()
        found = truth.utility(np.array([-1]), np.array([0]), np.array([[0]]))
        expected = BASE + VISUAL * 0.55 + 0.1 + FRESH * 0.5 - PRICE * np.sqrt(2 / np.pi)
        assert found[0, 0] == pytest.approx(expected, abs=1e-5)

    @pytest.mark.parametrize("place", [-2.0, 0.0, 0.7])
    def test_the_mean_distance_is_that_of_many_draws(self, place: float) -> None:
        drawn = stats.norm.ppf((np.arange(20_000) + 0.5) / 20_000)
        assert mean_distance(np.array([place]))[0] == pytest.approx(
            np.abs(place - drawn).mean(), abs=1e-3
        )

    def test_expected_clicks_weigh_by_place(self) -> None:
        truth = hand_made()
        users, queries = np.array([0, 0]), np.array([0, 0])
        pages = np.array([[0, 1], [1, 0]])
        drawn = truth.attraction(users, queries, pages)
        expected = [drawn[0, 0] + drawn[0, 1] / 2, drawn[1, 0] + drawn[1, 1] / 2]
        assert truth.expected_clicks(users, queries, pages) == pytest.approx(expected)

    def test_no_candidate_is_of_no_use_and_comes_last(self) -> None:
        truth = hand_made()
        rows = np.array([[-1, 1, 0]])
        assert truth.utility(np.array([0]), np.array([0]), rows)[0, 0] == -np.inf
        assert truth.oracle(np.array([0]), np.array([0]), rows).tolist() == [[2, 1, 0]]

    def test_lists_must_fit_users(self) -> None:
        with pytest.raises(ValueError, match="1 users, 1 queries, 2 lists"):
            hand_made().utility(np.array([0]), np.array([0]), np.zeros((2, 1), dtype=int))

    def test_the_oracle_gets_more_clicks_than_any_shuffled_order(self, made: Clicks) -> None:
        truth, log = made.truth, made.log
        users, queries, rows = log.user_idx[:50], log.query_row[:50], log.shown[:50]
        best = np.take_along_axis(rows, truth.oracle(users, queries, rows), axis=1)
        shuffled = np.random.default_rng(0).permuted(rows, axis=1)
        most = truth.expected_clicks(users, queries, best)
        assert (most >= truth.expected_clicks(users, queries, shuffled) - 1e-9).all()

    def test_price_places_are_around_each_class_median(self, tiny: ImageSet) -> None:
        catalogue = gallery_catalogue(tiny, owner_rows(tiny).gallery, 0)
        places = price_places(catalogue)
        for kind in range(5):
            assert np.median(places[catalogue.label == kind]) == pytest.approx(0, abs=0.2)

    def test_quality_and_charm_have_their_weights(self, made: Clicks) -> None:
        spread = made.truth.item_constant.std()
        assert spread == pytest.approx(np.hypot(QUALITY, CHARM), rel=0.2)


class TestLog:
    def test_pages_stand_in_the_order_of_time_and_in_three_windows(self, made: Clicks) -> None:
        log = made.log
        assert (np.diff(log.time_s) >= 0).all()
        parts = np.concatenate([log.train, log.validation, log.test])
        assert parts.tolist() == list(range(len(log)))
        assert log.windows == Windows(21 * 86_400.0, 24 * 86_400.0, 28 * 86_400.0)

    def test_test_days_ask_with_test_pictures_and_no_other_day_does(
        self, made: Clicks, tiny: ImageSet
    ) -> None:
        log = made.log
        assert (tiny.split[log.query_row[log.test]] == QUERY).all()
        before = np.concatenate([log.train, log.validation])
        assert (tiny.split[log.query_row[before]] != QUERY).all()

    def test_no_item_stands_twice_on_a_page_or_before_it_was_listed(self, made: Clicks) -> None:
        log = made.log
        ordered = np.sort(log.shown, axis=1)
        assert (ordered[:, 1:] != ordered[:, :-1]).all()
        assert (made.truth.age_at(log.shown, log.time_s) >= 0).all()

    def test_what_was_bought_was_clicked(self, made: Clicks) -> None:
        assert made.log.purchased.any()
        assert not (made.log.purchased & ~made.log.clicked).any()

    def test_clicks_are_as_frequent_as_the_truth_says(self, made: Clicks) -> None:
        log, truth = made.log, made.truth
        drawn = truth.attraction(log.user_idx, log.query_row, log.shown, log.time_s)
        expected = (drawn * log.examination).sum(axis=0)
        noise = np.sqrt((drawn * log.examination).sum(axis=0))
        assert (np.abs(log.clicked.sum(axis=0) - expected) < 4 * noise).all()

    def test_sessions_belong_to_one_person_and_last_minutes(self, made: Clicks) -> None:
        log = made.log
        for session in np.unique(log.session)[:40]:
            own = log.session == session
            assert len(np.unique(log.user_idx[own])) == 1
            assert np.ptp(log.time_s[own]) < 3600

    def test_the_same_seed_gives_the_same_log_and_another_another(self, tiny: ImageSet) -> None:
        catalogue = gallery_catalogue(tiny, owner_rows(tiny).gallery, 0)
        logs = [simulate_clicks(tiny, catalogue, SMALL, seed).log for seed in (1, 1, 2)]
        assert np.array_equal(logs[0].shown, logs[1].shown)
        assert np.array_equal(logs[0].clicked, logs[1].clicked)
        assert not np.array_equal(logs[0].shown, logs[2].shown)

    def test_before_cuts_strictly(self, made: Clicks) -> None:
        moment = made.log.time_s[100]
        assert len(made.log.before(moment)) == 100

    def test_history_is_every_click(self, made: Clicks) -> None:
        users, rows, time_s = made.log.history()
        assert len(users) == len(rows) == made.log.clicked.sum()
        assert (np.diff(time_s) >= 0).all()
        page, place = np.argwhere(made.log.clicked)[0]
        assert (users[0], rows[0]) == (made.log.user_idx[page], made.log.shown[page, place])

    def test_a_saved_log_comes_back(self, made: Clicks, tmp_path: Path) -> None:
        made.log.save(tmp_path / "log.npz")
        kept = ClickLog.load(tmp_path / "log.npz")
        assert kept.windows == made.log.windows
        assert kept.synthetic
        assert np.array_equal(kept.clicked, made.log.clicked)

    def test_pages_out_of_order_are_refused(self, made: Clicks) -> None:
        with pytest.raises(ValueError, match="order of time"):
            replace(made.log, time_s=made.log.time_s[::-1])


class TestPolicy:
    def test_without_noise_and_exploration_the_page_is_the_nearest_listed(self) -> None:
        truth = hand_made()
        items = np.array([[1, 0], [0.8, 0.6], [0.6, 0.8], [0, 1]], np.float32)
        old = replace(truth, age_days=np.array([90, 90, 90, 90], np.float32))
        own = np.array([0])
        pool = pools(np.array([[1, 0]], np.float32), items, own, 3)
        config = ClicksConfig(page=2, pool=3, policy_noise=0, explore=0)
        rng = np.random.default_rng(0)
        arguments = (np.array([0]), np.array([0.0]), pool, own)
        assert draw_pages(*arguments, old, config, rng).tolist() == [[1, 2]]
        late = replace(truth, age_days=np.array([90, 5, 90, 90], np.float32))  # listed on day 5
        assert draw_pages(*arguments, late, config, rng).tolist() == [[2, 3]]

    def test_too_few_listed_items_are_refused(self) -> None:
        young = replace(hand_made(), age_days=np.array([1, 1], np.float32))
        own = np.array([-1])
        pool = pools(np.eye(2, dtype=np.float32)[:1], np.eye(2, dtype=np.float32), own, 2)
        config = ClicksConfig(page=1, pool=2, explore=0)
        with pytest.raises(ValueError, match="fewer than 1 items"):
            draw_pages(
                np.array([0]), np.array([0.0]), pool, own, young, config, np.random.default_rng(0)
            )

    def test_exploration_shows_what_the_old_embedding_would_not(self, tiny: ImageSet) -> None:
        catalogue = gallery_catalogue(tiny, owner_rows(tiny).gallery, 0)
        shown = []
        for share in (0.0, 0.5):
            config = SMALL.model_copy(update={"explore": share, "pool": 15})
            log = simulate_clicks(tiny, catalogue, config, seed=3).log
            asked = log.query_row == log.query_row[0]
            shown.append(len(np.unique(log.shown[asked])))
        assert shown[0] <= 15 < shown[1]

    def test_a_picture_never_finds_itself(self, tiny: ImageSet) -> None:
        alone = replace(tiny, split=np.zeros(len(tiny), np.uint8))  # a folder: everything asks
        catalogue = gallery_catalogue(alone, np.arange(len(alone)), 0)
        log = simulate_clicks(alone, catalogue, SMALL, seed=0).log
        assert not (catalogue.item_id[log.shown] == alone.item_id[log.query_row][:, None]).any()
        learn, test = query_pictures(alone, SMALL, 0)
        assert not np.intersect1d(learn, test).size


def test_places_of_pictures(tiny: ImageSet) -> None:
    rows = np.array([5, 2, 9])
    catalogue = gallery_catalogue(tiny, rows, 0)
    assert picture_rows(tiny, catalogue).tolist() == [5, 2, 9]
    assert own_rows(rows, np.array([2, 3]), len(tiny)).tolist() == [1, -1]
    catalogue.append(10**6, 0, 5.0)
    with pytest.raises(ValueError, match="item 1000000 has no picture"):
        picture_rows(tiny, catalogue)


def test_the_audience_is_made_of_directions_and_shares() -> None:
    audience = draw_audience(500, 4, 8, seed=0)
    assert np.linalg.norm(audience.taste, axis=1) == pytest.approx(np.ones(500), abs=1e-5)
    assert audience.interest.sum(axis=1) == pytest.approx(np.ones(500), abs=1e-5)
    assert audience.activity.sum() == pytest.approx(1, abs=1e-4)
    busiest = np.sort(audience.activity)[::-1][:50].sum()
    assert busiest > 0.3  # a tenth of the people: far more than a tenth of the searches


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"days": 7, "validation_days": 3, "test_days": 4}, "none is left to train"),
        ({"page": 20, "pool": 10}, "a page of 20 out of a pool of 10"),
    ],
)
def test_impossible_sizes_are_refused(change: dict[str, int], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        ClicksConfig(**change)
