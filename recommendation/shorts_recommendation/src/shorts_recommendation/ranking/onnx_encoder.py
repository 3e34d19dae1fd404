"""The history encoder as an ONNX graph, for serving without torch.

In: a trained ``HistoryEncoder`` and the length L of histories. Out: the bytes of a model with

    items f32[B, L, d]      rows of the bundle's token table (the encoder's own map is folded in)
    events f32[B, L, E]     sequences.event_columns
    known f32[B, L]         1 where there is an event, 0 at paddings (on the left)
    -> state f32[B, d]      after the last event

Written node by node instead of traced. Two things are gained over an export of the module: the last
layer computes one query instead of L + 1, since only the newest state is asked for; and nothing
here depends on an exporter that changes between versions. A test compares it with torch.
"""

from __future__ import annotations

import numpy as np
import onnx
import onnxruntime as ort
import torch
from onnx import TensorProto, helper, numpy_helper

from shorts_recommendation.ranking.network import PRIOR, HistoryEncoder, attention_bias
from shorts_recommendation.ranking.sequences import EVENT_COLUMNS

OPSET = 17
NOT_THERE = -1e9  # finite: the row of a padding has only the start token and must not become NaN


class _Graph:
    """Nodes and constants, named as they come."""

    def __init__(self) -> None:
        self.nodes: list[onnx.NodeProto] = []
        self.constants: list[onnx.TensorProto] = []

    def constant(self, value: np.ndarray | np.float32) -> str:
        """Adds a constant; its name."""
        name = f"c{len(self.constants)}"
        self.constants.append(numpy_helper.from_array(np.ascontiguousarray(value), name))
        return name

    def __call__(self, operation: str, *inputs: str, n: int = 1, **attributes: object) -> str:
        """Adds a node; the name of its output (of the first of ``n``, named _0, _1, ...)."""
        name = f"n{len(self.nodes)}"
        outputs = [name] if n == 1 else [f"{name}_{i}" for i in range(n)]
        self.nodes.append(helper.make_node(operation, list(inputs), outputs, **attributes))
        return name

    def linear(self, x: str, weight: np.ndarray, bias: np.ndarray | None = None) -> str:
        """``x @ weight.T + bias`` of torch's layout."""
        product = self("MatMul", x, self.constant(weight.T))
        return product if bias is None else self("Add", product, self.constant(bias))


def encoder_model(encoder: HistoryEncoder, length: int) -> bytes:
    """The model's bytes; see the module's docstring."""
    weights = {name: value.detach().numpy() for name, value in encoder.state_dict().items()}
    width = len(weights["start"])
    graph = _Graph()
    gate = graph.linear("events", weights["gate.weight"], weights["gate.bias"])
    events = graph.linear("events", weights["event.weight"])
    signed = graph("Mul", "items", gate)
    tokens = graph("Add", signed, events)
    start = graph(
        "Expand", graph.constant(weights["start"][None, None]), _start_shape(graph, width)
    )
    x = graph("Concat", start, tokens, axis=1)
    bias = _bias(graph, encoder.n_heads, length + 1)
    n_layers = len(encoder.layers.layers)
    for number in range(n_layers):
        part = {
            name.removeprefix(f"layers.layers.{number}."): value
            for name, value in weights.items()
            if name.startswith(f"layers.layers.{number}.")
        }
        last = number == n_layers - 1
        x = _layer(graph, x, part, _rows(graph, bias, last), encoder.n_heads, last_only=last)
    x = _norm(graph, x, weights["layers.norm.weight"], weights["layers.norm.bias"])
    x = graph("Add", graph.linear(x, weights["mix.weight"]), _taste(graph, signed, encoder, length))
    state = graph("Reshape", x, _shape(graph, 0, width))
    # Without any event the last row is a padding's: the start token's own state stands instead.
    newest = graph("Cast", _last(graph, "known"), to=TensorProto.BOOL)
    empty = graph.constant(_empty_state(encoder))
    graph.nodes.append(helper.make_node("Where", [newest, state, empty], ["state"]))
    return _model(graph, width, length).SerializeToString()


def quantised(model: bytes) -> bytes:
    """The model with int8 weights and activations quantised as they come (dynamic)."""
    import tempfile
    from pathlib import Path

    from onnxruntime.quantization import QuantType, quantize_dynamic

    with tempfile.TemporaryDirectory() as folder:
        source, target = Path(folder) / "full.onnx", Path(folder) / "int8.onnx"
        source.write_bytes(model)
        quantize_dynamic(
            source, target, weight_type=QuantType.QInt8, op_types_to_quantize=["MatMul"]
        )
        return target.read_bytes()


def make_session(model: bytes, *, threads: int = 1) -> ort.InferenceSession:
    """One thread by default: a server runs several processes, not one wide model."""
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 3
    return ort.InferenceSession(model, options, providers=["CPUExecutionProvider"])


def _taste(graph: _Graph, signed: str, encoder: HistoryEncoder, length: int) -> str:
    """The sum of what the known events say, over their number and the prior: f32[B, 1, d]."""
    late = np.arange(length) >= length - encoder.reach
    taken = graph("Mul", "known", graph.constant(late.astype(np.float32)[None]))
    n = graph("ReduceSum", taken, graph.constant(np.array([1], dtype=np.int64)), keepdims=1)
    share = graph("Div", taken, graph("Add", n, graph.constant(np.float32(PRIOR))))
    return graph("MatMul", graph("Reshape", share, _shape(graph, 0, 1, length)), signed)


