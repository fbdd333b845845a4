from __future__ import annotations

from typing import Any

import pytest
from lowered import Network
from relax_models import weights
from tvm.relax import op

from partc.codegen.layout import Layout

IMAGE = {"x": (2, 4, 3, 5)}
OTHER = {**IMAGE, "y": (2, 12, 3, 5)}
BLOCKED = Layout.of(12, 8)


def conv(x: Any) -> Any:
    return op.nn.conv2d(x, weights(12, 4, 1, 1))


@pytest.mark.parametrize(
    "shape", [(12, 1, 1), (1, 12, 1, 1), (12, 3, 5), (2, 12, 1, 5), (1, 1, 1), (5,), (3, 1), ()]
)
def test_constants_broadcast_against_blocks(shape: tuple[int, ...]) -> None:
    def build(emit: Any, x: Any) -> Any:
        return emit(op.divide(weights(*shape), emit(op.exp(emit(conv(x))))))

    network = Network.of(IMAGE, build)
    assert network.layouts["divide"] == BLOCKED
    assert network.kernels == ["conv2d", "exp", "divide"]
    network.check()


def test_of_two_layouts_the_first_is_kept() -> None:
    def build(emit: Any, x: Any) -> Any:
        grouped = emit(op.nn.conv2d(x, weights(12, 2, 1, 1), groups=2))
        return emit(op.subtract(grouped, emit(conv(x))))

    network = Network.of(IMAGE, build)
    assert network.layouts["subtract"] == Layout.of(12, 8, 2)
    assert network.kernels == ["conv2d", "conv2d", "to_plain", "to_blocked", "subtract"]
    network.check()


@pytest.mark.parametrize("shape", [(2, 12, 3, 5), (2, 12, 1, 1), (2, 1, 3, 5), (1, 1, 1, 5)])
def test_plain_operands_are_brought_into_blocks(shape: tuple[int, ...]) -> None:
    network = Network.of(
        {**IMAGE, "y": shape}, lambda emit, x, y: emit(op.multiply(y, emit(conv(x))))
    )
    assert network.layouts["multiply"] == BLOCKED
    network.check()


def test_an_operand_of_lower_rank_is_met_in_plain_layout() -> None:
    network = Network.of(
        {**IMAGE, "y": (3, 5)}, lambda emit, x, y: emit(op.multiply(emit(conv(x)), y))
    )
    assert network.layouts["multiply"] is None
    network.check()


def test_a_result_larger_than_its_blocked_operand_is_plain() -> None:
    def build(emit: Any, x: Any, y: Any) -> Any:
        pooled = emit(op.nn.avg_pool2d(emit(conv(x)), (3, 5)))
        return emit(op.multiply(pooled, y))

    network = Network.of(OTHER, build)
    assert network.layouts["avg_pool2d"] == BLOCKED
    assert network.layouts["multiply"] is None
    network.check()


def test_conditions_are_computed_in_plain_layout() -> None:
    def build(emit: Any, x: Any) -> Any:
        made = emit(conv(x))
        return emit(op.where(emit(op.less(made, weights(12, 1, 1))), made, emit(op.nn.relu(made))))

    network = Network.of(IMAGE, build)
    assert (network.layouts["relu"], network.layouts["where"]) == (BLOCKED, None)
    network.check()


def test_plain_tensors_stay_plain() -> None:
    network = Network.of(IMAGE, lambda emit, x: emit(op.nn.relu(x)))
    assert network.kernels == ["relu"]


@pytest.mark.parametrize(
    ("slopes", "axis", "blocked"), [(12, 1, True), (1, 3, True), (5, 3, False), (3, 2, False)]
)
def test_slopes_belong_to_channels(slopes: int, axis: int, blocked: bool) -> None:
    network = Network.of(
        IMAGE, lambda emit, x: emit(op.nn.prelu(emit(conv(x)), weights(slopes), axis))
    )
    assert network.layouts["prelu"] == (BLOCKED if blocked else None)
    network.check()


def test_slopes_that_are_computed_are_met_in_plain_layout() -> None:
    network = Network.of(
        {**IMAGE, "slopes": (12,)},
        lambda emit, x, slopes: emit(op.nn.prelu(emit(conv(x)), slopes, 1)),
    )
    assert network.layouts["prelu"] is None
    network.check()
