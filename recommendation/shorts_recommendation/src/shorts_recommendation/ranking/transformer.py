"""The transformer ranker as it is served: numpy tables, small matrices and one ONNX graph.

In: a ``RequestBatch`` -> ``encode`` -> f32[B, d]; then candidates and features -> ``score`` ->
``Heads``. No torch and no Lightning. What the network computes of an item alone is a row of a
table (item_side.py), what it computes of a request alone is done once per request; per candidate
remain 8 dot products of d / 8 and four small matrices, (F + 8) x 128, 128 x 64, 64 x 5 and 8 x 5.

Legend: B requests, C candidates, L history, V videos, F cross features, d width.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import onnxruntime as ort

from shorts_recommendation.log import Catalogue
from shorts_recommendation.ranking.calibration import Calibration
from shorts_recommendation.ranking.duration import WatchLabel
from shorts_recommendation.ranking.heads import Heads
from shorts_recommendation.ranking.item_side import (
    ItemTables,
    ItemWeights,
    item_tables,
    item_weights,
)
from shorts_recommendation.ranking.network import DOTS, RankingNetwork
from shorts_recommendation.ranking.onnx_encoder import encoder_model, make_session
from shorts_recommendation.ranking.sequences import event_columns, history_gaps
from shorts_recommendation.ranking.window_batches import Scales
from shorts_recommendation.requests import RequestBatch

LARGEST_LOGIT = 30.0


@dataclass(frozen=True)
class HeadWeights:
    """The head's matrices, inputs first: ``x @ matrix``.

    Attributes:
        query: f32[d + 128, d] with query_bias.
        request: f32[d + 128 + 32, 128].
        candidate: f32[F + 8, 128].
        middle: f32[128, 64] with middle_bias.
        out: f32[64, 5] with out_bias.
        direct: f32[8, 5], of the dot products past the layers.
    """

    query: np.ndarray
    query_bias: np.ndarray
    request: np.ndarray
    candidate: np.ndarray
    middle: np.ndarray
    middle_bias: np.ndarray
    out: np.ndarray
    out_bias: np.ndarray
    direct: np.ndarray


def head_weights(network: RankingNetwork) -> HeadWeights:
    """Copies of a network's head."""

    def of(name: str) -> np.ndarray:
        return np.ascontiguousarray(network.get_parameter(name).detach().numpy().T.copy())

    return HeadWeights(
        query=of("query.weight"),
        query_bias=of("query.bias"),
        request=of("request_in.weight"),
        candidate=np.concatenate([of("cross_in.weight"), of("dots_in.weight")]),
        middle=of("middle.weight"),
        middle_bias=of("middle.bias"),
        out=of("out.weight"),
        out_bias=of("out.bias"),
        direct=of("direct.weight"),
    )


