"""The two-tower retrieval model: one vector for the request, one for the item, a dot product.

In: a ``RequestBatch`` of Q requests; the catalogue's arrays. Out: unit vectors f32[Q, D] and
f32[I, D] whose dot product, divided by the learned temperature, is the logit of "watched next".
Because the item side does not see the request, it is computed once per bundle and searched with an
index; that separation is what makes the model a *retrieval* model, and what it pays for it is that
no feature may look at both sides (that is the ranker's job).

Covington et al., "Deep Neural Networks for YouTube Recommendations", RecSys 2016, section 3, is the
ancestor (history pooled into the user vector); Yi et al., "Sampling-Bias-Corrected Neural Modeling
for Large Corpus Item Recommendations", RecSys 2019, is the two-tower form with the logQ-corrected
loss. Departures: the user tower has no user id, so a user is what they did, an unknown user needs
no special case and a new event changes the next request; ids that were not in training share a few
hashed rows, trained by id dropout, so a new item lives by its genres, year and title.

Legend: B batch, L history length, D embedding dim, I items, G genres, W title words.
"""

from __future__ import annotations

from typing import Literal

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from feature_engineering.encoding import hash_bucket
from video_recommendation.data import TITLE_BUCKETS, YEAR_BUCKETS, Catalogue
from video_recommendation.requests import RequestBatch

N_CONTEXT = 5
RECENCY_STEPS = (2.0, 10.0)
"""Events: time constants of the exponentially weighted pools beside the plain mean."""
RATING_LEVELS = 11
"""Half stars 0, 0.5, ..., 5."""


class ItemInputs(nn.Module):
    """Id, genres, year and title of an item, summed into one vector [.., D].

    The id row of an item that training did not see is one of ``n_hashed_ids`` shared rows.
    """

    id_row: Tensor
    hashed_row: Tensor
    genres: Tensor
    year_bucket: Tensor
    title_words: Tensor

    def __init__(
        self,
        catalogue: Catalogue,
        *,
        trained: np.ndarray,
        embedding_dim: int,
        n_hashed_ids: int,
        inputs: Literal["id_and_content", "id", "content"],
    ) -> None:
        """``trained`` bool[I] says which items have an id row of their own."""
        super().__init__()
        n_items = len(catalogue)
        self.inputs = inputs
        hashed = n_items + hash_bucket(catalogue.item_ids, n_hashed_ids)
        own = np.where(trained, np.arange(n_items), hashed)
        self.register_buffer("id_row", torch.from_numpy(own))
        self.register_buffer("hashed_row", torch.from_numpy(hashed))
        genres = catalogue.genre_flags / np.maximum(
            catalogue.genre_flags.sum(axis=1, keepdims=True), 1
        )
        self.register_buffer("genres", torch.from_numpy(genres.astype(np.float32)))
        self.register_buffer("year_bucket", torch.from_numpy(catalogue.year_bucket.copy()))
        self.register_buffer("title_words", torch.from_numpy(catalogue.title_words.copy()))
        self.id_embedding = _embedding(n_items + n_hashed_ids, embedding_dim)
        self.genre_embedding = nn.Linear(len(catalogue.genre_names), embedding_dim, bias=False)
        self.year_embedding = _embedding(YEAR_BUCKETS, embedding_dim)
        self.title_embedding = nn.EmbeddingBag(
            TITLE_BUCKETS, embedding_dim, mode="mean", padding_idx=0
        )
        nn.init.normal_(self.title_embedding.weight, std=0.05)

    def table(self, id_dropout: float = 0.0) -> Tensor:
        """Input vectors of the whole catalogue f32[I, D].

        With ``id_dropout`` > 0 (training) that share of the items takes its hashed row instead of
        its own, drawn anew at every call.
        """
        rows = self.id_row
        if id_dropout > 0.0:
            rows = torch.where(torch.rand(rows.shape) < id_dropout, self.hashed_row, rows)
        if self.inputs == "id":
            return self.id_embedding(rows)
        content = (
            self.genre_embedding(self.genres)
            + self.year_embedding(self.year_bucket)
            + self.title_embedding(self.title_words)
        )
        return content if self.inputs == "content" else content + self.id_embedding(rows)