def _empty_state(encoder: HistoryEncoder) -> np.ndarray:
    """f32[1, d]: the state of somebody without history."""
    with torch.inference_mode():
        width = len(encoder.start)
        nothing = torch.zeros(1, 0, width), torch.zeros(1, 0, len(EVENT_COLUMNS))
        return np.asarray(encoder(*nothing)[:, -1].numpy())


def _layer(
    graph: _Graph,
    x: str,
    weights: dict[str, np.ndarray],
    bias: str,
    n_heads: int,
    *,
    last_only: bool,
) -> str:
    """One pre-norm layer; with ``last_only`` of the last position, [B, 1, d]."""
    width = len(weights["norm1.weight"])
    y = _norm(graph, x, weights["norm1.weight"], weights["norm1.bias"])
    matrix, offset = weights["self_attn.in_proj_weight"], weights["self_attn.in_proj_bias"]
    asks = x
    asked = y
    if last_only:
        asks, asked = _last(graph, x), _last(graph, y)
    scale = np.float32((width // n_heads) ** -0.5)  # folded into the query's weights
    query = graph.linear(asked, matrix[:width] * scale, offset[:width] * scale)
    query = _split(graph, query, n_heads, width, (0, 2, 1, 3))
    key = graph.linear(y, matrix[width : 2 * width], offset[width : 2 * width])
    key = _split(graph, key, n_heads, width, (0, 2, 3, 1))
    value = graph.linear(y, matrix[2 * width :], offset[2 * width :])
    value = _split(graph, value, n_heads, width, (0, 2, 1, 3))
    scores = graph("Add", graph("MatMul", query, key), bias)
    mixed = graph("MatMul", graph("Softmax", scores, axis=-1), value)
    mixed = graph("Transpose", mixed, perm=[0, 2, 1, 3])
    mixed = graph("Reshape", mixed, _shape(graph, 0, -1, width))
    out = graph.linear(
        mixed, weights["self_attn.out_proj.weight"], weights["self_attn.out_proj.bias"]
    )
    x = graph("Add", asks, out)
    z = _norm(graph, x, weights["norm2.weight"], weights["norm2.bias"])
    z = graph("Relu", graph.linear(z, weights["linear1.weight"], weights["linear1.bias"]))
    return graph("Add", x, graph.linear(z, weights["linear2.weight"], weights["linear2.bias"]))


def _bias(graph: _Graph, n_heads: int, length: int) -> str:
    """Distance penalty, causality and paddings, added up: f32[B, H, S, S]."""
    fixed = np.maximum(attention_bias(length, n_heads), NOT_THERE)[None].astype(np.float32)
    missing = graph("Sub", graph.constant(np.float32(1.0)), "known")
    missing = graph("Mul", missing, graph.constant(np.float32(NOT_THERE)))
    missing = graph("Pad", missing, graph.constant(np.array([0, 1, 0, 0], dtype=np.int64)))
    missing = graph("Reshape", missing, _shape(graph, 0, 1, 1, length))
    return graph("Add", graph.constant(fixed), missing)


def _rows(graph: _Graph, bias: str, last_only: bool) -> str:
    """All rows of the bias, or that of the newest query."""
    return _last(graph, bias, axis=2) if last_only else bias


def _last(graph: _Graph, x: str, axis: int = 1) -> str:
    ends = [np.array([v], dtype=np.int64) for v in (-1, np.iinfo(np.int64).max, axis)]
    return graph("Slice", x, *(graph.constant(value) for value in ends))


def _split(graph: _Graph, x: str, n_heads: int, width: int, order: tuple[int, ...]) -> str:
    heads = graph("Reshape", x, _shape(graph, 0, -1, n_heads, width // n_heads))
    return graph("Transpose", heads, perm=list(order))


def _norm(graph: _Graph, x: str, weight: np.ndarray, bias: np.ndarray) -> str:
    return graph(
        "LayerNormalization", x, graph.constant(weight), graph.constant(bias), epsilon=1e-5
    )


def _shape(graph: _Graph, *sizes: int) -> str:
    return graph.constant(np.array(sizes, dtype=np.int64))


def _start_shape(graph: _Graph, width: int) -> str:
    """[B, 1, d] with the batch size of the request."""
    n = graph("Shape", "known", start=0, end=1)
    return graph("Concat", n, _shape(graph, 1, width), axis=0)


def _model(graph: _Graph, width: int, length: int) -> onnx.ModelProto:
    shapes = {"items": (length, width), "events": (length, len(EVENT_COLUMNS)), "known": (length,)}
    inputs = [
        helper.make_tensor_value_info(name, TensorProto.FLOAT, ["B", *shape])
        for name, shape in shapes.items()
    ]
    output = helper.make_tensor_value_info("state", TensorProto.FLOAT, ["B", width])
    body = helper.make_graph(graph.nodes, "history", inputs, [output], graph.constants)
    model = helper.make_model(body, opset_imports=[helper.make_opsetid("", OPSET)])
    model.ir_version = 8
    onnx.checker.check_model(model)
    return model
