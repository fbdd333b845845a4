from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from lowered import Network
from relax_models import weights
from tvm.relax import op

ROWS = {"x": (2, 7, 9)}


@pytest.mark.parametrize(
    ("call", "kernel"),
    [
        (lambda x: op.nn.softmax(x), "softmax"),
        (lambda x: op.nn.softmax(x, 1), "softmax"),
        (lambda x: op.nn.log_softmax(x), "log_softmax"),
        (lambda x: op.nn.layer_norm(x, weights(9), weights(9, low=0), [-1]), "layer_norm"),
        (lambda x: op.sum(x), "sum"),
        (lambda x: op.mean(x, -1), "mean"),
        (lambda x: op.max(x, [2, 0]), "max"),
        (lambda x: op.min(x, [0], keepdims=True), "min"),
        (lambda x: op.prod(x, [1]), "prod"),
        (lambda x: op.variance(x, [1, 2]), "variance"),
        (lambda x: op.std(x, [-2], keepdims=True), "std"),
        (lambda x: op.matmul(x, weights(9, 5)), "dense"),
        (lambda x: op.permute_dims(x, [2, 0, 1]), "permute_dims"),
        (lambda x: op.permute_dims(x), "permute_dims"),
    ],
)
def test_plain_data_have_kernels_of_their_own(call: Callable[[Any], Any], kernel: str) -> None:
    network = Network.of(ROWS, lambda emit, x: emit(call(x)))
    assert network.kernels[-1] == kernel
    assert network.lowered.without_rule == ()
    assert all(lowering.layout is None for _, lowering in network.choices)
    network.check()


def test_products_of_computed_matrices() -> None:
    def build(emit: Any, x: Any) -> Any:
        return emit(op.matmul(x, emit(op.permute_dims(x, [0, 2, 1]))))

    network = Network.of(ROWS, build)
    assert network.kernels == ["permute_dims", "matmul"]
    assert network.lowered.without_rule == ()
    network.check()


@pytest.mark.parametrize(
    "build",
    [
        lambda emit, x: emit(op.sum(emit(op.astype(x, "int32")), [1])),
        lambda emit, x: emit(op.matmul(*[emit(op.astype(x, "float16"))] * 2)),
    ],
)
def test_other_types_are_left_to_tvm(build: Any) -> None:
    network = Network.of({"x": (7, 7)}, build)
    assert len(network.lowered.without_rule) == 1
    network.check()