class TwoTower(nn.Module):
    """Both towers. ``user_vectors`` and ``item_vectors`` return unit rows f32[., D]."""

    def __init__(
        self,
        catalogue: Catalogue,
        *,
        trained: np.ndarray,
        n_occupations: int,
        embedding_dim: int,
        history_length: int,
        pooling: Literal["mean", "recency", "attention"],
        item_inputs: Literal["id_and_content", "id", "content"],
        n_hashed_ids: int,
        temperature: float,
        dropout: float,
        time_origin: int,
    ) -> None:
        """Flat arguments, so that a bundle can rebuild the model; see ``TwoTowerConfig``."""
        super().__init__()
        self.history_length = history_length
        self.pooling = pooling
        self.time_origin = time_origin
        # Two tables: an item as "what I watched" need not lie where it does as "what to watch".
        self.history_inputs, self.item_inputs = (
            ItemInputs(
                catalogue,
                trained=trained,
                embedding_dim=embedding_dim,
                n_hashed_ids=n_hashed_ids,
                inputs=item_inputs,
            )
            for _ in range(2)
        )
        self.item_mlp = nn.Sequential(
            nn.Linear(embedding_dim, 2 * embedding_dim),
            nn.ReLU(),
            nn.Linear(2 * embedding_dim, embedding_dim),
        )
        n_pools = {"mean": 1, "recency": 1 + len(RECENCY_STEPS), "attention": 2}[pooling]
        demographic_dim = 8
        self.age_embedding = _embedding(8, demographic_dim)
        self.gender_embedding = _embedding(3, demographic_dim)
        self.occupation_embedding = _embedding(n_occupations + 1, demographic_dim)
        self.context = nn.Linear(N_CONTEXT, demographic_dim)
        self.user_mlp = nn.Sequential(
            nn.Linear(n_pools * embedding_dim + 4 * demographic_dim, 4 * embedding_dim),
            nn.ReLU(),
            nn.Dropout(dropout),
            nn.Linear(4 * embedding_dim, embedding_dim),
        )
        self.rating_weight = nn.Embedding(RATING_LEVELS, 1)  # log weight of a history event
        nn.init.zeros_(self.rating_weight.weight)
        if pooling == "attention":
            self.attention_query = nn.Linear(embedding_dim, embedding_dim)
            self.attention_key = nn.Linear(embedding_dim, embedding_dim)
            self.attention_position = nn.Parameter(torch.zeros(history_length))
        self.dropout = nn.Dropout(dropout)
        self.log_inverse_temperature = nn.Parameter(torch.tensor(float(-np.log(temperature))))

    @property
    def inverse_temperature(self) -> Tensor:
        """Multiplies the cosine; learned."""
        return self.log_inverse_temperature.exp()

    def item_vectors(self, item_idx: Tensor | None = None, *, id_dropout: float = 0.0) -> Tensor:
        """Unit vectors f32[B, D] of the given items i64[B], of all of them by default."""
        table = self.item_inputs.table(id_dropout)
        inputs = table if item_idx is None else functional.embedding(item_idx, table)
        return functional.normalize(inputs + self.item_mlp(self.dropout(inputs)), dim=-1)

    def user_vectors(
        self,
        history: Tensor,
        rating: Tensor,
        age_s: Tensor,
        demographics: Tensor,
        now: Tensor,
        *,
        table: Tensor | None = None,
        id_dropout: float = 0.0,
    ) -> Tensor:
        """Unit vectors f32[B, D] of requests.

        Args:
            history: i64[B, L], the last L items, latest first, -1 where there is none.
            rating: f32[B, L], 0 where there is none.
            age_s: f32[B, L], seconds between the event and the request.
            demographics: i64[B, 3], codes, 0 unknown.
            now: i64[B], Unix seconds.
            table: ``history_inputs.table()`` computed before; a server does that once.
            id_dropout: as in ``ItemInputs.table``.
        """
        mask = history >= 0
        if table is None:
            table = self.history_inputs.table(id_dropout)
        # functional.embedding and not table[...]: its backward is several times faster.
        events = functional.embedding(history.clamp_min(0), table) * mask[..., None]  # [B, L, D]
        log_weight = self.rating_weight((rating * 2).round().long()).squeeze(-1)  # [B, L]
        pools = [self.dropout(pool) for pool in self._pools(events, log_weight, mask)]
        people = [
            self.age_embedding(demographics[:, 0]),
            self.gender_embedding(demographics[:, 1]),
            self.occupation_embedding(demographics[:, 2]),
            self.context(self._context(mask, age_s, now)),
        ]
        return functional.normalize(self.user_mlp(torch.cat(pools + people, dim=-1)), dim=-1)

    def _pools(self, events: Tensor, log_weight: Tensor, mask: Tensor) -> list[Tensor]:
        """Weighted means of the history [B, D], one for each way of weighting."""
        steps = torch.arange(self.history_length, dtype=torch.float32)
        weight = log_weight.exp() * mask
        if self.pooling == "mean":
            return [_weighted_mean(events, weight)]
        if self.pooling == "recency":
            recent = [weight * torch.exp(-steps / tau) for tau in RECENCY_STEPS]
            return [_weighted_mean(events, w) for w in [*recent, weight]]
        # Attention: the latest event asks which earlier ones belong to the same mood.
        query = self.attention_query(events[:, 0])
        logits = (self.attention_key(events) @ query[..., None]).squeeze(-1)  # [B, L]
        logits = logits / events.shape[-1] ** 0.5 + self.attention_position + log_weight
        attention = torch.softmax(logits.masked_fill(~mask, -1e9), dim=1) * mask
        attended = (attention[..., None] * events).sum(dim=1)
        return [attended, _weighted_mean(events, weight * torch.exp(-steps / RECENCY_STEPS[0]))]

    def _context(self, mask: Tensor, age_s: Tensor, now: Tensor) -> Tensor:
        """f32[B, N_CONTEXT], roughly of unit size: gaps, history length, time, cold start."""
        years = (now - self.time_origin).float() / (365 * 86_400)
        sitting = (mask & (age_s < 3600)).sum(dim=1).float()
        return torch.stack(
            [
                torch.log1p(age_s[:, 0].clamp_min(0)) / 10 * mask[:, 0],
                torch.log1p(mask.sum(dim=1).float()) / 4,
                torch.log1p(sitting) / 4,
                years,
                1.0 - mask[:, 0].float(),
            ],
            dim=1,
        )


