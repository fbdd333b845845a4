from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from partc.graph import Layer, Tensor, TensorType
from partc.targets.predictor import Roofline
from partc.targets.target import Target

#: 10 of 20 GFLOP/s reached, 4 GB/s, 5 us a kernel.
BOARD = Target(
    name="board",
    description="Round numbers",
    tvm={"kind": "llvm"},
    peak_gflops=20,
    memory_bandwidth_gb_s=4,
    launch_overhead_us=5,
    memory_gb=1,
    idle_watts=1,
    busy_watts=2,
    achieved_fraction=0.5,
)
SIZES = st.integers(min_value=0, max_value=10**12)


def layer(flops: int, weight_nbytes: int = 0, elements: int = 0) -> Layer:
    """A layer that reads and writes ``elements`` floats."""
    return Layer(
        name="conv",
        kind="conv2d",
        inputs=(Tensor("x", TensorType("float32", (elements,))),),
        outputs=(Tensor("y", TensorType("float32", (elements,))),),
        flops=flops,
        weight_nbytes=weight_nbytes,
    )


@pytest.mark.parametrize(
    ("flops", "weight_nbytes", "elements", "latency_ms"),
    [
        (0, 0, 0, 0.005),  # only the launch
        (30_000_000, 0, 0, 3.005),  # 30 MFLOP at 10 GFLOP/s
        (0, 8_000_000, 0, 2.005),  # 8 MB at 4 GB/s
        (0, 0, 500_000, 1.005),  # 2 MB in and 2 MB out at 4 GB/s
        (30_000_000, 8_000_000, 500_000, 3.005),  # 3 ms of arithmetic hide 3 ms of memory
        (10_000_000, 8_000_000, 500_000, 3.005),  # 3 ms of memory hide 1 ms of arithmetic
    ],
)
def test_by_hand(flops: int, weight_nbytes: int, elements: int, latency_ms: float):
    predicted_ms = Roofline(BOARD).latency_ms(layer(flops, weight_nbytes, elements))
    assert predicted_ms == pytest.approx(latency_ms)


@given(flops=SIZES, more_flops=SIZES, nbytes=SIZES, more_nbytes=SIZES)
def test_more_work_is_never_faster(flops: int, more_flops: int, nbytes: int, more_nbytes: int):
    roofline = Roofline(BOARD)
    less = roofline.latency_ms(layer(flops, nbytes))
    assert less <= roofline.latency_ms(layer(flops + more_flops, nbytes))
    assert less <= roofline.latency_ms(layer(flops, nbytes + more_nbytes))
