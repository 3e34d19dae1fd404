"""The ranking network (torch): a causal transformer over events, and a small head per task.

In: videos, events and features of windows. Out: logits f32[..., 5] in the order of heads.TASKS.

    item   v = LayerNorm(W (content - mean) + creator + mean tags + language + duration group + id)
    said   s = A v * G event                what an event says of the taste: signed by its outcome
    token  x = s + B event                  x_0 is a learned start: the state of somebody new
    state  h_t = sum_{j <= t} s_j / (PRIOR + t) + M TransformerEncoder(x_0 .. x_t)_t
                                            4 pre-norm layers, causal; the sum over the last L
    query  q = h + Q [h, user],             dots = 8 partial products of q and K v
    head   z = relu(I v + R [h, user, context] + C cross + D dots)
           logits = O relu(U z) + P dots
    alone  P dots(h; v) + E v               of the state and the item only: the auxiliary loss

Vaswani et al., "Attention Is All You Need" (NeurIPS 2017) for the layers. Positions enter as a
penalty on attention that grows with the distance, Press et al., "Train Short, Test Long: Attention
with Linear Biases" (ALiBi, ICLR 2022): a state then depends on how long ago an event was and not on
where the window was cut, so windows of 128 in training and histories of 64 in serving fit each
other. Departure: the start token is free of the penalty.

The gate ``G event`` multiplies the item by what happened and starts as the signal of an event less
its mean: a long view adds a video's vector, a skip takes it away. With A = K at the start the
products of state and candidate are, before any training, what a person made of similar videos. The
layers correct this sum. Without it they would have to find a bilinear map through a constant start
token and a norm, by gradients that are products of small numbers; instead training had let the
states of all people fall together (mean cosine 0.996), for the head can fit the mean from anything
constant. The sum is divided by a count plus a prior and by no softmax, so that it grows with the
evidence; Zhai et al., "Actions Speak Louder than Words" (HSTU, ICML 2024, section 3) drop the
softmax of attention to keep the intensity of preferences.

In the simulated world tastes are linear and drift slowly, and the sum does nearly all the work: on
the validation days of a world of 3,000 users the AUC of long views is 0.7978, without the layers'
part of the state 0.7975, without the sum 0.777.

The head is a late fusion on purpose. Everything of an item (``I v`` and the keys of ``dots``) is
computed once per catalogue, everything of a request once per request; per candidate remain a few
dot products and the cross features. An encoder that reads the candidate as a token (Chen et al.,
"Behavior Sequence Transformer", DLP-KDD 2019) sees more and costs an encoding per candidate.

Legend: B windows, W events, d width, E event columns, F cross features.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from shorts_recommendation.log import Catalogue
from shorts_recommendation.ranking.duration import WatchLabel
from shorts_recommendation.ranking.heads import TASKS
from shorts_recommendation.ranking.sequences import EVENT_COLUMNS
from shorts_recommendation.requests import CONTEXT_DIM, USER_DIM

ID_DIM = 32
MIN_SHOWN = 5
"""Training impressions below which a video's own vector would be noise: it gets the shared one."""
ID_SLOTS = 32_768
"""Most videos with a vector of their own: the optimiser touches all of them at every step."""
DOTS = 8
"""Dot products of d / 8 numbers each between request and item."""
CLIP = 6.0
"""Standard deviations: a feature beyond says no more."""

GATE_START = (0.0, 1.0, -0.3, 0.5, 0.5, 0.0, 0.0)
"""By EVENT_COLUMNS, and the gate's bias: a long view counts 0.6, a skip -0.7, at the start."""
GATE_BIAS = -0.4
PRIOR = 5.0
"""Events that speak for no taste at all: a sum of few is drawn to zero."""
MIX_START = 0.02
QUERY_START = 0.3
"""Of the usual size: at the start the state itself is what meets the candidate."""
DIRECT_START = (0.3, 0.1, 0.3, -0.3, 0.0)
"""Of a dot product in the logits of TASKS; without it the taste waits for the hidden layers."""


@dataclass(frozen=True)
class ItemColumns:
    """What the item tower looks up, by video_idx.

    Attributes:
        creator: i64[V].
        tags: i64[V, 3], one more than the tag; 0 where there is none.
        language: i64[V].
        duration: i64[V], duration group.
        slot: i64[V], row of the id table; 0 is shared by all that were hardly shown.
    """

    creator: Tensor
    tags: Tensor
    language: Tensor
    duration: Tensor
    slot: Tensor


def item_columns(catalogue: Catalogue, label: WatchLabel, shown: np.ndarray) -> ItemColumns:
    """Columns of a catalogue; ``shown`` i64[V] counts training impressions."""
    slot = np.zeros(len(catalogue), dtype=np.int64)
    order = np.argsort(-shown, kind="stable")[:ID_SLOTS]
    order = order[shown[order] >= MIN_SHOWN]
    slot[order] = np.arange(1, len(order) + 1)
    return ItemColumns(
        creator=_long(catalogue.creator_idx),
        tags=_long(catalogue.tags) + 1,
        language=_long(catalogue.language),
        duration=_long(label.group(catalogue.duration_s)),
        slot=torch.from_numpy(slot),
    )


