"""A click log with its truth, from beginning to end. SYNTHETIC.

In: an image set, its catalogue, ``ClicksConfig``, a seed. Out: ``Clicks``, the log and the truth.
The same input gives the same log; a million impressions take seconds on one core, so no log is
kept on disk.

Who asks: people, as often as they are active, in sessions of some searches a few minutes apart. A
session is about one class, drawn by the person's interests. With which pictures: on the days of
training and validation with pictures held out for choices, on the days of test with pictures of the
test split, which no training sees. An item is never shown to its own picture.

Legend: n pages, K places, Q queries, U users.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.special import expit

from image_search.catalogue import Catalogue
from image_search.clicks.audience import Audience, draw_audience
from image_search.clicks.content import picture_content
from image_search.clicks.log import DAY_S, ClickLog, Windows
from image_search.clicks.policy import draw_pages, pools
from image_search.clicks.truth import Truth, make_truth
from image_search.config import ClicksConfig
from image_search.images.image_set import QUERY, ImageSet, owner_rows, validation_rows
from ml_platform.evaluation.progress import Progress, Silent

SESSION_LENGTH = 2.5
"""Searches of a session in the mean."""
SEARCH_GAP_S = 90.0
"""Between two of them, in the mean."""
BUY_BASE, BUY_SLOPE = -2.2, 0.6
"""Logit of a purchase after a click: a constant, and the utility's weight."""


@dataclass(frozen=True)
class Clicks:
    """What ``simulate_clicks`` makes. SYNTHETIC."""

    log: ClickLog
    truth: Truth


@dataclass(frozen=True)
class _Searches:
    """n searches in the order of time, before anything is shown."""

    user: np.ndarray
    session: np.ndarray
    time_s: np.ndarray
    query_row: np.ndarray


def simulate_clicks(
    images: ImageSet,
    catalogue: Catalogue,
    config: ClicksConfig,
    seed: int,
    progress: Progress | None = None,
) -> Clicks:
    """Draws people, searches, pages and clicks.

    Args:
        images: The catalogue's items and the queries.
        catalogue: Of the image set's gallery.
        config: Sizes.
        seed: Of every draw.
        progress: Told of the work.

    Raises:
        ValueError: If the catalogue is too small for a page, or has items without a picture.
    """
    progress = progress or Silent()
    learn_rows, test_rows = query_pictures(images, config, seed)
    content = picture_content(images, config.style_dim, seed, progress)
    audience = draw_audience(config.users, max(len(images.label_names), 1), config.style_dim, seed)
    windows = windows_of(config)
    examination = np.arange(1, config.page + 1, dtype=np.float64) ** -config.position_bias
    picture = picture_rows(images, catalogue)
    truth = make_truth(catalogue, picture, content, audience, examination, windows.end_s, seed)
    rng = np.random.default_rng((seed, 4))
    with progress.stage("clicks: SYNTHETIC log", config.pages) as advance:
        searches = _searches(images, audience, learn_rows, test_rows, config, rng)
        asked, query = np.unique(searches.query_row, return_inverse=True)
        own = own_rows(picture, asked, len(images))
        pool = pools(content.coarse[asked], content.coarse[picture], own, config.pool)
        shown = draw_pages(query, searches.time_s, pool, own, truth, config, rng)
        log = _answered(searches, shown, truth, windows, rng)
        advance(config.pages)
    return Clicks(log, truth)


def windows_of(config: ClicksConfig) -> Windows:
    """Ends of training, validation and test."""
    end = config.days * DAY_S
    test = end - config.test_days * DAY_S
    return Windows(test - config.validation_days * DAY_S, test, end)


