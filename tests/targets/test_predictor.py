from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from partc.graph import Layer, Tensor, TensorType
from partc.targets.predictor import ROOFLINE_ERROR, Prediction, Roofline, predictor_for
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
    (predicted,) = Roofline(BOARD).predict([layer(flops, weight_nbytes, elements)])
    assert predicted == Prediction(pytest.approx(latency_ms), ROOFLINE_ERROR, extrapolated=False)


def test_a_kernel_of_so_much_work():
    assert Roofline(BOARD).latency_ms(30e6, 8e6) == pytest.approx(3.005)
    assert Roofline(BOARD).latency_ms(10e6, 8e6) == pytest.approx(2.005)


def test_layers_keep_their_order():
    layers = [layer(flops) for flops in (3_000_000, 1_000_000, 2_000_000)]
    assert [each.latency_ms for each in Roofline(BOARD).predict(layers)] == pytest.approx(
        [0.305, 0.105, 0.205]
    )
    assert Roofline(BOARD).predict([]) == []


@given(flops=SIZES, more_flops=SIZES, nbytes=SIZES, more_nbytes=SIZES)
def test_more_work_is_never_faster(flops: int, more_flops: int, nbytes: int, more_nbytes: int):
    layers = [
        layer(flops, nbytes),
        layer(flops + more_flops, nbytes),
        layer(flops, nbytes + more_nbytes),
    ]
    less, *more = (each.latency_ms for each in Roofline(BOARD).predict(layers))
    assert all(less <= each for each in more)


def test_a_target_without_a_profile_has_its_roofline():
    assert predictor_for(BOARD) == Roofline(BOARD)
