"""Small networks lowered to the kernels of a CPU: what was chosen, and what it computes."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import tvm
from kernels import machine_of
from relax_models import (
    Array,
    Machine,
    assert_close,
    layer_graph,
    make_module,
    random_inputs,
)
from tvm import relax

from partc.codegen.layout import Layout
from partc.codegen.lower import LoweredSegments, lower_segments
from partc.codegen.operators import choose_lowering
from partc.codegen.operators.lowering import Lowering, Scene
from partc.graph import LayerGraph
from partc.passes.canonicalize import canonicalize
from partc.passes.expressions import op_name
from partc.passes.segment import build_plan_table


@dataclass(frozen=True)
class Network:
    """A canonical network as one segment, whose inputs and outputs everyone sees."""

    module: tvm.IRModule
    target_name: str

    @staticmethod
    def of(
        inputs: Mapping[str, tuple[int, ...]],
        build: Callable[..., Any],
        target_name: str = "x86-64-v3",
    ) -> Network:
        return Network(canonicalize(make_module(inputs, build)), target_name)

    @cached_property
    def choices(self) -> list[tuple[str, Lowering]]:
        """Each operator, in order, and how it is lowered."""
        layouts: dict[relax.Var, Layout] = {}
        bindings = self.module["main"].body.blocks[0].bindings
        definitions = {binding.var: binding.value for binding in bindings}
        scene = Scene(machine_of(self.target_name), layouts, definitions)
        chosen: list[tuple[str, Lowering]] = []
        for binding in bindings:
            lowering = choose_lowering(binding.value, scene)
            name = op_name(binding.value) if isinstance(binding.value, relax.Call) else "item"
            chosen.append((name, lowering))
            if lowering.layout is not None:
                layouts[binding.var] = lowering.layout
        return chosen

    @property
    def layouts(self) -> dict[str, Layout | None]:
        """The layout of what each operator makes; of several of a kind, that of the last."""
        return {name: lowering.layout for name, lowering in self.choices}

    @cached_property
    def graph(self) -> LayerGraph:
        return layer_graph(self.module)

    @cached_property
    def lowered(self) -> LoweredSegments:
        visible = frozenset(tensor.name for tensor in (*self.graph.inputs, *self.graph.outputs))
        (segment,) = build_plan_table(self.graph, []).segments
        return lower_segments(self.graph, [segment], machine_of(self.target_name), visible)

    @property
    def kernels(self) -> list[str]:
        """What the segment calls, in order: kernels by the names they were emitted under."""
        (name,) = self.lowered.params
        bindings = self.lowered.module[name].body.blocks[0].bindings
        return [_callee(each.value) for each in bindings if isinstance(each.value, relax.Call)]

    def check(self) -> None:
        """Compare what the kernels compute, not scheduled, with what the module computes."""
        (segment,) = self.lowered.params
        whole = self.module["main"].with_attr("global_symbol", "whole")
        functions = {**self.lowered.module.functions, tvm.ir.GlobalVar("whole"): whole}
        machine = Machine(tvm.IRModule(functions))
        inputs = random_inputs(whole)

        def run(name: str, params: Sequence[str], arrays: Sequence[Array]) -> list[Array]:
            weights = [self.lowered.weights[param] for param in params]
            return machine.run(name, [*arrays, *weights])

        names = [tensor.name for tensor in self.graph.outputs]
        made = dict(zip(names, run(segment, self.lowered.params[segment], inputs), strict=True))
        for spec in self.lowered.blocked:
            there, back = spec.to_plain, spec.to_blocked
            (plain,) = run(there.name, there.params, [made[spec.tensor]])
            blocks = run(back.name, back.params, [plain])
            assert blocks[0].shape == made[spec.tensor].shape
            (made[spec.tensor],) = run(there.name, there.params, blocks)
        assert_close([made[name] for name in names], machine.run("whole", inputs))


def _callee(call: relax.Call) -> str:
    if op_name(call) != "call_tir":
        return op_name(call)
    return str(call.args[0].name_hint).rstrip("0123456789")
