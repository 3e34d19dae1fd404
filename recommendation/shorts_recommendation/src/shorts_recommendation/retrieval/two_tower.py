"""The two towers: what a video is and what a user wants, as vectors of one space.

A video's input is a sum: a linear map of its reduced content (principal components of the 768-d
vector), its id row, its creator's row, the mean of its tags' rows, its language and its duration
group. An upload has no id row yet (zeros), which ``id_dropout`` makes the tower used to. The video
vector is that input through a residual layer, scaled to unit length, and one more number: a bias.

A user's last L long views are pooled by attention heads over the same inputs; the logit of an event
is a function of the video plus a learned function of how many long views ago it was. Pooled
history, attributes and tag profile go through one hidden layer to a unit vector; the number beside
it is 1, so that one inner product of D numbers is ``cosine + bias``. Pooling the videos swiped away
by heads of their own was tried: it cost a fifth more time and changed no recall on the validation
days (their tags are in the profile, and they teach through the loss: training.py).

The shape is the candidate generator of Covington, Adams, Sargin, "Deep Neural Networks for YouTube
Recommendations", RecSys 2016, section 3, with the item side of Yi et al., "Sampling-Bias-Corrected
Neural Modeling for Large Corpus Item Recommendations", RecSys 2019, section 4. Departures: watches
are pooled by attention, not averaged; the bias is a dimension of the vector.

Rows of ids are not parameters of an optimiser: ``RowTable`` updates the touched rows only.

Shapes: B batch, L history length, N videos of a batch (each once), W width, A heads, D = W.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from shorts_recommendation.log import Catalogue, Users
from shorts_recommendation.requests import TAG_SLOTS

HEADS = 4
HIDDEN = 128
N_DURATION_GROUPS = 12
N_LANGUAGES, N_AGES, N_DEVICES = 16, 8, 4
_EPS = 1e-8


class RowTable:
    """Rows of a sparse embedding, updated by row-wise Adagrad where a batch touched them.

    One accumulator a row, the mean square of its gradients: the optimiser's state is one number a
    row instead of two vectors, and a step costs what the batch touched, not the catalogue.

    Args:
        n_rows: Rows, zero at the start: a row never trained is no information.
        dim: Width.
    """

    def __init__(self, n_rows: int, dim: int) -> None:
        self.value = torch.zeros(n_rows, dim)
        self.square = torch.zeros(n_rows)

    def leaf(self, rows: Tensor) -> Tensor:
        """The rows as a leaf [N, dim] that gathers their gradient; rows must not repeat."""
        return self.value[rows].requires_grad_()

    def step(self, rows: Tensor, gradient: Tensor, learning_rate: float) -> None:
        """One step on these rows with the leaf's gradient [N, dim]."""
        self.square[rows] += gradient.square().mean(dim=1)
        scale = learning_rate / (self.square[rows].sqrt() + _EPS)
        self.value[rows] -= scale[:, None] * gradient


@dataclass(frozen=True)
class ItemColumns:
    """What the video tower reads of the catalogue, as tensors by ``video_idx``.

    Attributes:
        content: f32[V, R], reduced content.
        creator: i64[V].
        tags: i64[V, 3], ``TAG_SLOTS`` where there are fewer.
        language: i64[V].
        duration: i64[V], group of the log of the duration.
    """

    content: Tensor
    creator: Tensor
    tags: Tensor
    language: Tensor
    duration: Tensor

    @classmethod
    def of(cls, catalogue: Catalogue, content: np.ndarray) -> ItemColumns:
        """Columns of a catalogue with its reduced content f32[V, R]."""
        tags = np.where(catalogue.tags >= 0, catalogue.tags, TAG_SLOTS)
        return cls(
            torch.from_numpy(content),
            torch.from_numpy(catalogue.creator_idx.astype(np.int64)),
            torch.from_numpy(tags.astype(np.int64)),
            torch.from_numpy(catalogue.language.astype(np.int64) % N_LANGUAGES),
            torch.from_numpy(duration_group(catalogue.duration_s)),
        )


def duration_group(duration_s: np.ndarray) -> np.ndarray:
    """i64[V]: half-octaves from 4 seconds on, N_DURATION_GROUPS of them."""
    octave = np.log2(np.maximum(duration_s, 1.0) / 4.0)
    return np.clip((2 * octave).astype(np.int64), 0, N_DURATION_GROUPS - 1)


