"""Styles of users, what they do to scores and queries, what a log teaches."""

from __future__ import annotations

import threading
from pathlib import Path

import numpy as np
import pytest
from scipy.special import expit

from image_search.clicks.log import ClickLog, Windows
from image_search.config import PersonalisationConfig
from image_search.embeddings.base import unit_rows
from image_search.personalisation.blending import Personaliser, blended
from image_search.personalisation.learned import fit_weights
from image_search.personalisation.replay import Histories, replay, shuffled_others
from image_search.personalisation.styles import Directions, StyleStore
from image_search.searcher import Ask

PLAIN = PersonalisationConfig(
    shrinkage=0, session_share=0, session_half_life_s=100, long_half_life_s=1_000
)
EAST, NORTH = np.array([1.0, 0.0], np.float32), np.array([0.0, 1.0], np.float32)


# --- directions ---


def test_a_direction_is_what_the_class_does_not_explain() -> None:
    vectors = np.array([[1, 1], [1, 3], [5, 0], [9, 0]], dtype=np.float32)
    found = Directions.of(vectors, np.array([0, 0, 1, 1]), 2)
    directions = found(np.arange(4), vectors)
    np.testing.assert_allclose(directions, [[0, -1], [0, 1], [-1, 0], [1, 0]], atol=1e-6)


def test_items_of_no_class_are_taken_from_the_mean_of_all() -> None:
    vectors = np.array([[1, 0], [3, 0], [2, 4]], dtype=np.float32)
    found = Directions.of(vectors, np.array([0, 0, -1]), 2)
    np.testing.assert_allclose(found.mean[-1], [2, 4 / 3], rtol=1e-6)
    np.testing.assert_allclose(found(np.array([2]), vectors[2:]), [[0, 1]], atol=1e-6)
    # Rows that came later, and padding, are of no class; so is a class without items.
    np.testing.assert_allclose(found(np.array([7, -1]), vectors[[2, 2]]), [[0, 1]] * 2, atol=1e-6)
    np.testing.assert_allclose(found.mean[1], found.mean[-1])


def test_an_item_at_the_mean_has_no_direction() -> None:
    vectors = np.array([[1, 2], [1, 2]], dtype=np.float32)
    assert not Directions.of(vectors, np.zeros(2, int), 1)(np.arange(2), vectors).any()


def test_vectors_and_labels_must_fit() -> None:
    with pytest.raises(ValueError, match="2 vectors and 3 labels"):
        Directions.of(np.zeros((2, 2)), np.zeros(3), 1)


# --- the store ---


def test_decay_by_hand() -> None:
    store = StyleStore(2, PLAIN)
    store.apply_clicks(7, EAST, 0.0)
    store.apply_clicks(7, NORTH, 1_000.0)  # the first click counts half by now
    np.testing.assert_allclose(store.styles([7], 1_000.0), [[1 / 3, 2 / 3]], rtol=1e-6)
    # A mean does not fade while nothing happens, without shrinkage.
    np.testing.assert_allclose(store.styles([7], 9_000.0), [[1 / 3, 2 / 3]], rtol=1e-5)


def test_shrinkage_by_hand() -> None:
    store = StyleStore(2, PLAIN.model_copy(update={"shrinkage": 3.0}))
    store.apply_clicks(1, EAST, 0.0)
    np.testing.assert_allclose(store.styles([1], 0.0), [[1 / 4, 0]])
    np.testing.assert_allclose(store.styles([1], 1_000.0), [[0.5 / 3.5, 0]])


def test_the_session_speaks_once_it_has_clicks() -> None:
    config = PLAIN.model_copy(update={"session_share": 0.5})
    store = StyleStore(2, config)
    store.apply_clicks(1, np.tile(EAST, (3, 1)), 0.0)
    late = 1e5  # a thousand half-lives of the session
    np.testing.assert_allclose(store.styles([1], late), [[1, 0]], atol=1e-6)
    store.apply_clicks(1, NORTH, late)
    long = np.array([3 * 2.0**-100, 1]) / (3 * 2.0**-100 + 1)
    share = 0.5 * 1 / 2
    expected = (1 - share) * long + share * NORTH
    np.testing.assert_allclose(store.styles([1], late)[0], expected, atol=1e-5)


