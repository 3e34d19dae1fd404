"""Part ``parallel``: two processes against one, and the arithmetic of the wire beside it.

The run measures correctness, bytes and time on this machine. The arithmetic (`communication.py`)
then asks the same of a cluster whose numbers are *assumed* and named in the protocol.
"""

from __future__ import annotations

import numpy as np

from ml_algorithms.mixture_of_experts.bench_config import Config, generated
from ml_algorithms.mixture_of_experts.communication import (
    Cluster,
    Layer,
    communication_ratio,
    exchange_bytes,
    expert_bytes_per_device,
    step_bytes,
)
from ml_algorithms.mixture_of_experts.counting import MIXTRAL_8X7B
from ml_algorithms.mixture_of_experts.parallel_run import (
    ParallelCase,
    ParallelReport,
    verify_parallel,
)
from ml_platform.evaluation.plot_style import BLUE, GREEN, ORANGE, new_figure
from ml_platform.evaluation.results import Results
from ml_platform.evaluation.study import StudyRun

EXPERTS, K, PROCESSES = 8, 2, 2
# Assumed: 400 TFLOP/s reached in bfloat16; 450 GB/s each way between devices of one machine,
# 50 GB/s each way between machines; 20 microseconds for an exchange to start.
OPERATIONS_PER_S = 4e14
WIRES = {"inside": (450e9, 8), "between": (50e9, 64)}
LATENCY_S = 20e-6
ROWS = 8192
MIXTRAL_LAYER = Layer(4096, 14336, n_experts=8, k=2, matrices=3)
# The same weights and work in eight times as many experts of an eighth of the width.
FINE_LAYER = Layer(4096, 1792, n_experts=64, k=16, matrices=3)


def run(study: StudyRun[Config]) -> None:
    """Measure both sizes, then compute."""
    config = study.config
    results = study.results(
        dataset_name="generated rows", dataset_sha256=generated(config), synthetic=True
    )
    with study.progress.stage("one process and two", len(config.parallel_rows)) as step:
        for rows in config.parallel_rows:
            case = ParallelCase(
                width=config.parallel_width, hidden=config.parallel_hidden, n_experts=EXPERTS,
                k=K, rows=rows, ranks=PROCESSES, repeats=config.parallel_repeats, seed=study.seed,
            )  # fmt: skip
            _record_run(results, case, verify_parallel(case))
            step(1)
    _record_arithmetic(results)
    _draw(study)


def _record_run(results: Results, case: ParallelCase, report: ParallelReport) -> None:
    name = f"rows_{case.rows}"
    how = (
        f"{case.ranks} gloo processes on one machine, 1 thread each; {case.rows} rows in all, "
        f"width {case.width}, hidden {case.hidden}, top-{case.k} of {case.n_experts} experts, "
        f"float32; forward + backward, median of {case.repeats} after a warm-up"
    )
    layer = Layer(case.width, case.hidden, case.n_experts, case.k, bytes_per_value=4)
    expected = step_bytes(layer, case.ranks, case.rows // case.ranks, training=True)
    numbers = {
        "output_difference": report.output_difference,
        "expert_gradient_difference": report.expert_gradient_difference,
        "router_gradient_difference": report.router_gradient_difference,
        "input_gradient_difference": report.input_gradient_difference,
        "largest_gradient": report.largest_gradient,
        "megabytes": max(report.bytes_sent) / 1e6,
        "megabytes_by_arithmetic": expected / 1e6,
        "single_ms": report.single_ms,
        "parallel_ms": report.parallel_ms,
        "exchange_ms": report.exchange_ms,
        "speed_up": report.single_ms / report.parallel_ms,
    }
    for metric, value in numbers.items():
        results.add(f"parallel/{name}/{metric}", value, protocol=how)


def _record_arithmetic(results: Results) -> None:
    total, active = MIXTRAL_8X7B.total, MIXTRAL_8X7B.active
    how = "computed from Mixtral 8x7B's published dimensions"
    results.add("mixtral/total/billions", total / 1e9, protocol=how)
    results.add("mixtral/active/billions", active / 1e9, protocol=how)
    for name, layer in (("mixtral", MIXTRAL_LAYER), ("fine", FINE_LAYER)):
        for wire, (bandwidth, devices) in WIRES.items():
            cluster = Cluster(min(devices, layer.n_experts), bandwidth, LATENCY_S, OPERATIONS_PER_S)
            how = (
                f"arithmetic with assumed numbers: {cluster.devices} devices, "
                f"{bandwidth / 1e9:g} GB/s each way, {OPERATIONS_PER_S / 1e12:g} TFLOP/s, {ROWS} "
                f"rows per device, bfloat16, {layer.n_experts} experts of hidden {layer.hidden}, "
                f"top-{layer.k}, forward, not overlapped"
            )
            ratio = communication_ratio(layer, cluster, ROWS)
            results.add(f"wire/{name}_{wire}/ratio", ratio, protocol=how)
            sent = exchange_bytes(layer, cluster.devices, ROWS)
            results.add(f"wire/{name}_{wire}/exchange_megabytes", sent / 1e6, protocol=how)
    memory = expert_bytes_per_device(MIXTRAL_LAYER, 8) * MIXTRAL_8X7B.n_layers
    results.add(
        "wire/mixtral/gigabytes_per_device",
        memory / 1e9,
        protocol="experts of 32 layers in bfloat16 over 8 devices",
    )


def _draw(study: StudyRun[Config]) -> None:
    """Wire time over expert time along the experts' hidden width."""
    figure, (axes,) = new_figure("All-to-all time over expert time, by arithmetic", height=3.8)
    hidden = np.geomspace(256, 16384, 40)
    for (label, bandwidth), colour in zip(
        (("450 GB/s, one machine", 450e9), ("50 GB/s, network", 50e9), ("12.5 GB/s", 12.5e9)),
        (BLUE, ORANGE, GREEN),
        strict=True,
    ):
        cluster = Cluster(8, bandwidth, 0.0, OPERATIONS_PER_S)
        ratios = [
            communication_ratio(Layer(4096, int(h), 8, 2, matrices=3), cluster, ROWS)
            for h in hidden
        ]
        axes.plot(hidden, ratios, color=colour)
        axes.annotate(
            label, (hidden[0], ratios[0]), xytext=(6, 2), textcoords="offset points",
            color=colour, fontsize=9,
        )  # fmt: skip
    axes.axhline(1.0, color="0.3", linewidth=1, linestyle=":")
    for width, name in ((2048, "2048"), (14336, "Mixtral: 14336")):
        axes.axvline(width, color="0.6", linewidth=0.8, linestyle="--")
        axes.annotate(
            name, (width, 1), xycoords=("data", "axes fraction"), ha="right", va="top",
            xytext=(-3, -3), textcoords="offset points", fontsize=8, color="0.35",
        )  # fmt: skip
    axes.set(
        xscale="log",
        yscale="log",
        xlabel="hidden width of one expert",
        ylabel="communication / computation",
    )
    study.picture("wire", figure)
