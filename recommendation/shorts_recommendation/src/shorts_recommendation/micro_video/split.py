"""The published split as matrices and queries, and a generated set of the same shape.

In: ``MicroVideos``. Out: ``Split``: train as csr [U, V], one query a validation or test user (one
watched video each), content features f32[V, D].

What the shape of the set means: an ordinary account has one to three train rows and exactly one
pair in validation *or* test, never both. About a hundred heavy accounts hold most train rows,
spread over the catalogue almost at random. There are no times, so nothing can be cut by time here:
the published split is what the published figures stand on, and it is taken as it is.

``generated_set`` imitates all of that, drift between train and the rest included, for tests.

Legend: U users, V videos, Q queries, D feature dimension.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from scipy import sparse

from ml_platform.data.micro_video import MicroVideos, Pairs, content_sha256


@dataclass(frozen=True)
class Queries:
    """One hidden video a user: user_idx, video_idx i32[Q]."""

    user_idx: np.ndarray
    video_idx: np.ndarray

    def __len__(self) -> int:
        return len(self.user_idx)


@dataclass(frozen=True)
class Split:
    """What the models see and what they are asked.

    Attributes:
        train: csr f32[U, V], ones.
        heavy: bool[U], accounts with more than ``heavy_rows`` train rows.
        content: f32[V, D], unit rows: standardised image beside weighted audio (``with_audio``).
        image, audio: f32[V, D'], unit rows.
    """

    train: sparse.csr_matrix
    heavy: np.ndarray
    validation: Queries
    test: Queries
    content: np.ndarray
    image: np.ndarray
    audio: np.ndarray

    @property
    def n_videos(self) -> int:
        """V."""
        return int(self.train.shape[1])

    def with_audio(self, weight: float) -> Split:
        """The same split with this weight of audio beside image in ``content``."""
        return replace(self, content=unit(np.hstack([self.image, weight * self.audio])))

    def for_development(self, rng: np.random.Generator) -> Split:
        """Half of the validation users as validation, the other half as test; test stays closed."""
        asked = rng.permutation(len(self.validation)) % 2 == 0
        pairs = self.validation
        return replace(
            self,
            validation=Queries(pairs.user_idx[~asked], pairs.video_idx[~asked]),
            test=Queries(pairs.user_idx[asked], pairs.video_idx[asked]),
        )

    def popularity(self, *, light_only: bool) -> np.ndarray:
        """Share of the train rows that each video has f64[V], of light accounts only or of all."""
        kept = ~self.heavy if light_only else np.ones(len(self.heavy), dtype=bool)
        counts = np.asarray(self.train[kept].sum(axis=0)).ravel()
        return np.asarray(counts / max(1.0, counts.sum()))


def make_split(videos: MicroVideos, *, heavy_rows: int, audio_weight: float) -> Split:
    """Matrices and queries of a set.

    Raises:
        ValueError: If a user has two validation or two test pairs: then a query has two answers,
            and recall and precision at k no longer say the same.
    """
    shape = (videos.n_users, videos.n_videos)
    train = matrix_of(videos.train, shape)
    image, audio = standardised(videos.image), standardised(videos.audio)
    return Split(
        train=train,
        heavy=np.diff(train.indptr) > heavy_rows,
        validation=_queries(videos.validation, "validation"),
        test=_queries(videos.test, "test"),
        content=unit(np.hstack([image, audio_weight * audio])),
        image=image,
        audio=audio,
    )


def matrix_of(pairs: Pairs, shape: tuple[int, int]) -> sparse.csr_matrix:
    """A csr f32[U, V] of ones."""
    ones = np.ones(len(pairs), dtype=np.float32)
    return sparse.csr_matrix((ones, (pairs.user_idx, pairs.video_idx)), shape=shape)


def standardised(features: np.ndarray) -> np.ndarray:
    """Each dimension to mean 0 and deviation 1, then each row to length 1. f32[V, D]."""
    spread = np.maximum(features.std(axis=0), 1e-6)
    return unit((features - features.mean(axis=0)) / spread)


def unit(rows: np.ndarray) -> np.ndarray:
    """Rows at length 1, f32; zero rows stay zero."""
    length = np.linalg.norm(rows, axis=1, keepdims=True)
    return np.asarray(rows / np.maximum(length, 1e-9), dtype=np.float32)


def _queries(pairs: Pairs, part: str) -> Queries:
    if len(np.unique(pairs.user_idx)) != len(pairs):
        raise ValueError(f"a user has several {part} pairs; this protocol is for exactly one")
    return Queries(pairs.user_idx, pairs.video_idx)


def generated_set(n_users: int = 600, n_videos: int = 240, seed: int = 0) -> MicroVideos:
    """A set of the published one's shape, from groups of taste; proves mechanics, not quality.

    Every user and video belongs to one of 8 groups, nine of ten watches stay within, features are
    the group's direction plus noise. Popularity in validation and test is another draw than in
    train. 2% of the accounts watch a quarter of the catalogue at random.
    """
    rng = np.random.default_rng(seed)
    video_group, user_group = rng.integers(0, 8, n_videos), rng.integers(0, 8, n_users)
    old, new = (rng.zipf(1.7, n_videos).clip(1, 50).astype(np.float64) for _ in range(2))
    heavy = rng.random(n_users) < 0.02
    parts: dict[str, list[tuple[int, int]]] = {"train": [], "validation": [], "test": []}
    for user in range(n_users):
        near = np.where(video_group == user_group[user], 9.0 * 7, 1.0)
        n_train = n_videos // 4 if heavy[user] else int(rng.integers(1, 4))
        weight = np.ones(n_videos) if heavy[user] else old * near
        seen = rng.choice(n_videos, n_train, replace=False, p=weight / weight.sum())
        later = new * near
        later[seen] = 0.0
        hidden = int(rng.choice(n_videos, p=later / later.sum()))
        parts["train"] += [(user, int(video)) for video in seen]
        if not heavy[user]:
            parts["validation" if rng.random() < 1 / 3 else "test"].append((user, hidden))
    pairs = {name: _as_pairs(rows) for name, rows in parts.items()}
    kinds = {"image": 1.0, "audio": 3.0}
    features = {kind: _group_features(video_group, rng, noise) for kind, noise in kinds.items()}
    return MicroVideos(
        name="generated",
        n_users=n_users,
        n_videos=n_videos,
        train=pairs["train"],
        validation=pairs["validation"],
        test=pairs["test"],
        image=features["image"],
        audio=features["audio"],
        sha256=content_sha256((n_users, n_videos), pairs, features),
        source="generator",
        licence="Generated; no terms.",
        synthetic=True,
    )


def _as_pairs(rows: list[tuple[int, int]]) -> Pairs:
    ordered = np.array(sorted(rows), dtype=np.int32).reshape(-1, 2)
    return Pairs(ordered[:, 0].copy(), ordered[:, 1].copy())


def _group_features(group: np.ndarray, rng: np.random.Generator, noise: float) -> np.ndarray:
    directions = rng.normal(size=(8, 32))
    values = directions[group] + noise * rng.normal(size=(len(group), 32))
    return np.asarray(values.astype(np.float16), dtype=np.float32)
