"""Items by row: filters, additions, deletions; the growing arrays beneath."""

from __future__ import annotations

import numpy as np
import pytest

from image_search.attributes import Attributes
from image_search.catalogue import Catalogue, gallery_catalogue
from image_search.growing import GrowingRows
from image_search.images.image_set import GALLERY, ImageSet
from image_search.searcher import Filters


def three_items() -> Catalogue:
    ones = np.ones(3, dtype=np.float32)
    attributes = Attributes(np.float32([5, 10, 20]), ones / 2, ones * 7, ones * 30)
    label = np.array([0, 1, 1], dtype=np.int16)
    return Catalogue(np.array([10, 11, 12]), label, ("coat", "shoe"), attributes)


def test_growing_rows_copy_fewer_than_twice_what_they_hold() -> None:
    rows = GrowingRows(np.zeros((0, 2), dtype=np.float32))
    rooms = set()
    for number in range(1000):
        rows.append(np.full((1, 2), number, dtype=np.float32))
        rooms.add(len(rows._room))
    assert rows.values[:, 0].tolist() == list(range(1000))
    assert len(rooms) < 9
    assert sum(rooms) < 2 * 1024


def test_growing_rows_refuse_another_shape_and_keep_old_views() -> None:
    rows = GrowingRows(np.arange(4).reshape(2, 2))
    before = rows.values
    rows.append(np.array([[9, 9]]))
    assert before.tolist() == [[0, 1], [2, 3]]
    with pytest.raises(ValueError, match="rows of"):
        rows.append(np.zeros((1, 3)))


def test_an_added_item_is_new_unseen_and_has_its_price() -> None:
    items = three_items()
    assert items.append(99, 1, 12.5) == 3
    assert items.living_row(99) == 3
    assert items.attributes.price[3] == np.float32(12.5)
    assert items.attributes.age_days[3] == 0
    assert items.attributes.popularity[3] <= 1


@pytest.mark.parametrize(
    ("item_id", "label", "price", "said"),
    [(10, 0, 1.0, "ids are used once"), (50, 2, 1.0, "label 2 of 2"), (50, 0, 0.0, "positive"),
     (50, 0, float("nan"), "positive")],
)  # fmt: skip
def test_what_cannot_be_added_says_why_and_changes_nothing(
    item_id: int, label: int, price: float, said: str
) -> None:
    items = three_items()
    with pytest.raises(ValueError, match=said):
        items.append(item_id, label, price)
    assert len(items) == 3


def test_a_deleted_item_is_gone_once_and_its_id_stays_used() -> None:
    items = three_items()
    assert items.delete(11) == 1
    for gone in (11, 77):
        with pytest.raises(KeyError, match=f"no item {gone}"):
            items.living_row(gone)
    with pytest.raises(KeyError):
        items.delete(11)
    with pytest.raises(ValueError, match="once"):
        items.append(11, 0, 1.0)


@pytest.mark.parametrize(
    ("filters", "rows"),
    [
        (Filters(labels=frozenset({1})), [1, 2]),
        (Filters(min_price=10), [1, 2]),
        (Filters(max_price=10), [0, 1]),
        (Filters(labels=frozenset({1}), min_price=15, max_price=30), [2]),
        (Filters(labels=frozenset()), []),
    ],
)
def test_filters_keep_what_satisfies_all_of_them(filters: Filters, rows: list[int]) -> None:
    allowed = filters.allowed(three_items())
    assert allowed is not None
    assert np.flatnonzero(allowed).tolist() == rows


def test_no_filter_allows_everything_and_any_filter_leaves_out_the_deleted() -> None:
    items = three_items()
    assert Filters().allowed(items) is None
    items.delete(12)
    allowed = Filters(min_price=0).allowed(items)
    assert allowed is not None
    assert allowed.tolist() == [True, True, False]


def test_columns_must_agree() -> None:
    items = three_items()
    with pytest.raises(ValueError, match="columns of"):
        Catalogue(items.item_id, items.label[:2], items.label_names, items.attributes)
    with pytest.raises(ValueError, match="stands twice"):
        Catalogue(np.array([1, 1, 2]), items.label, items.label_names, items.attributes)


def test_the_gallery_becomes_the_catalogue(tiny: ImageSet) -> None:
    gallery = np.flatnonzero(tiny.split == GALLERY)
    items = gallery_catalogue(tiny, gallery, seed=1)
    assert items.item_id.tolist() == tiny.item_id[gallery].tolist()
    items.delete(int(items.item_id[0]))
    assert len(gallery_catalogue(tiny, gallery, seed=1)) == len(items)
    assert items.alive.sum() == len(items) - 1
