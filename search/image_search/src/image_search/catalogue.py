"""The items that a search may answer with: what is known of each, and which are gone.

In: an image set's gallery. Out: ``Catalogue``, arrays over N rows. A row is an item's place here
and in every array beside it (vectors, hashes, counters); ``item_id`` is its name outside. A row is
never given to another item: a deleted item stays as a row that no search returns.

Legend: N items.
"""

from __future__ import annotations

from dataclasses import fields

import numpy as np

from image_search.attributes import Attributes, draw_attributes
from image_search.growing import GrowingRows
from image_search.images.image_set import ImageSet


class Catalogue:
    """Items by row.

    Args:
        item_id: i64[N], each once.
        label: i16[N], position in ``label_names``, or -1.
        label_names: The classes (categories, for filters).
        attributes: Price, quality, popularity, age; SYNTHETIC.
        alive: bool[N], False once deleted; None: all are there.
        seed: Of the attributes of items that are added later.

    Raises:
        ValueError: If the columns differ in length, or an id stands twice.
    """

    def __init__(
        self,
        item_id: np.ndarray,
        label: np.ndarray,
        label_names: tuple[str, ...],
        attributes: Attributes,
        alive: np.ndarray | None = None,
        seed: int = 0,
    ) -> None:
        alive = np.ones(len(item_id), dtype=bool) if alive is None else alive
        sizes = {len(item_id), len(label), len(attributes), len(alive)}
        if len(sizes) != 1:
            raise ValueError(f"columns of {sorted(sizes)} items in one catalogue")
        self.row_of = {int(item): row for row, item in enumerate(item_id)}
        if len(self.row_of) != len(item_id):
            raise ValueError("an item_id stands twice in the catalogue")
        self.label_names, self.seed = label_names, seed
        self._item_id, self._label = GrowingRows(item_id), GrowingRows(label)
        self._alive = GrowingRows(alive)
        self._attributes = {
            name: GrowingRows(getattr(attributes, name)) for name in ATTRIBUTE_COLUMNS
        }

    def __len__(self) -> int:
        return len(self._item_id)

    @property
    def item_id(self) -> np.ndarray:
        """i64[N]."""
        return self._item_id.values

    @property
    def label(self) -> np.ndarray:
        """i16[N]."""
        return self._label.values

    @property
    def alive(self) -> np.ndarray:
        """bool[N]."""
        return self._alive.values

    @property
    def attributes(self) -> Attributes:
        """Columns over the items; SYNTHETIC but for the prices of items that were added."""
        columns = self._attributes
        return Attributes(
            price=columns["price"].values,
            quality=columns["quality"].values,
            popularity=columns["popularity"].values,
            age_days=columns["age_days"].values,
        )

    def living_row(self, item_id: int) -> int:
        """The row of an item that is there.

        Raises:
            KeyError: If there is no such item, or it was deleted.
        """
        row = self.row_of.get(item_id)
        if row is None or not self.alive[row]:
            raise KeyError(f"no item {item_id}")
        return row

    def append(self, item_id: int, label: int, price: float) -> int:
        """Adds an item, new today; returns its row.

        Raises:
            ValueError: If the id was ever used, or label or price is out of range.
        """
        if item_id in self.row_of:
            raise ValueError(f"item {item_id} exists already, or existed: ids are used once")
        if not -1 <= label < len(self.label_names):
            raise ValueError(f"label {label} of {len(self.label_names)} categories")
        if not 0 < price < 1e9:
            raise ValueError(f"price must be positive, got {price}")
        row = len(self)
        drawn = draw_attributes(np.array([item_id]), np.array([label]), self.seed)
        values = {name: getattr(drawn, name) for name in ATTRIBUTE_COLUMNS}
        values["price"] = np.array([price], dtype=np.float32)
        values["age_days"] = np.zeros(1, dtype=np.float32)
        values["popularity"] = np.minimum(values["popularity"], 1)  # nobody has seen it yet
        for name, rows in self._attributes.items():
            rows.append(values[name])
        self._item_id.append(np.array([item_id], dtype=np.int64))
        self._label.append(np.array([label], dtype=np.int16))
        self._alive.append(np.ones(1, dtype=bool))
        self.row_of[item_id] = row
        return row

    def delete(self, item_id: int) -> int:
        """Marks an item as gone; returns its row.

        Raises:
            KeyError: If there is no such item, or it is gone already.
        """
        row = self.living_row(item_id)
        self.alive[row] = False
        return row


ATTRIBUTE_COLUMNS = tuple(
    column.name for column in fields(Attributes) if column.name != "synthetic"
)


def gallery_catalogue(images: ImageSet, gallery: np.ndarray, seed: int) -> Catalogue:
    """The catalogue of the pictures at ``gallery`` i64[N], with attributes drawn by ``seed``."""
    ids, label = images.item_id[gallery], images.label[gallery]
    attributes = draw_attributes(ids, label, seed)
    return Catalogue(ids.copy(), label.copy(), images.label_names, attributes, seed=seed)
