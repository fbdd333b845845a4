from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

from relax_models import layer_graph
from tvm import relax
from tvm.relax import op

from partc.codegen.build import find_machine
from partc.codegen.kernels.mathematics import legalize_map
from partc.codegen.lower import lower_segments
from partc.codegen.patterns import correct_patterns
from partc.passes.canonicalize import canonicalize
from partc.plan import Segment
from partc.profiler.layers import Layers, make_module
from partc.targets.target import load_target

Build = Callable[..., Any]


def kernels_of(build: Build, **shapes: tuple[int, ...]) -> list[str]:
    """The names of the kernels that a network becomes, as TVM joins those of its operators."""
    graph = layer_graph(canonicalize(make_module(shapes, build)))
    layers = tuple(layer.name for layer in graph.layers)
    segment = Segment("segment_0", layers, graph.inputs, graph.outputs)
    module = lower_segments(graph, [segment], find_machine(load_target("x86-64"))).module
    for step in (
        relax.transform.LegalizeOps(legalize_map()),
        relax.transform.AnnotateTIROpPattern(),
        correct_patterns,
        relax.transform.FuseOps(),
        relax.transform.FuseTIR(),
    ):
        module = step(module)
    called: list[str] = []

    def note(call: Any) -> None:
        if isinstance(call, relax.Call) and call.op.name == "relax.call_tir":
            called.append(call.args[0].name_hint)

    relax.analysis.post_order_visit(module["segment_0"], note)
    return called


def test_a_gate_is_not_computed_for_each_pixel() -> None:
    """Squeeze and excitation: Hu et al. (CVPR 2018)."""

    def build(emit: Any, x: Any) -> Any:
        net = Layers(emit)
        return net.gate(net.relu(net.conv2d(x, 16, (1, 1))), 4)

    kernels = [
        re.sub(r"(?<=[a-z])\d+(?=_|$)", "", name).removeprefix("fused_")
        for name in kernels_of(build, x=(1, 8, 20, 20))
    ]
    assert kernels == [
        "to_blocked",
        "conv2d_relu",
        "mean",
        "conv2d_add_relu",
        "conv2d_add_tir_sigmoid",
        "multiply",
    ]


def test_what_has_the_shape_of_the_anchor_is_its_tail() -> None:
    def build(emit: Any, x: Any) -> Any:
        net = Layers(emit)
        made = net.bias(net.conv2d(x, 8, (1, 1)))
        return emit(op.add(net.relu(made), x))

    kernels = kernels_of(build, x=(1, 8, 20, 20))
    assert kernels == ["to_blocked", "fused_conv2d_add_relu_add1"]


def test_a_mask_that_is_computed_joins_a_product() -> None:
    def build(emit: Any, x: Any, y: Any, mask: Any) -> Any:
        return emit(op.add(emit(op.matmul(x, y)), emit(op.exp(mask))))

    kernels = kernels_of(build, x=(4, 16, 8), y=(4, 8, 16), mask=(1, 1, 16))
    assert len([name for name in kernels if "matmul" in name and "add" in name]) == 1
