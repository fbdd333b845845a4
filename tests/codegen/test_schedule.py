from __future__ import annotations

import importlib
import pkgutil
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import tvm
from kernels import apply_rules, machine_of
from relax_models import layer_graph, make_module, weights
from tvm import te
from tvm.relax import op

from partc.codegen import kernels, schedule
from partc.codegen.build import build_library
from partc.codegen.kernels.common import RULE, anchor_attrs
from partc.codegen.lower import lower_segments
from partc.codegen.machine import Machine
from partc.codegen.schedule import KernelRules
from partc.passes.canonicalize import canonicalize
from partc.passes.segment import build_plan_table
from partc.plan import Cut
from partc.targets.target import load_target

TARGET = "x86-64-v3"


def rules_of_kernels() -> Iterator[str]:
    """Every rule that a file of kernels names."""
    for module in pkgutil.iter_modules(kernels.__path__):
        content = vars(importlib.import_module(f"{kernels.__name__}.{module.name}"))
        yield from (
            value for name, value in content.items() if name.endswith("RULE") and value != RULE
        )


def test_every_rule_of_a_kernel_is_known() -> None:
    named = list(rules_of_kernels())
    assert len(named) >= 8
    assert set(named) == set(schedule._RULES)


@pytest.fixture
def rules(monkeypatch: pytest.MonkeyPatch) -> dict[str, Callable[..., None]]:
    """The known rules, to change for one test."""
    changed = dict(schedule._RULES)
    monkeypatch.setattr(schedule, "_RULES", changed)
    return changed


def add_one(data: te.Tensor, rule: str) -> te.Tensor:
    """An anchor of a rule."""
    attrs = anchor_attrs(rule)
    return te.compute(data.shape, lambda *at: data(*at) + 1.0, name=rule, attrs=attrs)


def numbers(count: int = 64) -> te.Tensor:
    return te.placeholder((count,), name="data")


def test_each_anchor_of_a_function_gets_its_rule(rules: dict[str, Callable[..., None]]) -> None:
    seen: list[tuple[str, Machine]] = []

    def remember(schedule: Any, anchor: Any, machine: Machine) -> None:
        seen.append((str(schedule.get(anchor).name_hint), machine))

    rules |= {"first": remember, "second": remember}
    data = numbers()
    function = te.create_prim_func([data, add_one(add_one(data, "first"), "second")])
    apply_rules(function, TARGET)
    assert seen == [("first", machine_of(TARGET)), ("second", machine_of(TARGET))]


def test_a_rule_may_inline_what_comes_after(rules: dict[str, Callable[..., None]]) -> None:
    def inline(schedule: Any, anchor: Any, machine: Machine) -> None:
        (consumer,) = schedule.get_consumers(anchor)
        schedule.reverse_compute_inline(consumer)

    rules["first"] = inline
    data = numbers()
    anchor = add_one(data, "first")
    tail = te.compute(anchor.shape, lambda i: anchor(i) * 2.0, name="multiply")
    scheduled = apply_rules(te.create_prim_func([data, tail]), TARGET)
    root = scheduled.get_sblock("root")
    assert len(scheduled.get_child_blocks(root)) == 1


def test_what_has_no_anchor_gets_the_default_schedule() -> None:
    data = numbers()
    doubled = te.compute(data.shape, lambda i: data(i) * 2.0, name="doubled")
    scheduled = apply_rules(te.create_prim_func([data, doubled]), TARGET)
    assert "T.vectorized" in scheduled.mod["main"].script()


def test_a_rule_that_fails_leaves_the_default_schedule_and_a_warning(
    rules: dict[str, Callable[..., None]],
) -> None:
    def fail(schedule: Any, anchor: Any, machine: Machine) -> None:
        schedule.split(*schedule.get_loops(anchor), [None, 4])
        schedule.compute_inline(anchor)  # the last block cannot be

    rules["wrong"] = fail
    data = numbers()
    function = te.create_prim_func([data, add_one(data, "wrong")])
    with pytest.warns(UserWarning, match="gets the default schedule: "):
        scheduled = apply_rules(function, TARGET)
    assert "T.vectorized" in scheduled.mod["main"].script()