def test_against_all_clicks_from_scratch() -> None:
    rng = np.random.default_rng(0)
    config = PersonalisationConfig(session_half_life_s=50, long_half_life_s=700, shrinkage=2)
    store, clicks = StyleStore(4, config), []
    now_s = 0.0
    for _ in range(40):
        now_s += float(rng.exponential(30))
        directions = unit_rows(rng.normal(size=(rng.integers(1, 3), 4)))
        store.apply_clicks(5, directions, now_s)
        clicks += [(now_s, direction) for direction in directions]
    now_s += 20.0
    parts = []
    for half_life in (50, 700):
        weight = np.array([2.0 ** -((now_s - then) / half_life) for then, _ in clicks])
        total = (weight[:, None] * np.array([d for _, d in clicks])).sum(axis=0)
        parts.append((total / (weight.sum() + 2), weight.sum()))
    share = config.session_share * parts[0][1] / (parts[0][1] + 1)
    expected = share * parts[0][0] + (1 - share) * parts[1][0]
    np.testing.assert_allclose(store.styles([5], now_s)[0], expected, atol=1e-5)
    assert store.clicks(5) == len(clicks)


def test_nobody_and_strangers_have_no_style() -> None:
    store = StyleStore(2, PLAIN)
    store.apply_clicks(1, EAST, 0.0)
    found = store.styles([None, 2, 1], 0.0)
    np.testing.assert_array_equal(found, [[0, 0], [0, 0], [1, 0]])
    assert store.clicks(2) == 0


def test_no_clicks_make_no_user() -> None:
    store = StyleStore(2, PLAIN)
    store.apply_clicks(1, np.zeros((0, 2), np.float32), 0.0)
    assert len(store) == 0


def test_a_late_click_counts_as_of_the_last() -> None:
    store = StyleStore(2, PLAIN)
    store.apply_clicks(1, EAST, 1_000.0)
    store.apply_clicks(1, NORTH, 0.0)
    np.testing.assert_allclose(store.styles([1], 1_000.0), [[0.5, 0.5]])


def test_forgotten_is_as_never_known(tmp_path: Path) -> None:
    store = StyleStore(2, PLAIN)
    store.apply_clicks(1, EAST, 0.0)
    store.apply_clicks(2, NORTH, 0.0)
    assert store.forget(1)
    assert not store.forget(1)
    assert (len(store), store.clicks(1)) == (1, 0)
    assert not store.styles([1], 0.0).any()
    store.save(tmp_path)
    assert np.load(tmp_path / "styles.npz")["user_id"].tolist() == [2]
    store.apply_clicks(3, EAST, 5.0)  # takes the freed place, and nothing of who was there
    np.testing.assert_allclose(store.styles([3, 2], 5.0), [[1, 0], [0, 1]])


def test_the_user_idle_the_longest_goes_first() -> None:
    store = StyleStore(2, PLAIN.model_copy(update={"max_users": 3}))
    for user, now_s in ((1, 10.0), (2, 5.0), (3, 20.0), (4, 30.0)):
        store.apply_clicks(user, EAST, now_s)
    assert [store.clicks(user) for user in (1, 2, 3, 4)] == [1, 0, 1, 1]


def test_the_store_grows_and_comes_back(tmp_path: Path) -> None:
    rng = np.random.default_rng(1)
    store = StyleStore(3)
    for user in range(200):
        store.apply_clicks(user, unit_rows(rng.normal(size=(2, 3))), float(user))
    before = store.styles(list(range(200)), 300.0)
    assert np.linalg.norm(before, axis=1).min() > 0
    store.save(tmp_path)
    again = StyleStore.load(tmp_path)
    np.testing.assert_array_equal(again.styles(list(range(200)), 300.0), before)
    again.apply_clicks(5, rng.normal(size=(1, 3)), 400.0)
    assert again.clicks(5) == 3
    assert store.bytes == again.bytes > 0
    with pytest.raises(ValueError, match="200 users, 10 are kept"):
        StyleStore.load(tmp_path, PLAIN.model_copy(update={"max_users": 10}))


def test_bad_clicks_are_refused() -> None:
    store = StyleStore(2, PLAIN)
    with pytest.raises(ValueError, match=r"expected finite \[n, 2\]"):
        store.apply_clicks(1, np.zeros(3), 0.0)
    with pytest.raises(ValueError, match="expected finite"):
        store.apply_clicks(1, np.array([np.nan, 0]), 0.0)
    with pytest.raises(ValueError, match="must be finite, got nan"):
        store.apply_clicks(1, EAST, float("nan"))
    with pytest.raises(ValueError, match="at least one dimension"):
        StyleStore(0)


