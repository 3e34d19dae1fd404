"""The towers as they serve: plain arrays and numpy, nothing of torch.

In: a ``TrainedTower``. Out: an ``Encoder``: user vectors of a ``RequestBatch`` f32[B, D], and the
vectors of uploads f32[n, D] from their content. Whatever can be computed before a request is: every
video's summed input and its four attention logits stand in a table, so a request gathers, weighs
and runs two small layers. Parity with the module is tested.

Shapes: B requests, L history length, W width, A attention heads, D vector, V videos.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from math import sqrt
from pathlib import Path
from typing import Literal

import numba
import numpy as np
import torch
from scipy.special import erf

from shorts_recommendation.log import Catalogue
from shorts_recommendation.requests import TAG_SLOTS, RequestBatch
from shorts_recommendation.retrieval.training import TrainedTower
from shorts_recommendation.retrieval.two_tower import HEADS, N_LANGUAGES, duration_group

CHUNK = 16_384


@dataclass
class Encoder:
    """Weights and tables of both towers. Names are those of ``TwoTower``.

    Attributes:
        inputs: f32[V, W], summed inputs by ``video_idx``; zero where not yet encoded.
        logits: f32[V, A], their attention logits.
        known: f32[U, W], summed attribute rows of every user.
        weights: Matrices and vectors of both towers by name.
    """

    inputs: np.ndarray
    logits: np.ndarray
    known: np.ndarray
    weights: dict[str, np.ndarray]

    def user_vectors(self, batch: RequestBatch) -> np.ndarray:
        """User vectors f32[B, D]: direction, then 1.

        A user index of -1 (no account) has the mean user's attributes.
        """
        w = self.weights
        length = min(len(w["recency"]), batch.recent_positive.shape[1])
        pooled = np.empty((len(batch), HEADS, self.inputs.shape[1]), dtype=np.float32)
        events = batch.recent_positive[:, :length]
        _pool(events, self.logits, w["recency"], self.inputs, pooled)
        known = self._known(batch)
        inputs = np.concatenate([pooled.reshape(len(batch), -1), known], axis=1, dtype=np.float32)
        hidden = _gelu(inputs @ w["user_hidden.weight"] + w["user_hidden.bias"])
        raw = inputs @ w["user_skip.weight"] + hidden @ w["user_out.weight"] + w["user_out.bias"]
        vectors = np.ones((len(batch), raw.shape[1] + 1), dtype=np.float32)
        vectors[:, :-1] = raw / np.maximum(np.linalg.norm(raw, axis=1, keepdims=True), 1e-12)
        return vectors

    def _known(self, batch: RequestBatch) -> np.ndarray:
        length = np.linalg.norm(batch.tag_profile, axis=1, keepdims=True)
        profile = batch.tag_profile / np.maximum(length, 1e-6)
        rows = self.known[batch.user_idx]
        guest = batch.user_idx < 0
        if guest.any():
            rows[guest] = self.known.mean(axis=0)
        return rows + profile @ self.weights["profile.weight"]

    def add_uploads(self, videos: np.ndarray, catalogue: Catalogue) -> np.ndarray:
        """Encode videos that have no id row, from what is known at upload; returns f32[n, D].

        Their inputs go into the table too: a user who watches one through is read from it.
        """
        w = self.weights
        content = catalogue.content[videos].astype(np.float32) - w["projection.mean"]
        content = content @ w["projection.components"]
        content /= np.maximum(np.linalg.norm(content, axis=1, keepdims=True), 1e-12)
        inputs = content @ w["content.weight"] + w["content.bias"]
        tags = catalogue.tags[videos].astype(np.int64)
        rows = w["tags.weight"][np.where(tags >= 0, tags, TAG_SLOTS)].sum(axis=1)
        inputs += rows / np.maximum((tags >= 0).sum(axis=1), 1)[:, None]
        inputs += w["language.weight"][catalogue.language[videos] % N_LANGUAGES]
        inputs += w["duration.weight"][duration_group(catalogue.duration_s[videos])]
        creator = catalogue.creator_idx[videos]
        known = creator < len(w["creators"])
        inputs[known] += w["creators"][creator[known]]
        return self._write(videos, inputs.astype(np.float32), np.zeros(len(videos)))

    def _write(self, videos: np.ndarray, inputs: np.ndarray, id_bias: np.ndarray) -> np.ndarray:
        """Put inputs into the tables; returns the video vectors f32[n, D]."""
        w = self.weights
        self.inputs[videos] = inputs
        self.logits[videos] = inputs @ w["attention.weight"]
        hidden = _gelu(inputs @ w["item_hidden.weight"] + w["item_hidden.bias"])
        raw = inputs @ w["item_skip.weight"] + hidden @ w["item_out.weight"] + w["item_out.bias"]
        vectors = np.empty((len(videos), raw.shape[1] + 1), dtype=np.float32)
        vectors[:, :-1] = raw / np.maximum(np.linalg.norm(raw, axis=1, keepdims=True), 1e-12)
        bias = (inputs @ w["item_bias.weight"])[:, 0] + w["item_bias.bias"][0] + id_bias
        vectors[:, -1] = w["temperature"] * bias
        return vectors

    def update(self, tower: TrainedTower, videos: np.ndarray) -> np.ndarray:
        """Read the id and creator rows of these videos again; returns their vectors f32[n, D]."""
        parts = []
        with torch.inference_mode():
            for begin in range(0, len(videos), CHUNK):
                chunk = videos[begin : begin + CHUNK]
                inputs, bias = tower.encode_inputs(torch.from_numpy(chunk.astype(np.int64)))
                parts.append(self._write(chunk, inputs.numpy(), bias.numpy()))
        return np.concatenate(parts) if parts else np.zeros((0, self.dim), dtype=np.float32)

    @property
    def dim(self) -> int:
        """D."""
        return self.weights["item_out.bias"].shape[0] + 1

    def grow(self, n_videos: int) -> None:
        """Make room for videos up to ``n_videos`` - 1."""
        more = n_videos - len(self.inputs)
        if more > 0:
            self.inputs = np.pad(self.inputs, ((0, more), (0, 0)))
            self.logits = np.pad(self.logits, ((0, more), (0, 0)))

    def save(self, folder: Path) -> None:
        """One .npy file an array, so that processes can map them."""
        for field in fields(self):
            if field.name != "weights":
                np.save(folder / f"encoder_{field.name}.npy", getattr(self, field.name))
        np.savez(folder / "encoder_weights.npz", **self.weights)  # type: ignore[arg-type]

    @classmethod
    def load(cls, folder: Path) -> Encoder:
        """What ``save`` wrote. Tables are copied on write: uploads of one process stay its own."""
        weights = dict(np.load(folder / "encoder_weights.npz"))
        names = [field.name for field in fields(cls) if field.name != "weights"]
        arrays = {n: mapped(folder / f"encoder_{n}.npy", "c") for n in names}
        return cls(weights=weights, **arrays)


def mapped(path: Path, mode: Literal["c", "r"]) -> np.ndarray:
    """A .npy file as a plain array over mapped memory: processes share its pages.

    Mode "c" copies a page when it is written, "r" refuses to.
    """
    return np.load(path, mmap_mode=mode).view(np.ndarray)


def make_encoder(tower: TrainedTower, n_videos: int) -> Encoder:
    """The serving form of a trained tower, with no video encoded yet."""
    with torch.inference_mode():
        weights = {
            # Linear layers multiply from the right here: transpose once.
            name: np.ascontiguousarray(value.numpy().T if _is_linear(name) else value.numpy())
            for name, value in tower.model.state_dict().items()
        }
        model, columns = tower.model, tower.attributes
        known = model.user_language(columns[:, 0]) + model.age(columns[:, 1])
        known = known + model.device(columns[:, 2]) + model.profile.bias
    weights["creators"] = tower.creators.value.numpy().copy()
    weights["projection.mean"] = tower.projection.mean
    weights["projection.components"] = tower.projection.components
    weights["temperature"] = np.array(tower.model.temperature, dtype=np.float32)
    width = tower.model.width
    return Encoder(
        inputs=np.zeros((n_videos, width), dtype=np.float32),
        logits=np.zeros((n_videos, HEADS), dtype=np.float32),
        known=known.numpy().copy(),
        weights=weights,
    )


def _is_linear(name: str) -> bool:
    rows = ("tags.", "language.", "duration.", "user_language.", "age.", "device.")
    return name.endswith(".weight") and not name.startswith(rows)


@numba.njit(cache=True, nogil=True)
def _pool(videos, logits, recency, inputs, target):  # type: ignore[no-untyped-def]
    """``target`` f32[B, A, W]: inputs of videos i32[B, L] (-1 padded) weighed by softmax."""
    weight = np.empty(videos.shape[1], np.float32)
    for b in range(len(videos)):
        for a in range(target.shape[1]):
            top, total = np.float32(-np.inf), np.float32(0.0)
            for place in range(videos.shape[1]):
                if videos[b, place] >= 0:
                    top = max(top, logits[videos[b, place], a] + recency[place, a])
            target[b, a, :] = 0
            for place in range(videos.shape[1]):
                v = videos[b, place]
                if v >= 0:
                    weight[place] = np.exp(logits[v, a] + recency[place, a] - top)
                    total += weight[place]
            for place in range(videos.shape[1]):
                v = videos[b, place]
                if v >= 0:
                    share = weight[place] / total
                    for d in range(inputs.shape[1]):
                        target[b, a, d] += share * inputs[v, d]


def _gelu(x: np.ndarray) -> np.ndarray:
    return np.asarray(0.5 * x * (1.0 + erf(x * np.float32(1 / sqrt(2)))), dtype=np.float32)