def test_what_32_bits_may_not_count_gets_the_default_schedule_and_a_warning(
    rules: dict[str, Callable[..., None]],
) -> None:
    rules["large"] = lambda *_: None
    data = numbers(3 << 29)
    function = te.create_prim_func([data, add_one(data, "large")])
    with pytest.warns(UserWarning, match="large .*: tensors of more than 1073741824 elements"):
        scheduled = apply_rules(function, TARGET)
    assert "T.vectorized" in scheduled.mod["main"].script()


# What a build schedules --------------------------------------------------------------------------


def equal_layers(emit: Any, x: Any) -> Any:
    for _ in range(5):
        x = emit(op.nn.relu(emit(op.nn.conv2d(x, weights(16, 16, 5, 5), padding=2))))
    return emit(op.nn.softmax(x))


@pytest.fixture
def scheduled(monkeypatch: pytest.MonkeyPatch) -> list[tvm.tirx.PrimFunc]:
    """The functions that are scheduled from now on."""
    functions: list[tvm.tirx.PrimFunc] = []
    apply = KernelRules.apply

    def remember(self: KernelRules, func: Any, target: Any, tunable: bool) -> Any:
        functions.append(func)
        return apply(self, func, target, tunable)

    monkeypatch.setattr(KernelRules, "apply", remember)
    return functions


def test_equal_kernels_of_all_segments_are_scheduled_once_and_nothing_is_left_out(
    scheduled: list[tvm.tirx.PrimFunc], tmp_path: Path
) -> None:
    graph = layer_graph(canonicalize(make_module({"x": (1, 16, 9, 9)}, equal_layers)))
    last = Cut(frozenset(layer.name for layer in graph.layers[2:]))
    segments = build_plan_table(graph, [last]).segments
    assert [len(segment.layers) for segment in segments] == [2, 4]
    lowered = lower_segments(graph, segments, machine_of(TARGET))
    build_library(lowered.module, load_target(TARGET), tmp_path / "model.so")
    anchors = [re.findall(r'"partc.rule": "(\w+)"', function.script()) for function in scheduled]
    assert sorted(anchors) == [["conv2d"], ["reduce"], ["transposition"], ["transposition"]]


def residual_block(emit: Any, x: Any) -> Any:
    first = emit(op.nn.conv2d(x, weights(16, 16, 3, 3), padding=1))
    first = emit(op.nn.relu(emit(op.add(first, weights(1, 16, 1, 1)))))
    second = emit(op.nn.conv2d(first, weights(16, 16, 5, 5), padding=2))
    second = emit(op.add(emit(op.add(second, weights(1, 16, 1, 1))), first))
    rows = emit(op.mean(emit(op.nn.relu(second)), [2, 3]))
    return emit(op.nn.relu(emit(op.add(emit(op.matmul(rows, weights(16, 24))), weights(24)))))


def test_what_is_element_wise_becomes_part_of_the_kernel_before_it(
    scheduled: list[tvm.tirx.PrimFunc], tmp_path: Path
) -> None:
    graph = layer_graph(canonicalize(make_module({"x": (1, 16, 12, 12)}, residual_block)))
    segments = build_plan_table(graph, []).segments
    lowered = lower_segments(graph, segments, machine_of(TARGET))
    build_library(lowered.module, load_target(TARGET), tmp_path / "model.so")
    tails = {}
    for script in (function.script() for function in scheduled):
        anchors = tuple(re.findall(r'"partc.rule": "(\w+)"', script))
        tails[anchors] = len(re.findall(r'T.sblock\("(T_add\d*|compute)"\)', script))
    assert tails == {
        ("winograd",): len(("bias", "relu")),
        ("conv2d",): len(("bias", "residual", "relu")),
        ("reduce",): 0,
        ("matmul",): len(("bias", "relu")),
        ("transposition",): 0,
    }
