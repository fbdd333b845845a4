from __future__ import annotations

import pytest
from strategies import tiny_graph

from partc.errors import GraphError, InfeasibleError
from partc.graph import LayerGraph
from partc.passes.pins import Pinned, check_pins, resolve_pins
from partc.plan import Side


def _named(*names: str) -> LayerGraph:
    layers = {name: (f"x -> {name}_out", 1.0, 1.0) for name in names}
    return tiny_graph({"x": 1} | {f"{name}_out": 1 for name in names}, layers, f"{names[0]}_out")


def _sides(pinned: tuple[Pinned, ...]) -> dict[str, Side]:
    return {name: each.side for each in pinned for name in each.layers}


def test_pin_on_no_layer() -> None:
    with pytest.raises(GraphError, match=r"the pins name layers that 'tiny' lacks: \['e'\]"):
        check_pins(_named("conv1"), {"e": Side.DEVICE})


def test_patterns_become_pins() -> None:
    graph = _named("conv1", "conv2", "fc", "head[0]")
    patterns = [("conv?", Side.DEVICE), ("fc", Side.SERVER), ("conv1", Side.DEVICE)]
    assert _sides(resolve_pins(graph, patterns)) == {
        "conv1": Side.DEVICE,
        "conv2": Side.DEVICE,
        "fc": Side.SERVER,
    }
    assert _sides(resolve_pins(graph, [("head[0]", Side.SERVER)])) == {"head[0]": Side.SERVER}
    assert resolve_pins(graph, []) == ()


@pytest.mark.parametrize(
    ("pattern", "message"),
    [
        ("convv1", "pin 'convv1' matches no layer of 'tiny'; did you mean conv1?"),
        ("*con1*", "pin '*con1*' matches no layer of 'tiny'; did you mean conv1?"),
        ("zzz", "pin 'zzz' matches no layer of 'tiny'; partc inspect lists the layers"),
        ("FC", "pin 'FC' matches no layer of 'tiny'; partc inspect lists the layers"),
    ],
)
def test_pattern_that_matches_nothing(pattern: str, message: str) -> None:
    with pytest.raises(InfeasibleError) as error:
        resolve_pins(_named("conv1", "fc"), [(pattern, Side.DEVICE)])
    assert str(error.value) == message


def test_patterns_that_disagree() -> None:
    with pytest.raises(InfeasibleError) as error:
        resolve_pins(_named("conv1", "fc"), [("conv*", Side.DEVICE), ("*1", Side.SERVER)])
    assert str(error.value) == (
        "layer 'conv1' cannot run on both sides: pin 'conv*' puts it on the device and "
        "pin '*1' on the server; narrow one of the two"
    )


# p and q are read by a and b, t by c and d.
BRANCHES = tiny_graph(
    {"p": 1, "q": 1, "t": 1, "u": 1, "y": 1, "z": 1},
    {
        "a": ("p -> t", 1, 1),
        "b": ("p q -> u", 1, 1),
        "c": ("t -> y", 1, 1),
        "d": ("t u -> z", 1, 1),
    },
    "y z",
)


@pytest.mark.parametrize(
    ("last", "on_device"), [("a", "a b"), ("b", "a b"), ("c", "a b c d"), ("d", "a b c d")]
)
def test_what_is_upstream_keeps_its_readers_on_the_device(last: str, on_device: str) -> None:
    pins = _sides(resolve_pins(BRANCHES, [], [last]))
    assert pins == dict.fromkeys(on_device.split(), Side.DEVICE)


def test_only_what_is_upstream_is_private() -> None:
    line = tiny_graph({"x": 1, "t": 1, "y": 1}, {"a": ("x -> t", 1, 1), "b": ("t -> y", 1, 1)}, "y")
    assert _sides(resolve_pins(line, [], ["a"])) == {"a": Side.DEVICE}


def test_kinds_become_pins() -> None:
    assert _sides(resolve_pins(_named("conv1", "fc"), [("kind:to*", Side.SERVER)])) == {
        "conv1": Side.SERVER,
        "fc": Side.SERVER,
    }


def test_privacy_and_a_pin_that_disagree() -> None:
    with pytest.raises(InfeasibleError) as error:
        resolve_pins(BRANCHES, [("b", Side.SERVER)], ["a"])
    assert str(error.value) == (
        "layer 'b' cannot run on both sides: pin 'b' puts it on the server and --private-until 'a' "
        "on the device; narrow one of the two"
    )


def test_each_reason_has_its_name() -> None:
    pinned = resolve_pins(BRANCHES, [("d", Side.SERVER)], ["a"], [("[ab]", Side.SERVER)])
    assert pinned == (
        Pinned("pin 'd'", ("d",), Side.SERVER),
        Pinned("--forbid '[ab]'", ("a", "b"), Side.DEVICE),
        Pinned("--private-until 'a'", ("a", "b"), Side.DEVICE),
    )
