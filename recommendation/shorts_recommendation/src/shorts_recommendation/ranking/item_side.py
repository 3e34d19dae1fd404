"""The item side of the transformer ranker in numpy: what is computed once per video.

In: the trained item tower's weights and a catalogue. Out: ``ItemTables``, one row per video, also
for videos uploaded after training. The same arithmetic as ``network.ItemTower`` in evaluation mode,
without torch; a test compares the two.

Legend: V videos, n rows asked for, d width.
"""

from __future__ import annotations

from dataclasses import dataclass, fields

import numpy as np

from shorts_recommendation.log import Catalogue
from shorts_recommendation.ranking.duration import WatchLabel
from shorts_recommendation.ranking.network import RankingNetwork

CHUNK = 4096


@dataclass(frozen=True)
class ItemWeights:
    """Weights of the item tower and of the maps that read only an item; inputs first.

    Attributes:
        content: f32[768, d] with content_bias f32[d].
        creator, tag, language, duration, slot: embedding tables; ``slot`` is already [slots, d].
        norm_scale, norm_shift: f32[d].
        slot_of: i64[V0], row of ``slot`` of the videos known at training; later ones have row 0.
        token, key, first: f32[d, .] with biases.
    """

    content: np.ndarray
    content_bias: np.ndarray
    creator: np.ndarray
    tag: np.ndarray
    language: np.ndarray
    duration: np.ndarray
    slot: np.ndarray
    norm_scale: np.ndarray
    norm_shift: np.ndarray
    slot_of: np.ndarray
    token: np.ndarray
    token_bias: np.ndarray
    key: np.ndarray
    key_bias: np.ndarray
    first: np.ndarray
    first_bias: np.ndarray


@dataclass(frozen=True)
class ItemTables:
    """Rows by video_idx.

    Attributes:
        token: f32[V, d], what the history encoder reads of a video.
        key: f32[V, d], what a request's queries are multiplied with.
        first: f32[V, 128], the item's share of the head's first layer.
        duration_s: f32[V].
    """

    token: np.ndarray
    key: np.ndarray
    first: np.ndarray
    duration_s: np.ndarray

    def __len__(self) -> int:
        return len(self.token)

    def extended(self, more: ItemTables) -> ItemTables:
        """With the rows of ``more`` below."""
        pairs = ((getattr(self, f.name), getattr(more, f.name)) for f in fields(self))
        return ItemTables(*(np.concatenate(pair) for pair in pairs))


def item_weights(network: RankingNetwork) -> ItemWeights:
    """Copies of a network's weights."""
    tower = network.items

    def of(name: str) -> np.ndarray:
        return np.asarray(network.get_parameter(name).detach().numpy().copy())

    stretch = np.float32(of("items.content.weight").shape[1] ** 0.5 / 4)
    return ItemWeights(
        content=of("items.content.weight").T * stretch,
        content_bias=of("items.content.bias")
        - of("items.content.weight") @ tower.content_mean.numpy() * stretch,
        creator=of("items.creator.weight"),
        tag=of("items.tag.weight"),
        language=of("items.language.weight"),
        duration=of("items.duration.weight"),
        slot=of("items.slot.weight") @ of("items.identity.weight").T,
        norm_scale=of("items.norm.weight"),
        norm_shift=of("items.norm.bias"),
        slot_of=tower.columns.slot.numpy().copy(),
        token=of("encoder.item.weight").T,
        token_bias=of("encoder.item.bias"),
        key=of("key.weight").T,
        key_bias=of("key.bias"),
        first=of("item_in.weight").T,
        first_bias=of("item_in.bias"),
    )


def item_tables(
    weights: ItemWeights, catalogue: Catalogue, label: WatchLabel, *, first: int = 0
) -> ItemTables:
    """Rows ``first``.. of a catalogue, in chunks of constant memory."""
    parts = []
    for begin in range(first, len(catalogue), CHUNK):
        rows = slice(begin, min(begin + CHUNK, len(catalogue)))
        item = _items(weights, catalogue, label, rows)
        parts.append(
            ItemTables(
                token=item @ weights.token + weights.token_bias,
                key=item @ weights.key + weights.key_bias,
                first=item @ weights.first + weights.first_bias,
                duration_s=catalogue.duration_s[rows].astype(np.float32),
            )
        )
    columns = (np.concatenate([getattr(p, f.name) for p in parts]) for f in fields(ItemTables))
    return ItemTables(*columns)


def _items(
    weights: ItemWeights, catalogue: Catalogue, label: WatchLabel, rows: slice
) -> np.ndarray:
    """Item vectors f32[n, d]."""
    total = catalogue.content[rows].astype(np.float32) @ weights.content + weights.content_bias
    tags = catalogue.tags[rows].astype(np.int64) + 1
    n_tags = np.maximum((tags > 0).sum(axis=1, keepdims=True), 1)
    total += _lookup(weights.creator, catalogue.creator_idx[rows])
    total += _lookup(weights.tag, tags).sum(axis=1) / n_tags
    total += _lookup(weights.language, catalogue.language[rows])
    total += _lookup(weights.duration, label.group(catalogue.duration_s[rows]))
    total += weights.slot[_slots(weights.slot_of, rows)]
    total -= total.mean(axis=1, keepdims=True)
    total /= np.sqrt((total**2).mean(axis=1, keepdims=True) + 1e-5)
    return np.asarray(total * weights.norm_scale + weights.norm_shift, dtype=np.float32)


def _lookup(table: np.ndarray, index: np.ndarray) -> np.ndarray:
    """Rows of a table; zero for what came up after training (a new creator, a new language)."""
    known = index < len(table)
    found = table[np.where(known, index, 0)]
    return np.where(known[..., None], found, 0).astype(np.float32)


def _slots(slot_of: np.ndarray, rows: slice) -> np.ndarray:
    slots = np.zeros(rows.stop - rows.start, dtype=np.int64)
    there = slot_of[rows.start : rows.stop]
    slots[: len(there)] = there
    return slots
