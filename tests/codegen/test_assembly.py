"""The innermost loops of kernels, as instructions, for every kind of CPU."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import pytest
from relax_models import layer_graph, make_module
from tvm import relax
from tvm.relax import op

from partc.codegen import build
from partc.codegen.lower import lower_segments
from partc.passes.canonicalize import canonicalize
from partc.passes.segment import build_plan_table
from partc.profiler.layers import Layers
from partc.targets.target import load_target

# Multiplications on whole vectors, with the addition in the same instruction where there is one.
MULTIPLY_ADDS: Mapping[str, str] = {
    "x86-64": r"\tmulps\t.*%xmm",
    "x86-64-v3": r"\tvfmadd\d+ps\t.*%ymm",
    "x86-64-v4": r"\tvfmadd\d+ps\t.*%zmm",
    "raspberry-pi-4": r"\tfmla\tv\d+\.4s",
}
ON_SINGLE_NUMBERS = r"\tv?(?:mul|fmadd\d+)ss\t|\tf(?:mul|madd|mla)\ts\d"
VECTOR_STORES = r"\tv?mov[au]p[sd]\t%[xyz]mm\d+, .*\)|\tst[rpu]+\tq\d"

LAYERS: Mapping[str, Callable[[Layers, Any], Any]] = {
    "direct": lambda net, x: net.conv2d(x, 64, strides=(2, 2), padding=(1, 1, 1, 1)),
    "winograd": lambda net, x: net.conv2d(x, 64, padding=(1, 1, 1, 1)),
    "pointwise": lambda net, x: net.conv2d(x, 64, (1, 1)),
    "depthwise": lambda net, x: net.depthwise(x, padding=(1, 1, 1, 1)),
    "dense": lambda net, x: net.dense(net.emit(op.reshape(x, (64, -1))), 256),
}

# How many multiplications there are for each vector that goes to memory, where any does: results of
# a whole depthwise tile, and sums for which SSE2 has no register; smaller tiles are slower.
SPILLING: Mapping[tuple[str, str], int] = {
    **{(target, "depthwise"): 8 for target in MULTIPLY_ADDS},
    **{("x86-64", layer): 4 for layer in LAYERS},
    ("raspberry-pi-4", "winograd"): 40,
}

LABEL = re.compile(r"^(\.LBB\w+):")
JUMP = re.compile(r"\t(?:j\w+|b|b\.\w+|cbn?z|tbn?z)\t.*?(\.LBB\w+)$")


def assemble(layer: Callable[[Layers, Any], Any], target_name: str) -> str:
    """What code generation makes of a layer with ReLU behind it."""
    target = load_target(target_name)
    module = make_module(
        {"x": (1, 64, 28, 28)}, lambda emit, x: emit(op.nn.relu(layer(Layers(emit), x)))
    )
    graph = layer_graph(canonicalize(module))
    segments = build_plan_table(graph, []).segments
    machine, tvm_target = build.find_machine(target), build.resolve_target(target)
    assert machine is not None
    lowered = lower_segments(graph, segments, machine).module
    pipeline = build._cpu_pipeline(tvm_target, machine)
    executable = relax.build(lowered, tvm_target, relax_pipeline=pipeline).mod
    return str(executable.imports[0].inspect_source("asm"))


def innermost_loops(assembly: str) -> Iterator[str]:
    """Lines from a label to the last jump back to it, with no other such lines among them."""
    lines = assembly.splitlines()
    starts: dict[str, int] = {}
    ends: dict[int, int] = {}
    for number, line in enumerate(lines):
        if label := LABEL.match(line):
            starts[label[1]] = number
        elif (jump := JUMP.search(line)) and jump[1] in starts:
            ends[starts[jump[1]]] = number
    for start, end in ends.items():
        if not any(start < other and ends[other] <= end for other in ends):
            yield "\n".join(lines[start : end + 1])


@pytest.mark.parametrize("layer", LAYERS)
@pytest.mark.parametrize("target_name", MULTIPLY_ADDS)
def test_the_innermost_loop_multiplies_and_adds_whole_vectors_in_registers(
    target_name: str, layer: str
) -> None:
    assembly = assemble(LAYERS[layer], target_name)
    loops = {
        loop: len(re.findall(MULTIPLY_ADDS[target_name], loop))
        for loop in innermost_loops(assembly)
    }
    loop = max(loops, key=lambda loop: (loops[loop] >= 8, loops[loop] / loop.count("\n")))
    assert loops[loop] >= 8
    stores = len(re.findall(VECTOR_STORES, loop))
    assert stores * SPILLING.get((target_name, layer), 1000) <= loops[loop]
    assert not re.search(ON_SINGLE_NUMBERS, assembly)


@pytest.mark.parametrize("layer", ["direct", "pointwise"])
@pytest.mark.parametrize("target_name", MULTIPLY_ADDS)
def test_tiles_that_end_early_are_compiled_apart(target_name: str, layer: str) -> None:
    loops = innermost_loops(assemble(LAYERS[layer], target_name))
    loop = max(loops, key=lambda loop: len(re.findall(MULTIPLY_ADDS[target_name], loop)))
    assert len(re.findall(JUMP.pattern, loop, re.MULTILINE)) == 1


def test_avx512_takes_whole_vectors_behind_the_innermost_loop_too() -> None:
    def dense_gelu(net: Layers, x: Any) -> Any:
        return net.emit(op.nn.gelu(net.dense(net.emit(op.reshape(x, (224, 224))), 70)))

    assembly = assemble(dense_gelu, "x86-64-v4")
    assert assembly.count("%zmm") > 10 * assembly.count("%ymm")


def test_it_can_tell_loops_apart() -> None:
    nested = """
.LBB0_1:
\tmov
.LBB0_2:
\tmulps\t%xmm1, %xmm2
\tjne\t.LBB0_2
\tjmp\t.LBB0_1
.LBB0_3:
\tje\t.LBB0_4
.LBB0_4:
\tb.ne\t.LBB0_3
"""
    first, second = innermost_loops(nested)
    assert first.splitlines() == [".LBB0_2:", "\tmulps\t%xmm1, %xmm2", "\tjne\t.LBB0_2"]
    assert second.startswith(".LBB0_3:")