class TwoTower(nn.Module):
    """Both towers; see the module's text.

    Args:
        n_content: R, width of the reduced content.
        width: W, which is also D: W - 1 dimensions of direction and the bias.
        length: L.
        temperature: Of the softmax: the bias is kept divided by nothing, cosines divided by it.
    """

    def __init__(self, n_content: int, width: int, length: int, temperature: float) -> None:
        super().__init__()
        self.width, self.length, self.temperature = width, length, temperature
        self.content = nn.Linear(n_content, width)
        self.tags = _rows(TAG_SLOTS + 1, width, padding=TAG_SLOTS)
        self.language = _rows(N_LANGUAGES, width)
        self.duration = _rows(N_DURATION_GROUPS, width)
        self.item_hidden = nn.Linear(width, HIDDEN)
        self.item_out = nn.Linear(HIDDEN, width - 1)
        self.item_skip = nn.Linear(width, width - 1, bias=False)
        self.item_bias = nn.Linear(width, 1)
        self.attention = nn.Linear(width, HEADS, bias=False)
        self.recency = nn.Parameter(torch.linspace(0.0, -1.5, length)[:, None].repeat(1, HEADS))
        self.user_language = _rows(N_LANGUAGES, width)
        self.age = _rows(N_AGES, width)
        self.device = _rows(N_DEVICES, width)
        self.profile = nn.Linear(TAG_SLOTS, width)
        self.user_hidden = nn.Linear((HEADS + 1) * width, HIDDEN)
        self.user_out = nn.Linear(HIDDEN, width - 1)
        self.user_skip = nn.Linear((HEADS + 1) * width, width - 1, bias=False)

    def inputs(
        self, columns: ItemColumns, videos: Tensor, id_rows: Tensor, creator_rows: Tensor
    ) -> Tensor:
        """Summed inputs f32[N, W] of videos i64[N] with their id and creator rows [N, W]."""
        tags = columns.tags[videos]
        n_tags = (tags != TAG_SLOTS).sum(dim=1, keepdim=True).clamp_min(1)
        return (
            self.content(columns.content[videos])
            + id_rows
            + creator_rows
            + self.tags(tags).sum(dim=1) / n_tags
            + self.language(columns.language[videos])
            + self.duration(columns.duration[videos])
        )

    def items(self, inputs: Tensor, id_bias: Tensor) -> Tensor:
        """Video vectors f32[N, D] from inputs [N, W] and the bias of their id rows [N]."""
        hidden = functional.gelu(self.item_hidden(inputs))
        direction = functional.normalize(self.item_skip(inputs) + self.item_out(hidden), dim=1)
        bias = self.temperature * (self.item_bias(inputs)[:, 0] + id_bias)
        return torch.cat([direction, bias[:, None]], dim=1)

    def users(
        self, history: Tensor, present: Tensor, attributes: Tensor, profile: Tensor
    ) -> Tensor:
        """User vectors f32[B, D].

        Args:
            history: Inputs of the last long views, newest first, f32[B, L, W].
            present: bool[B, L], False where there is no event.
            attributes: i64[B, 3]: language, age group, device.
            profile: f32[B, T], ``unit_profile`` of the tag profile.
        """
        logits = self.attention(history) + self.recency[: history.shape[1]]
        logits = logits.masked_fill(~present[..., None], -1e9)
        weight = torch.softmax(logits, dim=1) * present[..., None]
        pooled = torch.einsum("bla,blw->baw", weight, history).flatten(1)
        known = (
            self.user_language(attributes[:, 0])
            + self.age(attributes[:, 1])
            + self.device(attributes[:, 2])
            + self.profile(profile)
        )
        inputs = torch.cat([pooled, known], dim=1)
        hidden = functional.gelu(self.user_hidden(inputs))
        direction = functional.normalize(self.user_skip(inputs) + self.user_out(hidden), dim=1)
        return torch.cat([direction, torch.ones_like(direction[:, :1])], dim=1)


def unit_profile(profile: np.ndarray) -> np.ndarray:
    """Tag profiles f32[B, T] at length 1: what counts is their shape. Zero stays zero."""
    length = np.linalg.norm(profile, axis=1, keepdims=True)
    return np.asarray(profile / np.maximum(length, 1e-6), dtype=np.float32)


def attribute_columns(users: Users) -> np.ndarray:
    """i64[U, 3]: language, age group, device, each within the rows that the tower has."""
    columns = (
        users.language % N_LANGUAGES,
        np.clip(users.age_group, 0, N_AGES - 1),
        np.clip(users.device, 0, N_DEVICES - 1),
    )
    return np.stack(columns, axis=1).astype(np.int64)


def _rows(n: int, dim: int, padding: int | None = None) -> nn.Embedding:
    rows = nn.Embedding(n, dim, padding_idx=padding)
    nn.init.normal_(rows.weight, std=0.1)
    if padding is not None:
        with torch.no_grad():
            rows.weight[padding] = 0
    return rows
