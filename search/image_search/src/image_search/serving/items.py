"""Items as the API and the page tell of them."""

from __future__ import annotations

from typing import Any

import numpy as np

from image_search.serving.engine import SearchEngine
from image_search.serving.queries import refusal


def living_row(engine: SearchEngine, item_id: int) -> int:
    """The row of an item that is there.

    Raises:
        ProblemError: 404 if there is none, or it is gone.
    """
    try:
        return engine.searcher.catalogue.living_row(item_id)
    except KeyError:
        raise refusal("item_id", "no such item", item_id, status=404) from None


def described(engine: SearchEngine, row: int) -> dict[str, Any]:
    """Id, category, price and the picture's path of a row."""
    return _described(engine, np.array([row]))[0]


def hits(
    engine: SearchEngine, rows: np.ndarray, similarity: np.ndarray, score: np.ndarray
) -> list[dict[str, Any]]:
    """Results i64[k] with similarity and score f32[k], best first."""
    found = _described(engine, rows)
    for n, hit in enumerate(found):
        hit["similarity"] = round(float(similarity[n]), 5)
        hit["score"] = round(float(score[n]), 5)
    return found


def _described(engine: SearchEngine, rows: np.ndarray) -> list[dict[str, Any]]:
    catalogue = engine.searcher.catalogue
    names = catalogue.label_names
    ids, labels = catalogue.item_id[rows].tolist(), catalogue.label[rows].tolist()
    prices = catalogue.attributes.price[rows].tolist()
    return [
        {
            "item_id": item,
            "category": names[label] if label >= 0 else "",
            "price": round(price, 2),
            "image": f"/v1/items/{item}/image",
        }
        for item, label, price in zip(ids, labels, prices, strict=True)
    ]