@dataclass(frozen=True)
class Scale:
    """Standardisation of dense inputs: (x - mean) / scale, clipped.

    Attributes:
        mean: f32[n].
        scale: f32[n].
    """

    mean: np.ndarray
    scale: np.ndarray

    @classmethod
    def fit(cls, values: np.ndarray) -> Scale:
        """Of a sample of rows [N, n]; a constant column keeps its scale of 1."""
        values = values.astype(np.float32)
        deviation = values.std(axis=0)
        return cls(values.mean(axis=0), np.where(deviation > 1e-4, deviation, 1.0))

    def apply(self, values: np.ndarray) -> np.ndarray:
        """f32 of the shape given."""
        scaled = (values.astype(np.float32) - self.mean) / self.scale
        return np.clip(scaled, -CLIP, CLIP, out=scaled)


class ItemTower(nn.Module):
    """Items f32[n, d] of content and columns."""

    content_mean: Tensor

    def __init__(
        self, columns: ItemColumns, *, content_mean: np.ndarray, width: int, id_dropout: float
    ) -> None:
        super().__init__()
        self.columns, self.id_dropout = columns, id_dropout
        content_dim = len(content_mean)
        mean = torch.from_numpy(content_mean.astype(np.float32))
        self.register_buffer("content_mean", mean, persistent=False)
        self.content = nn.Linear(content_dim, width)
        self.creator = nn.Embedding(int(columns.creator.max()) + 1, width)
        self.tag = nn.Embedding(int(columns.tags.max()) + 1, width, padding_idx=0)
        self.language = nn.Embedding(int(columns.language.max()) + 1, width)
        self.duration = nn.Embedding(int(columns.duration.max()) + 1, width)
        self.slot = nn.Embedding(int(columns.slot.max()) + 1, ID_DIM, padding_idx=0)
        self.identity = nn.Linear(ID_DIM, width, bias=False)
        self.norm = nn.LayerNorm(width)
        for table in (self.creator, self.tag, self.language, self.duration, self.slot):
            nn.init.normal_(table.weight, std=0.05)
        for table in (self.tag, self.slot):
            nn.init.zeros_(table.weight[0])

    def forward(self, video: Tensor, content: Tensor) -> Tensor:
        """Items of videos i64[n] with their content f32[n, content_dim]."""
        columns = self.columns
        slot = columns.slot[video]
        if self.training and self.id_dropout:  # what a fresh upload looks like
            slot = slot * (torch.rand(len(slot)) >= self.id_dropout)
        tags = columns.tags[video]
        n_tags = (tags > 0).sum(dim=1, keepdim=True).clamp(min=1)
        # Unit rows have tiny entries, and a common mean that the norm below would make the vector.
        total = self.content((content - self.content_mean) * content.shape[1] ** 0.5 / 4)
        total = total + self.creator(columns.creator[video]) + self.tag(tags).sum(dim=1) / n_tags
        total = total + self.language(columns.language[video])
        total = total + self.duration(columns.duration[video]) + self.identity(self.slot(slot))
        return self.norm(total)


class HistoryEncoder(nn.Module):
    """States f32[B, W + 1, d] after 0 .. W events; ``reach`` of them are summed up."""

    def __init__(
        self, *, width: int, n_layers: int, n_heads: int, dropout: float, reach: int
    ) -> None:
        super().__init__()
        self.item = nn.Linear(width, width)
        self.event = nn.Linear(len(EVENT_COLUMNS), width, bias=False)
        self.gate = nn.Linear(len(EVENT_COLUMNS), width)
        with torch.no_grad():
            self.gate.weight.copy_(torch.tensor(GATE_START).expand(width, -1))
            self.gate.bias.fill_(GATE_BIAS)
            nn.init.orthogonal_(self.item.weight, gain=width**-0.25)
            nn.init.zeros_(self.item.bias)
        self.start = nn.Parameter(torch.randn(width) * 0.05)
        # torch.relu and not "relu": the name switches on a fused path in evaluation mode that reads
        # a mask of numbers as a mask of yes and no, and silently loses the penalties (torch 2.13).
        layer = nn.TransformerEncoderLayer(
            width,
            n_heads,
            2 * width,
            dropout,
            activation=torch.relu,
            batch_first=True,
            norm_first=True,
        )
        # Drawing masks for attention weights would cost more than attention itself: dropout acts on
        # the two residual branches only, and the fused attention kernel can be used.
        layer.self_attn.dropout = 0.0
        layer.dropout.p = 0.0
        self.layers = nn.TransformerEncoder(
            layer, n_layers, norm=nn.LayerNorm(width), enable_nested_tensor=False
        )
        self.mix = nn.Linear(width, width, bias=False)
        nn.init.normal_(self.mix.weight, std=MIX_START)
        self.n_heads, self.reach = n_heads, reach

    def forward(self, items: Tensor, events: Tensor) -> Tensor:
        """Items f32[B, W, d] and events f32[B, W, E], padded on the right.

        The mask is causal, so a padding is read by paddings only.
        """
        start = self.start.expand(len(items), 1, -1)
        signed = self.item(items) * self.gate(events)
        tokens = torch.cat([start, signed + self.event(events)], dim=1)
        mask = torch.from_numpy(attention_bias(tokens.shape[1], self.n_heads))
        read = self.layers(tokens, mask=mask.repeat(len(items), 1, 1))
        share = torch.from_numpy(taste_weights(items.shape[1], self.reach))
        return share @ signed + self.mix(read)


