from __future__ import annotations

import math

import numpy as np
import pytest
from msgspec.structs import replace

from partc.targets.calibration import FIGURES, calibrate
from partc.targets.features import Workload
from partc.targets.predictor import Roofline
from partc.targets.target import Target

START = Target(
    name="board",
    description="Round numbers",
    tvm={"kind": "llvm"},
    peak_gflops=100,
    memory_bandwidth_gb_s=20,
    launch_overhead_us=5,
    memory_gb=1,
    idle_watts=1,
    busy_watts=2,
)


def figures(achieved_fraction: float, bandwidth_gb_s: float, overhead_us: float) -> Target:
    return replace(
        START,
        achieved_fraction=achieved_fraction,
        memory_bandwidth_gb_s=bandwidth_gb_s,
        launch_overhead_us=overhead_us,
    )


def workload(flops: float, read: float, weights: float, written: float) -> Workload:
    counts = {"flops": flops, "read": read, "weights": weights, "written": written}
    return Workload("conv2d", "convolution", {name: math.log(n) for name, n in counts.items()})


def workloads(count: int = 200) -> list[Workload]:
    """Small and large ones, bound by arithmetic and by memory."""
    sizes = np.random.default_rng(1).uniform((3, 2, 1, 2), (9, 7, 7, 7), (count, 4))
    return [workload(*(10.0**size)) for size in sizes]


def times_ms(target: Target, layers: list[Workload], noise: float = 0.0) -> list[float]:
    """What the target's own roofline says, and a factor."""
    factors = np.exp(noise * np.random.default_rng(2).standard_normal(len(layers)))
    counts = [{name: math.exp(log) for name, log in layer.features.items()} for layer in layers]
    bounds = [
        Roofline(target).latency_ms(n["flops"], n["read"] + n["weights"] + n["written"])
        for n in counts
    ]
    return [float(factor * bound) for factor, bound in zip(factors, bounds, strict=True)]


def found(target: Target) -> list[float]:
    return [getattr(target, name) for name in FIGURES]


@pytest.mark.parametrize(
    "board", [figures(0.6, 12, 2), figures(0.05, 3, 100), figures(1, 200, 0.5)]
)
@pytest.mark.parametrize(("noise", "tolerance"), [(0.0, 0.01), (0.1, 0.15)])
def test_figures_are_recovered(board: Target, noise: float, tolerance: float):
    layers = workloads()
    fitted = calibrate(START, layers, times_ms(board, layers, noise))
    assert found(fitted) == pytest.approx(found(board), rel=tolerance)


def test_a_few_layers_that_no_roofline_describes_hardly_count():
    board, layers = figures(0.6, 12, 2), workloads()
    measured_ms = times_ms(board, layers)
    measured_ms[::12] = [30 * each for each in measured_ms[::12]]
    assert found(calibrate(START, layers, measured_ms)) == pytest.approx(found(board), rel=0.1)


def test_nothing_else_changes():
    layers = workloads()
    fitted = calibrate(START, layers, times_ms(figures(0.6, 12, 2), layers))
    assert replace(fitted, **{name: getattr(START, name) for name in FIGURES}) == START


@pytest.mark.parametrize("factor", [1e-6, 1e6])
def test_impossible_times_stay_within_what_a_target_may_be(factor: float):
    layers = workloads()
    measured_ms = [factor * each for each in times_ms(START, layers)]
    fitted = calibrate(START, layers, measured_ms)
    assert 0.01 * (1 - 1e-9) <= fitted.achieved_fraction <= 1
    assert 0.1 * (1 - 1e-9) <= fitted.memory_bandwidth_gb_s <= 10_000 * (1 + 1e-9)
    assert 0.01 * (1 - 1e-9) <= fitted.launch_overhead_us <= 1000 * (1 + 1e-9)


@pytest.mark.parametrize("start", [figures(1, 20, 0), figures(0.001, 50_000, 5000)])
def test_any_target_can_be_begun_with(start: Target):
    board, layers = figures(0.6, 12, 2), workloads()
    fitted = calibrate(start, layers, times_ms(board, layers))
    assert found(fitted) == pytest.approx(found(board), rel=0.01)


def test_layers_that_took_no_time_are_no_error():
    layers = workloads()
    assert all(
        math.isfinite(figure) for figure in found(calibrate(START, layers, [0.0] * len(layers)))
    )
