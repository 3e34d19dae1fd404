"""The filter bubble: what users see when the system learns from what it has shown. SYNTHETIC.

In: a ``World``, users, rounds. Out: per round and user, expected clicks of the page, how its items
differ in the styles of the truth (not in the embedding that the personaliser works in), and over
all rounds the share of the commonest of 2 S styles among all that a user was shown. In each round
every user asks with a picture drawn for user and round, sees a page, clicks by the truth, and the
clicks go into the style that orders the next page. Without personalisation the same pictures are
asked with and the same luck is drawn, so that the two differ by what was learnt alone.

Legend: U users, R rounds, K page, S styles.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from image_search.config import PersonalisationConfig
from image_search.personalisation.study import Searches, Setting, World, page_distance, pages
from image_search.personalisation.styles import StyleStore

GAP_S = 3_600.0
"""Between rounds: another session each."""


@dataclass(frozen=True)
class Looped:
    """What users got.

    Attributes:
        clicks: f64[R, U], expected clicks of each page.
        distance: f64[R, U], mean distance of a page's items in the truth's styles.
        commonest: f64[U], share of the commonest style in all that was shown.
    """

    clicks: np.ndarray
    distance: np.ndarray
    commonest: np.ndarray


def loop(
    world: World,
    users: np.ndarray,
    asked: np.ndarray,
    vectors: np.ndarray,
    setting: Setting,
    config: PersonalisationConfig,
    seed: int,
) -> Looped:
    """Runs R rounds from no click at all.

    Args:
        world: What is searched, and the truth.
        users: i64[U].
        asked: i64[R, U], rows of the image set.
        vectors: f32[R, U, D] of those pictures.
        setting: How pages are made.
        config: Of the styles.
        seed: Of the luck of clicks.
    """
    store = StyleStore(world.vectors.shape[1], config)
    rng = np.random.default_rng(seed)
    kinds = np.concatenate([world.truth.item_style, -world.truth.item_style], axis=1).argmax(axis=1)
    seen, clicks, distance = [], [], []
    for number in range(len(asked)):
        searches = Searches(users, asked[number], vectors[number])
        now_s = number * GAP_S
        shown, _ = pages(world, searches, store.styles(list(users), now_s), setting)
        clicks.append(world.truth.expected_clicks(users, asked[number], shown))
        distance.append(page_distance(world.truth.item_style, shown))
        seen.append(kinds[shown])
        _click(world, store, searches, shown, now_s, rng)
    everything = np.concatenate(seen, axis=1)
    counts = (everything[:, :, None] == np.unique(kinds)).sum(axis=1)
    return Looped(np.stack(clicks), np.stack(distance), counts.max(axis=1) / everything.shape[1])


def _click(
    world: World,
    store: StyleStore,
    searches: Searches,
    shown: np.ndarray,
    now_s: float,
    rng: np.random.Generator,
) -> None:
    """Draws clicks on the pages i64[U, K] and takes them into the store."""
    truth = world.truth
    attraction = truth.attraction(searches.user, searches.query_row, shown)
    chance = attraction * truth.examination[: shown.shape[1]]
    clicked = (rng.random(shown.shape) < chance) & (shown >= 0)
    for n in np.flatnonzero(clicked.any(axis=1)):
        directions = world.directions[shown[n, clicked[n]]]
        store.apply_clicks(int(searches.user[n]), directions, now_s)
