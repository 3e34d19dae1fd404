"""SASRec and HSTU against torch's own attention, naive loops, and the arrow of time."""

import math

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional

from ml_algorithms.sequence_models.hstu import HSTU, HSTULayer, time_bucket
from ml_algorithms.sequence_models.sasrec import (
    CausalSelfAttention,
    SASRec,
    causal_mask,
    join_heads,
    split_heads,
)

N_ITEMS = 30


def make(kind: str, **knobs) -> nn.Module:  # type: ignore[no-untyped-def]
    torch.manual_seed(0)
    shape = {"width": 8, "n_layers": 2, "n_heads": 2}
    if kind == "sasrec":
        return SASRec(N_ITEMS, 6, **shape).eval()
    return HSTU(N_ITEMS, 6, **shape, clock=kind, **knobs).eval()  # type: ignore[arg-type]


def batch(seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    items = torch.randint(0, N_ITEMS, (3, 6), generator=generator)
    items[1, :2] = N_ITEMS  # left padding
    times = torch.randint(0, 10**6, (3, 7), generator=generator).sort(dim=1).values
    return items, times


KINDS = ["sasrec", "none", "history", "request"]


def test_attention_equals_torch_with_the_same_weights() -> None:
    torch.manual_seed(1)
    ours = CausalSelfAttention(8, 2)
    theirs = nn.MultiheadAttention(8, 2, batch_first=True)
    with torch.no_grad():
        theirs.in_proj_weight.copy_(ours.qkv.weight)
        theirs.in_proj_bias.copy_(ours.qkv.bias)
        theirs.out_proj.load_state_dict(ours.output.state_dict())
    x = torch.randn(2, 5, 8)
    past = torch.ones(5, 5, dtype=torch.bool).tril()
    expected, _ = theirs(x, x, x, attn_mask=~past, need_weights=False)
    torch.testing.assert_close(ours(x, past[None, None]), expected, atol=1e-6, rtol=1e-5)


def test_attention_equals_the_fused_kernel_under_padding() -> None:
    torch.manual_seed(2)
    ours, (items, _) = CausalSelfAttention(8, 2), batch()
    mask, x = causal_mask(items, N_ITEMS), torch.randn(3, 6, 8)
    query, key, value = (split_heads(part, 2) for part in ours.qkv(x).chunk(3, -1))
    fused = functional.scaled_dot_product_attention(query, key, value, attn_mask=mask)
    torch.testing.assert_close(ours(x, mask), ours.output(join_heads(fused)))


def test_the_mask_by_hand() -> None:
    items = torch.tensor([[N_ITEMS, 4, 7]])
    expected = [[1, 0, 0], [0, 1, 0], [0, 1, 1]]
    assert causal_mask(items, N_ITEMS)[0, 0].int().tolist() == expected


@pytest.mark.parametrize("kind", KINDS)
def test_the_future_does_not_change_the_past(kind: str) -> None:
    model, (items, times) = make(kind), batch()
    before = model(items, times)
    items, times = items.clone(), times.clone()
    items[:, 4:] = (items[:, 4:] + 11) % N_ITEMS
    times[:, 5:] += 10**7  # the request clock of position 3 reads column 4, no later one
    after = model(items, times)
    torch.testing.assert_close(after[:, :4], before[:, :4])
    assert (after[:, 4:] - before[:, 4:]).abs().max() > 1e-3


@pytest.mark.parametrize("kind", KINDS)
def test_padding_does_not_change_the_answer(kind: str) -> None:
    model, (items, times) = make(kind), batch()
    short = items[1:2, 2:]
    if kind == "sasrec":
        torch.testing.assert_close(model(items, times)[1:2, 2:], model(short))
        return
    # HSTU divides by the padded length: a scale that its norm takes out again, up to its epsilon.
    model = model.double()
    for layer in model.layers:
        layer.attended_norm.eps = 0.0
    padded = model(items, times)[1:2, 2:]
    torch.testing.assert_close(padded, model(short, times[1:2, 2:]))


def test_the_first_layer_of_sasrec_by_hand() -> None:
    model = make("sasrec")
    items = torch.tensor([[3]])
    x = model.item_embedding(items) * math.sqrt(8) + model.position[-1:]
    torch.testing.assert_close(model.embed(items), x)
    block = model.blocks[0]
    normed = functional.layer_norm(x, (8,), block.attention_norm.weight, block.attention_norm.bias)
    value = block.attention.qkv(normed)[..., 16:]  # one event attends to itself with weight 1
    x = x + block.attention.output(value)
    inner = functional.gelu(block.widen(block.feed_forward_norm(x)))
    expected = x + block.narrow(inner)
    torch.testing.assert_close(block(model.embed(items), causal_mask(items, N_ITEMS)), expected)


def naive_hstu(layer: HSTULayer, x: np.ndarray, buckets: np.ndarray, heads: int) -> np.ndarray:
    """The equations, one position, head and key at a time, in float64."""

    def silu(z: np.ndarray | float) -> np.ndarray | float:
        return z / (1 + np.exp(-np.asarray(z)))

    def norm(z: np.ndarray, module: nn.LayerNorm) -> np.ndarray:
        weight, bias = module.weight.double().numpy(), module.bias.double().numpy()
        return (z - z.mean()) / np.sqrt(z.var() + module.eps) * weight + bias

    length, width = x.shape
    d = width // heads
    matrix = layer.uvqk.weight.double().numpy()
    u, v, q, k = (
        np.array([silu(matrix @ norm(row, layer.norm)) for row in x])[
            :, c * width : (c + 1) * width
        ]
        for c in range(4)
    )
    position, clock = layer.position_bias.double().numpy(), layer.time_bias.double().numpy()
    out = np.zeros_like(x)
    for here in range(length):
        attended = np.zeros(width)
        for head in range(heads):
            part = slice(head * d, (head + 1) * d)
            for there in range(here + 1):
                logit = q[here, part] @ k[there, part]
                logit += position[here - there] + clock[buckets[here, there]]
                attended[part] += silu(logit) * v[there, part] / length
        gated = norm(attended, layer.attended_norm) * u[here]
        projected = layer.output.weight.double().numpy() @ gated
        out[here] = x[here] + projected + layer.output.bias.double().numpy()
    return out


@torch.no_grad()
def test_hstu_equals_a_naive_loop() -> None:
    torch.manual_seed(3)
    layer = HSTULayer(8, 2, 5, 0.0, timed=True).double()
    layer.output.bias.normal_()
    x, mask = torch.randn(1, 5, 8, dtype=torch.float64), torch.ones(1, 1, 5, 5).tril().bool()
    buckets = torch.randint(0, 9, (1, 5, 5))
    expected = naive_hstu(layer, x[0].numpy(), buckets[0].numpy(), 2)
    np.testing.assert_allclose(layer(x, mask, buckets)[0].numpy(), expected, atol=1e-10)


@pytest.mark.parametrize(("seconds", "bucket"), [(0, 0), (1, 0), (2, 2), (60, 13), (86_400, 37)])
def test_time_buckets_by_hand(seconds: int, bucket: int) -> None:
    assert time_bucket(torch.tensor(seconds)).item() == bucket  # int(ln(s) / 0.301)


def test_only_a_clock_reads_the_times_and_only_the_request_clock_the_last_one() -> None:
    items, times = batch()
    later = times.clone()
    later[:, -1] += 10**8
    for kind, reads in (("sasrec", False), ("none", False), ("history", False), ("request", True)):
        model = make(kind)
        change = (model(items, later) - model(items, times)).abs().max().item()
        assert (change > 1e-6) == reads, kind
    with pytest.raises(ValueError, match=r"times \[B, L \+ 1\]"):
        make("history")(items)


@torch.no_grad()
def test_more_of_the_same_counts_in_hstu_until_its_norm_and_not_in_a_softmax() -> None:
    """One event once and twice: a softmax averages, SiLU adds up, the norm takes the length out."""
    torch.manual_seed(4)
    x, mask = torch.randn(1, 1, 8).expand(1, 2, 8), torch.ones(1, 1, 2, 2).tril().bool()
    once, twice = CausalSelfAttention(8, 2)(x, mask)[0]
    torch.testing.assert_close(twice, once)
    layer = HSTULayer(8, 2, 2, 0.0, timed=False).double()
    layer.position_bias.zero_()
    layer.output.bias.zero_()
    layer.attended_norm.eps = 0.0
    x = x.double()
    once, twice = (layer(x, mask, None) - x)[0]
    torch.testing.assert_close(twice, once)
    layer.attended_norm = nn.Identity()  # type: ignore[assignment]
    once, twice = (layer(x, mask, None) - x)[0]
    assert once.abs().max() > 1e-4
    torch.testing.assert_close(twice, 2 * once)


def test_bad_shapes_are_refused() -> None:
    with pytest.raises(ValueError, match="not divisible by 3 heads"):
        SASRec(10, 4, width=8, n_heads=3)
    with pytest.raises(ValueError, match="not divisible by 3 heads"):
        HSTU(10, 4, width=8, n_heads=3)
    for kind in ("sasrec", "none"):
        with pytest.raises(ValueError, match="7 events, but the model reads at most 6"):
            make(kind)(torch.zeros(1, 7, dtype=torch.long))