def history_window(batch: RequestBatch, length: int) -> tuple[Tensor, Tensor, Tensor]:
    """The last ``length`` events of each request, latest first: items, ratings, ages in seconds.

    Returns:
        i64[Q, L] with -1 padding, f32[Q, L] and f32[Q, L] with 0 padding.
    """
    position = batch.ptr[1:, None] - 1 - np.arange(length)  # [Q, L]
    inside = position >= batch.ptr[:-1, None]
    position = np.where(inside, position, 0)
    if not len(batch.item_idx):
        empty = torch.zeros(len(batch), length)
        return torch.full((len(batch), length), -1), empty, empty
    age = (batch.now[:, None] - batch.timestamp[position]).astype(np.float32)
    return (
        torch.from_numpy(np.where(inside, batch.item_idx[position], -1).astype(np.int64)),
        torch.from_numpy(np.where(inside, batch.rating[position], 0).astype(np.float32)),
        torch.from_numpy(np.where(inside, age, 0).astype(np.float32)),
    )


def _embedding(n_rows: int, dim: int) -> nn.Embedding:
    embedding = nn.Embedding(n_rows, dim)
    nn.init.normal_(embedding.weight, std=0.1)
    return embedding


def _weighted_mean(events: Tensor, weight: Tensor) -> Tensor:
    return (weight[..., None] * events).sum(dim=1) / (weight.sum(dim=1, keepdim=True) + 1e-6)