class TransformerRanker:
    """A trained transformer ranker; a ``heads.Ranker``.

    Args:
        encoder: Bytes of the ONNX graph.
        items: Weights of the item side; they make the rows of uploads.
        tables: The item side of the catalogue.
        weights: Of the head.
        scales: Standardisation of user, context and cross features.
        label: Of the watch head.
        calibration: Of all heads.
        length: L, events that the encoder reads.
    """

    def __init__(
        self,
        *,
        encoder: bytes,
        items: ItemWeights,
        tables: ItemTables,
        weights: HeadWeights,
        scales: Scales,
        label: WatchLabel,
        calibration: Calibration,
        length: int,
    ) -> None:
        self.encoder, self.items, self.tables, self.weights = encoder, items, tables, weights
        self.scales, self.label, self.calibration = scales, label, calibration
        self.length = length
        self._session: ort.InferenceSession = make_session(encoder)

    @classmethod
    def of_network(
        cls,
        network: RankingNetwork,
        catalogue: Catalogue,
        scales: Scales,
        label: WatchLabel,
        calibration: Calibration,
        *,
        length: int,
    ) -> TransformerRanker:
        """Folds a network in evaluation mode into tables, matrices and a graph."""
        items = item_weights(network)
        return cls(
            encoder=encoder_model(network.encoder, length),
            items=items,
            tables=item_tables(items, catalogue, label),
            weights=head_weights(network),
            scales=scales,
            label=label,
            calibration=calibration,
            length=length,
        )

    def with_encoder(self, model: bytes) -> TransformerRanker:
        """The same ranker with another graph (int8)."""
        parts = {name: x for name, x in vars(self).items() if not name.startswith("_")}
        return TransformerRanker(**{**parts, "encoder": model})

    def add_videos(self, catalogue: Catalogue) -> None:
        """Appends the rows of videos that the catalogue has beyond the tables."""
        if len(catalogue) > len(self.tables):
            more = item_tables(self.items, catalogue, self.label, first=len(self.tables))
            self.tables = self.tables.extended(more)

    def encode(self, batch: RequestBatch) -> np.ndarray:
        """States f32[B, d] after each request's history.

        Raises:
            ValueError: If histories are not of the length that the graph was made for.
        """
        if batch.history.shape[1] != self.length:
            raise ValueError(
                f"histories of {batch.history.shape[1]} events, the encoder reads {self.length}: "
                "state.history_length must be the same in training and serving"
            )
        video = np.maximum(batch.history, 0)
        inputs = {
            "items": self.tables.token[video],
            "known": (batch.history >= 0).astype(np.float32),
            "events": event_columns(
                batch.history_outcomes,
                self.tables.duration_s[video],
                history_gaps(batch.history, batch.history_time_s),
                batch.history_position,
                self.label,
            ),
        }
        return np.asarray(self._session.run(["state"], inputs)[0])

    def score(
        self,
        encoded: np.ndarray,
        user: np.ndarray,
        context: np.ndarray,
        videos: np.ndarray,
        cross: np.ndarray,
    ) -> Heads:
        """Calibrated heads of candidates i32[B, C]; see ``heads.Ranker``."""
        return self.calibration.heads(self.outputs(encoded, user, context, videos, cross))

    def outputs(
        self,
        encoded: np.ndarray,
        user: np.ndarray,
        context: np.ndarray,
        videos: np.ndarray,
        cross: np.ndarray,
    ) -> np.ndarray:
        """Uncalibrated outputs f32[B, C, 5] in the order of heads.TASKS."""
        (n, c), w = videos.shape, self.weights
        user, context = self.scales.user.apply(user), self.scales.context.apply(context)
        request = np.concatenate([encoded, user, context], axis=1) @ w.request
        flat = np.maximum(videos, 0).ravel()
        inputs = np.empty((n * c, cross.shape[2] + DOTS), dtype=np.float32)
        inputs[:, :-DOTS] = self.scales.cross.apply(cross).reshape(n * c, -1)
        inputs[:, -DOTS:] = self._dots(encoded, user, flat)
        first = self.tables.first[flat]
        first += inputs @ w.candidate
        first.reshape(n, c, -1)[...] += request[:, None]
        np.maximum(first, 0, out=first)
        middle = first @ w.middle
        middle += w.middle_bias
        np.maximum(middle, 0, out=middle)
        logits = middle @ w.out
        logits += inputs[:, -DOTS:] @ w.direct + w.out_bias
        np.clip(logits, -LARGEST_LOGIT, LARGEST_LOGIT, out=logits)
        outputs = 1 / (1 + np.exp(-logits))
        outputs[:, -1] *= 2  # a distance lies in 0..2
        return np.asarray(outputs.reshape(n, c, -1), dtype=np.float32)

    def _dots(self, encoded: np.ndarray, user: np.ndarray, flat: np.ndarray) -> np.ndarray:
        """f32[B * C, 8]."""
        query = np.concatenate([encoded, user], axis=1) @ self.weights.query
        query = (query + self.weights.query_bias + encoded).reshape(len(encoded), 1, DOTS, -1)
        keys = self.tables.key[flat].reshape(len(encoded), -1, DOTS, query.shape[-1])
        return np.asarray((keys * query).sum(axis=-1).reshape(-1, DOTS))