def test_threads_lose_no_click() -> None:
    store = StyleStore(2, PLAIN)

    def work(number: int) -> None:
        for _ in range(50):
            store.apply_clicks(9, EAST, 1.0)
            store.apply_clicks(1_000 + number, NORTH, 1.0)
            store.styles([9, 1_000 + number], 1.0)
            store.forget(5_000)

    threads = [threading.Thread(target=work, args=(n,)) for n in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert store.clicks(9) == 400
    assert [store.clicks(1_000 + n) for n in range(8)] == [50] * 8


# --- blending ---


def personaliser(config: PersonalisationConfig = PLAIN) -> tuple[Personaliser, np.ndarray]:
    vectors = unit_rows(np.random.default_rng(4).normal(size=(30, 2)))
    directions = Directions.of(vectors, np.repeat([0, 1, 2], 10), 3)
    made = Personaliser(
        StyleStore(2, config), directions, lambda rows: vectors[rows], clock=lambda: 0.0
    )
    return made, vectors


def test_blending_by_hand() -> None:
    score = np.array([[1.0, 3.0, -np.inf]], dtype=np.float32)  # spread 1
    rows = np.array([[4, 5, -1]])
    liking = np.array([[1.0, -0.5, 9.0]], dtype=np.float32)
    np.testing.assert_allclose(blended(score, rows, liking, 2.0), [[3.0, 2.0, -np.inf]])


def test_without_clicks_nothing_changes() -> None:
    made, vectors = personaliser()
    made.apply_clicks(1, np.array([3]), 0.0)
    asks = [Ask(vectors[0], user_id=user) for user in (None, 2)]
    rows = np.array([[1, 2, -1], [4, 5, 6]])
    score = np.array([[0.3, 0.2, -np.inf], [0.5, 0.4, 0.1]], dtype=np.float32)
    np.testing.assert_array_equal(made(asks, rows, score, vectors[np.maximum(rows, 0)]), score)
    assert made.shifted(asks) == asks


def test_clicks_draw_their_like_forward() -> None:
    made, vectors = personaliser()
    directions = made.directions(np.arange(30), vectors)
    made.apply_clicks(1, np.array([3]), 0.0)
    rows = np.arange(10, 20)[None]
    score = np.zeros((1, 10), dtype=np.float32)
    score[0, 0] = 1
    found = made([Ask(vectors[0], user_id=1)], rows, score, vectors[rows])
    expected = score[0] + PLAIN.weight * score.std() * directions[10:20] @ directions[3]
    np.testing.assert_allclose(found[0], expected, rtol=1e-5)


def test_a_text_query_is_personalised_in_the_space_of_pictures() -> None:
    made, vectors = personaliser()
    made.apply_clicks(1, np.array([3]), 0.0)
    rows = np.array([[1, 2, 3]])
    score = np.array([[1.0, 2.0, 3.0]], dtype=np.float32)
    elsewhere = np.zeros((1, 3, 5), dtype=np.float32)
    by_text = made([Ask(np.zeros(5), space="text", user_id=1)], rows, score, elsewhere)
    by_image = made([Ask(vectors[0], user_id=1)], rows, score, vectors[rows])
    np.testing.assert_array_equal(by_text, by_image)


def test_a_shifted_query_moves_towards_the_style() -> None:
    made, vectors = personaliser()
    made.apply_clicks(1, np.array([3]), 0.0)
    style = made.store.styles([1], 0.0)[0]
    (moved,) = made.shifted([Ask(vectors[0], user_id=1, k=7)])
    raw = vectors[0] + PLAIN.shift * style
    np.testing.assert_allclose(moved.vector, raw / np.linalg.norm(raw), rtol=1e-5)
    assert moved.k == 7


def test_padding_has_no_style() -> None:
    made, vectors = personaliser()
    made.apply_clicks(1, np.array([3, 4]), 0.0)
    feature = made.style_feature([Ask(vectors[0], user_id=1)], np.array([[3, -1]]))
    assert feature[0, 1] == 0
    assert abs(feature[0, 0]) > 0
    with pytest.raises(ValueError, match="row -1"):
        made.apply_clicks(1, np.array([-1]), 0.0)


# --- replay ---


def small_log() -> ClickLog:
    """Three users; who clicks what is written below."""
    clicked = np.array([[1, 0], [0, 1], [1, 1], [0, 0], [1, 0]], dtype=bool)
    return ClickLog(
        query_row=np.arange(5),
        user_idx=np.array([0, 1, 0, 2, 0]),
        session=np.arange(5),
        time_s=np.array([0.0, 10, 20, 30, 40]),
        shown=np.array([[0, 1], [2, 3], [4, 5], [6, 7], [8, 9]]),
        clicked=clicked,
        purchased=np.zeros_like(clicked),
        examination=np.array([1.0, 0.5]),
        windows=Windows(15.0, 25.0, 50.0),
    )


def test_replay_knows_only_what_came_before() -> None:
    directions = unit_rows(np.random.default_rng(0).normal(size=(10, 3)))
    found = replay(small_log(), directions, PLAIN)
    assert found.clicks.tolist() == [0, 0, 1, 0, 3]
    assert not found.styles[[0, 1, 3]].any()
    np.testing.assert_allclose(found.styles[2], directions[0], atol=1e-6)
    weight = 2.0 ** (-np.array([40, 20, 20]) / 1_000)
    expected = (weight[:, None] * directions[[0, 4, 5]]).sum(axis=0) / weight.sum()
    np.testing.assert_allclose(found.styles[4], expected, rtol=1e-5)


def test_a_click_on_the_page_does_not_order_the_page() -> None:
    log, directions = small_log(), unit_rows(np.random.default_rng(0).normal(size=(10, 3)))
    other = ClickLog(**{**log.__dict__, "clicked": log.clicked | (np.arange(5) == 4)[:, None]})
    np.testing.assert_array_equal(
        replay(log, directions, PLAIN).styles, replay(other, directions, PLAIN).styles
    )


def test_histories_take_the_last_clicks() -> None:
    directions = unit_rows(np.random.default_rng(0).normal(size=(10, 3)))
    histories = Histories.of(small_log(), least=2)
    assert histories.users.tolist() == [0]
    assert histories.rows[0].tolist() == [0, 4, 5, 8]
    last = histories.styles(directions, 1, PLAIN, now_s=40.0)
    np.testing.assert_allclose(last[0], directions[8], atol=1e-6)
    assert not histories.styles(directions, 0, PLAIN, now_s=40.0).any()


def test_a_shared_account_has_every_second_click_of_another() -> None:
    everyone = Histories.of(small_log(), least=1)
    assert everyone.users.tolist() == [0, 1]
    mixed = everyone.mixed(4, seed=0)
    assert mixed.rows[0].tolist() == [3, 4, 5, 8]  # the other has one click
    assert mixed.rows[1].tolist() == [0]
    assert everyone.rows[0].tolist() == [0, 4, 5, 8]


def test_everybody_gets_another() -> None:
    other = shuffled_others(20, seed=3)
    assert sorted(other.tolist()) == list(range(20))
    assert (other != np.arange(20)).all()
    with pytest.raises(ValueError, match="no other"):
        shuffled_others(1, seed=0)


# --- learned weights ---


def test_weights_are_found_again() -> None:
    rng = np.random.default_rng(0)
    score, liking = rng.normal(5, 2, (4_000, 10)), rng.normal(0, 0.5, (4_000, 10))
    look = 1 / np.arange(1, 11)
    chance = look * expit(-6 + 1.0 * score + 2.0 * liking)
    clicked = rng.random(chance.shape) < chance
    found = fit_weights(score, liking, clicked, look)
    np.testing.assert_allclose(found, [-6, 1, 2], rtol=0.12)


def test_a_liking_of_nothing_gets_no_weight() -> None:
    rng = np.random.default_rng(1)
    score, noise = rng.normal(size=(4_000, 5)), rng.normal(size=(4_000, 5))
    look = np.ones(5)
    clicked = rng.random(score.shape) < expit(score)
    assert abs(fit_weights(score, noise, clicked, look)[2]) < 0.08


def test_nothing_to_learn_from_is_said() -> None:
    nothing = np.zeros((2, 3))
    with pytest.raises(ValueError, match="no click on 2 pages"):
        fit_weights(nothing, nothing, nothing.astype(bool), np.ones(3))
    with pytest.raises(ValueError, match="4 places"):
        fit_weights(nothing, nothing, nothing.astype(bool), np.ones(4))
