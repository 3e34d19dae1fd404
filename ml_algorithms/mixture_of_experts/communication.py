"""What expert parallelism costs on the wire, by arithmetic.

In: sizes of a layer and of a cluster. Out: bytes, seconds, and their ratio to the computation.

With experts spread over R devices, each device's rows must reach their experts and return. That is
two all-to-all exchanges forward and two more backward (GShard, section 3; Switch, section 5.3). If
the routing is even, a share (R-1)/R of all choices leaves the device.

The model: time = latency + bytes / bandwidth, exchanges not overlapped with computation, even
routing. Real systems overlap, and real routing is uneven, in which case the busiest device sets
the pace. Good enough to tell 5% from 5 times, which is what a whiteboard needs.

Legend: N rows per device, k experts per row, D width, H hidden width, R devices.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Layer:
    """One mixture layer.

    Attributes:
        width: D.
        hidden: H of one expert.
        n_experts: E in total.
        k: Experts per row.
        matrices: Per expert: 2 for ReLU experts, 3 for gated ones (SwiGLU).
        bytes_per_value: 2 for bfloat16, 4 for float32.
    """

    width: int
    hidden: int
    n_experts: int
    k: int
    matrices: int = 2
    bytes_per_value: int = 2

    def __post_init__(self) -> None:
        sizes = (self.width, self.hidden, self.n_experts, self.k, self.matrices)
        if min(*sizes, self.bytes_per_value) < 1 or self.k > self.n_experts:
            raise ValueError(f"sizes must be at least 1 and k at most n_experts, got {self}")


@dataclass(frozen=True)
class Cluster:
    """The devices.

    Attributes:
        devices: R, over which the experts are spread evenly.
        bytes_per_s: What one device can send, and receive, at once.
        latency_s: Of one exchange.
        operations_per_s: Floating-point operations per second that a device reaches in practice.
    """

    devices: int
    bytes_per_s: float
    latency_s: float
    operations_per_s: float

    def __post_init__(self) -> None:
        if self.devices < 1 or min(self.bytes_per_s, self.operations_per_s) <= 0:
            raise ValueError(f"need a device, a bandwidth and a speed, got {self}")
        if self.latency_s < 0:
            raise ValueError(f"latency_s must not be negative, got {self.latency_s}")


def exchange_bytes(layer: Layer, devices: int, rows: int) -> float:
    """Bytes that leave one device in one exchange: N k D b (R-1)/R under even routing."""
    choices = rows * layer.k
    return choices * layer.width * layer.bytes_per_value * (devices - 1) / devices


def step_bytes(layer: Layer, devices: int, rows: int, *, training: bool) -> float:
    """Bytes that leave one device in one pass: two exchanges, four with the backward pass."""
    return (4 if training else 2) * exchange_bytes(layer, devices, rows)


def exchange_seconds(layer: Layer, cluster: Cluster, rows: int) -> float:
    """Duration of one exchange."""
    sent = exchange_bytes(layer, cluster.devices, rows)
    return cluster.latency_s + sent / cluster.bytes_per_s


def expert_seconds(layer: Layer, cluster: Cluster, rows: int) -> float:
    """Duration of the experts' forward pass on one device: 2 N k m D H operations."""
    operations = 2 * rows * layer.k * layer.matrices * layer.width * layer.hidden
    return operations / cluster.operations_per_s


def communication_ratio(layer: Layer, cluster: Cluster, rows: int) -> float:
    """Forward time on the wire over forward time in the experts.

    Without latency, rows, width and k cancel:

        ratio = b S (R-1)/R / (m H W),   S operations per second, W bytes per second

    Only the expert's hidden width H is the designer's: halving the experts and doubling k, as
    fine-grained mixtures do, doubles the ratio.
    """
    return 2 * exchange_seconds(layer, cluster, rows) / expert_seconds(layer, cluster, rows)


def expert_bytes_per_device(layer: Layer, devices: int) -> float:
    """Memory for the experts' weights on one device: what expert parallelism is for.

    Raises:
        ValueError: If the experts cannot be spread evenly.
    """
    if layer.n_experts % devices:
        raise ValueError(f"{layer.n_experts} experts cannot be spread evenly over {devices}")
    one = layer.matrices * layer.width * layer.hidden * layer.bytes_per_value
    return layer.n_experts // devices * one