def query_pictures(
    images: ImageSet, config: ClicksConfig, seed: int
) -> tuple[np.ndarray, np.ndarray]:
    """Pictures that ask while learning i64[Q], and those that ask on test days i64[Q'].

    The second are of the owner's test split; a folder has none, and its pictures are cut in two.
    """
    rng = np.random.default_rng((seed, 5))
    if not (images.split == QUERY).any():
        shuffled = rng.permutation(owner_rows(images).queries)
        learn, test = np.array_split(shuffled, 2)
    else:
        test = rng.permutation(np.flatnonzero(images.split == QUERY))
        most = min(config.queries, int((images.split == 0).sum()) // 2)
        learn = rng.permutation(validation_rows(images, most, seed).queries)
    return np.sort(learn[: config.queries]), np.sort(test[: config.test_queries])


def picture_rows(images: ImageSet, catalogue: Catalogue) -> np.ndarray:
    """i64[N]: where each item's picture stands in the image set.

    Raises:
        ValueError: If an item came without a picture of the image set.
    """
    order = np.argsort(images.item_id, kind="stable")
    place = np.searchsorted(images.item_id, catalogue.item_id, sorter=order)
    rows = order[np.minimum(place, len(order) - 1)]
    strange = images.item_id[rows] != catalogue.item_id
    if strange.any():
        item = catalogue.item_id[np.argmax(strange)]
        raise ValueError(f"item {item} has no picture in {images.name}: simulate before adding")
    return rows


def own_rows(picture: np.ndarray, asked: np.ndarray, n_images: int) -> np.ndarray:
    """i64[Q]: the catalogue's row of each picture ``asked``, -1 where it is not an item.

    Args:
        picture: i64[N], see ``picture_rows``.
        asked: i64[Q], rows of the image set.
        n_images: Of the image set.
    """
    row_of = np.full(n_images, -1, dtype=np.int64)
    row_of[picture] = np.arange(len(picture))
    return row_of[asked]


def _searches(
    images: ImageSet,
    audience: Audience,
    learn: np.ndarray,
    test: np.ndarray,
    config: ClicksConfig,
    rng: np.random.Generator,
) -> _Searches:
    """Who searches when, and with which picture."""
    length = np.minimum(rng.geometric(1 / SESSION_LENGTH, size=config.pages), 10)
    n_sessions = int(np.searchsorted(length.cumsum(), config.pages)) + 1
    session = np.repeat(np.arange(n_sessions), length[:n_sessions])[: config.pages]
    user = rng.choice(len(audience), size=n_sessions, p=_exact(audience.activity))
    begin = rng.random(n_sessions) * config.days * DAY_S
    gap = rng.exponential(SEARCH_GAP_S, size=config.pages)
    first = np.searchsorted(session, session)
    since = gap.cumsum() - gap.cumsum()[first]
    time_s = np.minimum(begin[session] + since, config.days * DAY_S - 1)
    judged = time_s >= windows_of(config).validation_end_s
    luck, kind_luck = rng.random(config.pages), rng.random(n_sessions)
    query = np.empty(config.pages, dtype=np.int64)
    for rows, here in ((learn, ~judged), (test, judged)):
        kind = _kinds(images, audience, user, kind_luck, rows)
        query[here] = _of_kind(images, rows, kind[session[here]], luck[here])
    order = np.argsort(time_s, kind="stable")
    found = (user[session], session, time_s, query)
    return _Searches(*(column[order] for column in found))


def _kinds(
    images: ImageSet,
    audience: Audience,
    user: np.ndarray,
    luck: np.ndarray,
    rows: np.ndarray,
) -> np.ndarray:
    """i64[sessions]: the class a session is about, among those that ``rows`` have."""
    classes = audience.interest.shape[1]
    there = np.bincount(np.maximum(images.label[rows], 0), minlength=classes) > 0
    share = (audience.interest.astype(np.float64) + 1e-3) * there
    upto = (share / share.sum(axis=1, keepdims=True)).cumsum(axis=1)
    kind = (upto[user] < luck[:, None]).sum(axis=1)
    last: int = int(np.flatnonzero(there)[-1])
    return np.minimum(kind, last).astype(np.int64)


def _of_kind(images: ImageSet, rows: np.ndarray, kind: np.ndarray, luck: np.ndarray) -> np.ndarray:
    """i64[n]: a picture of the wanted class each."""
    label = np.maximum(images.label[rows], 0)
    order = np.argsort(label, kind="stable")
    begin = np.searchsorted(label[order], kind, side="left")
    end = np.searchsorted(label[order], kind, side="right")
    place = begin + ((end - begin) * luck).astype(np.int64)
    return rows[order[place]]


def _answered(
    searches: _Searches,
    shown: np.ndarray,
    truth: Truth,
    windows: Windows,
    rng: np.random.Generator,
) -> ClickLog:
    """Draws clicks and purchases on the pages."""
    utility = truth.utility(searches.user, searches.query_row, shown, searches.time_s)
    looked = rng.random(shown.shape) < truth.examination
    clicked = looked & (rng.random(shown.shape) < expit(utility))
    bought = clicked & (rng.random(shown.shape) < expit(BUY_BASE + BUY_SLOPE * utility))
    return ClickLog(
        query_row=searches.query_row,
        user_idx=searches.user.astype(np.int64),
        session=searches.session,
        time_s=searches.time_s,
        shown=shown,
        clicked=clicked,
        purchased=bought,
        examination=truth.examination,
        windows=windows,
    )


def _exact(shares: np.ndarray) -> np.ndarray:
    wide = shares.astype(np.float64)
    return wide / wide.sum()