class RankingNetwork(nn.Module):
    """Item tower, history encoder, heads."""

    def __init__(
        self,
        columns: ItemColumns,
        *,
        content_mean: np.ndarray,
        n_cross: int,
        width: int = 64,
        n_layers: int = 4,
        n_heads: int = 4,
        reach: int = 64,
        hidden: tuple[int, int] = (128, 64),
        dropout: float = 0.1,
        id_dropout: float = 0.1,
    ) -> None:
        super().__init__()
        if width % n_heads or width % DOTS:
            raise ValueError(f"d_model {width} must be a multiple of {n_heads} heads and of {DOTS}")
        self.items = ItemTower(
            columns, content_mean=content_mean, width=width, id_dropout=id_dropout
        )
        self.encoder = HistoryEncoder(
            width=width, n_layers=n_layers, n_heads=n_heads, dropout=dropout, reach=reach
        )
        self.query = nn.Linear(width + USER_DIM, width)
        self.key = nn.Linear(width, width)
        self.item_in = nn.Linear(width, hidden[0])
        self.request_in = nn.Linear(width + USER_DIM + CONTEXT_DIM, hidden[0], bias=False)
        self.cross_in = nn.Linear(n_cross, hidden[0], bias=False)
        self.dots_in = nn.Linear(DOTS, hidden[0], bias=False)
        self.middle = nn.Linear(*hidden)
        self.out = nn.Linear(hidden[1], len(TASKS))
        self.direct = nn.Linear(DOTS, len(TASKS), bias=False)
        self.alone = nn.Linear(width, len(TASKS))
        self.dropout = nn.Dropout(dropout)
        with torch.no_grad():
            self.key.weight.copy_(self.encoder.item.weight)
            self.key.bias.zero_()
            self.query.weight.mul_(QUERY_START)
            self.query.bias.zero_()
            self.direct.weight.copy_(torch.tensor(DIRECT_START)[:, None].expand(-1, DOTS))

    def logits(
        self, state: Tensor, user: Tensor, context: Tensor, item: Tensor, cross: Tensor
    ) -> Tensor:
        """f32[..., 5] of standardised inputs with equal leading dimensions."""
        query = state + self.query(torch.cat([state, user], dim=-1))
        dots = _dots(query, self.key(item))
        request = self.request_in(torch.cat([state, user, context], dim=-1))
        first = self.item_in(item) + request + self.cross_in(cross) + self.dots_in(dots)
        second = torch.relu(self.middle(self.dropout(torch.relu(first))))
        return self.out(second) + self.direct(dots)

    def state_logits(self, state: Tensor, item: Tensor) -> Tensor:
        """f32[..., 5] of the state and the item alone, for the auxiliary loss."""
        return self.direct(_dots(state, self.key(item))) + self.alone(item)


def taste_weights(length: int, reach: int) -> np.ndarray:
    """f32[W + 1, W]: weights of the last ``reach`` events in the sum after 0 .. W events."""
    lag = np.arange(length + 1)[:, None] - 1 - np.arange(length)[None, :]
    taken = (lag >= 0) & (lag < reach)
    return (taken / (PRIOR + taken.sum(axis=1, keepdims=True))).astype(np.float32)


def _dots(query: Tensor, key: Tensor) -> Tensor:
    return (query * key).unflatten(-1, (DOTS, -1)).sum(dim=-1)


def attention_bias(length: int, n_heads: int) -> np.ndarray:
    """f32[H, S, S], added to attention: ALiBi's slopes 2^(-8 h / H), causal, start token free."""
    place = np.arange(length)
    distance = (place[:, None] - place[None, :]).astype(np.float32)
    slopes = 2.0 ** (-8.0 * np.arange(1, n_heads + 1) / n_heads)
    bias = -slopes[:, None, None].astype(np.float32) * np.maximum(distance, 0)
    bias[:, :, 0] = 0.0
    bias[:, distance < 0] = -np.inf
    return bias


def _long(values: np.ndarray) -> Tensor:
    return torch.from_numpy(values.astype(np.int64))
