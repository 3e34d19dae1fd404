"""A plain two-tower model: small enough to train in seconds, complete enough to study its loss.

In: histories of item numbers i64[B, L], padded with ``n_items``, and items i64[M]. Out: query
vectors f32[B, D] and item vectors f32[M, D]; a score is their dot product.

    query(h) = f( mean of the table rows of the history ),   item(i) = g( row_i + genres_i G )
    f(x) = x + W2 relu(W1 x + b1) + b2, and g alike; both normalised to length 1 on request

Covington, Adams, Sargin, "Deep Neural Networks for YouTube Recommendations", RecSys 2016, section
3, average embeddings of what was watched; the tower over the item follows Yi et al., RecSys 2019.
Departures: no user features, no example age, no order in the history. The video system has those
(recommendation/video_recommendation); here everything but the loss is held as small as it can be.

The table is a module of its own, so that a table whose rows live on several processes
(``distributed.ShardedTable``) can stand in its place: the towers see rows, never ids.

Legend: B batch, L history length, M items asked for, I items, D embedding dimension, G genres.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional


class Residual(nn.Module):
    """x + W2 relu(W1 x + b1) + b2. W2 starts at zero, so that training starts from the identity."""

    def __init__(self, dim: int, hidden: int) -> None:
        super().__init__()
        self.inner, self.outer = nn.Linear(dim, hidden), nn.Linear(hidden, dim)
        nn.init.zeros_(self.outer.weight)
        nn.init.zeros_(self.outer.bias)

    def forward(self, x: Tensor) -> Tensor:
        """[N, D] to [N, D]."""
        return x + self.outer(functional.relu(self.inner(x)))


class Towers(nn.Module):
    """The dense part: from table rows to vectors."""

    genres: Tensor

    def __init__(self, genres: Tensor, *, dim: int, hidden: int, normalise: bool) -> None:
        """Set up both towers.

        Args:
            genres: f32[I, G], rows that sum to 1 (or 0 for an item without genres).
            dim: D.
            hidden: Width of the hidden layers.
            normalise: Whether vectors get length 1; then a temperature is needed.
        """
        super().__init__()
        self.register_buffer("genres", genres, persistent=False)
        self.genre = nn.Linear(genres.shape[1], dim, bias=False)
        nn.init.normal_(self.genre.weight, std=0.1)
        self.query_tower, self.item_tower = Residual(dim, hidden), Residual(dim, hidden)
        self.normalise = normalise

    def forward(
        self, history_rows: Tensor, present: Tensor, item_rows: Tensor, item_idx: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Vectors of a batch.

        Args:
            history_rows: Table rows of the histories [B, L, D].
            present: bool[B, L], False at padding. A history without events has mean 0.
            item_rows: Table rows of the items [M, D].
            item_idx: Their numbers i64[M], for their genres.

        Returns:
            Queries [B, D] and items [M, D].
        """
        weight = present.to(history_rows.dtype)[:, :, None]
        total = (history_rows * weight).sum(dim=1)
        query = self.query_tower(total / weight.sum(dim=1).clamp_min(1.0))
        item = self.item_tower(item_rows + self.genre(self.genres[item_idx]))
        if self.normalise:
            return functional.normalize(query, dim=1), functional.normalize(item, dim=1)
        return query, item


class TwoTower(nn.Module):
    """Table and towers. ``table`` maps i64[N] to rows [N, D]; padding is never asked for."""

    def __init__(self, table: nn.Module, towers: nn.Module, n_items: int) -> None:
        super().__init__()
        self.table, self.towers, self.n_items = table, towers, n_items

    def forward(self, history: Tensor, item_idx: Tensor) -> tuple[Tensor, Tensor]:
        """Queries [B, D] of histories i64[B, L] and items [M, D] of i64[M].

        One lookup serves both towers: on a sharded table that is one exchange instead of two.
        """
        present = history < self.n_items
        wanted = torch.cat([torch.where(present, history, 0).flatten(), item_idx])
        rows = self.table(wanted)
        n_history = history.numel()
        history_rows = rows[:n_history].view(*history.shape, -1)
        vectors: tuple[Tensor, Tensor] = self.towers(
            history_rows, present, rows[n_history:], item_idx
        )
        return vectors


def build_two_tower(
    genres: Tensor, *, dim: int, hidden: int, normalise: bool, seed: int
) -> TwoTower:
    """A model with an ordinary table, the same for the same seed.

    Args:
        genres: f32[I, G].
        dim: D, at least 1.
        hidden: Width of the hidden layers, at least 1.
        normalise: Whether vectors get length 1.
        seed: Of the weights.

    Raises:
        ValueError: If a size is below 1 or ``genres`` is no matrix.
    """
    if dim < 1 or hidden < 1:
        raise ValueError(f"dim and hidden must be at least 1, got {dim} and {hidden}")
    if genres.ndim != 2:
        raise ValueError(f"genres must be [I, G], got shape {tuple(genres.shape)}")
    torch.manual_seed(seed)
    table = nn.Embedding(genres.shape[0], dim)
    nn.init.normal_(table.weight, std=0.1)
    towers = Towers(genres, dim=dim, hidden=hidden, normalise=normalise)
    return TwoTower(table, towers, genres.shape[0])


@torch.inference_mode()
def score_histories(model: TwoTower, history: Tensor) -> Tensor:
    """Scores f32[B, I] of the whole catalogue for histories i64[B, L]; seen items not masked."""
    query, items = model(history, torch.arange(model.n_items))
    scores: Tensor = query @ items.T
    return scores
