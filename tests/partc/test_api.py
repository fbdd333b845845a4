from __future__ import annotations

import importlib
import inspect
import re
import subprocess
import sys
from pathlib import Path
from typing import Any, get_type_hints

import pytest
import typer.main

import partc
from partc.bundle import Bundle
from partc.cli import app
from partc.errors import ModelError, PartcError
from partc.goal import Goal, GoalOptions, make_goal
from partc.options import takes_a_goal
from partc.plan import Side


def python(code: str) -> str:
    """What a fresh interpreter prints."""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return done.stdout.strip()


def test_importing_partc_loads_no_library() -> None:
    heavy = python(
        "import sys; import partc; dir(partc); print(sorted("
        "{'tvm', 'tvm_ffi', 'numpy', 'onnx', 'torch', 'grpc', 'rich', 'typer', 'msgspec'}"
        " & sys.modules.keys()))"
    )
    assert heavy == "[]"


def test_loading_a_bundle_loads_no_compiler(tiny_bundle: Bundle) -> None:
    code = (
        f"import sys, partc; partc.load({str(tiny_bundle.path)!r})\n"
        "print(sorted({'tvm', 'onnx', 'onnxruntime', 'ortools'} & sys.modules.keys()))"
    )
    assert python(code) == "[]"


def test_the_function_plan_is_never_the_module_plan() -> None:
    for module in ("partc.plan", "partc.compiler", "partc.api"):
        importlib.import_module(module)
        assert inspect.isfunction(partc.plan)


def test_public_names_are_those_listed() -> None:
    assert partc.__all__ == ["compile", "load", "lower", "plan"]
    assert set(partc.__all__) <= set(dir(partc))
    for name in partc.__all__:
        function = getattr(partc, name)
        assert inspect.isfunction(function)
        assert function.__name__ == name
        assert inspect.getdoc(function)
        assert not any(part.startswith("_") for part in function.__module__.split("."))


def test_what_public_functions_take_and_return_has_a_public_home() -> None:
    for name in partc.__all__:
        for hint in get_type_hints(getattr(partc, name)).values():
            if inspect.isclass(hint):
                parts = f"{hint.__module__}.{hint.__qualname__}".split(".")
                assert not any(part.startswith("_") for part in parts), hint


def test_other_names_are_refused() -> None:
    with pytest.raises(AttributeError, match="module 'partc' has no attribute 'complie'"):
        _ = partc.complie  # pyright: ignore[reportAttributeAccessIssue, reportUnknownVariableType, reportUnknownMemberType]  wrong on purpose


WITH_UNITS = {
    "rate": "rate_hz",
    "deadline": "deadline_ms",
    "max_energy": "max_energy_mj",
    "max_server_time": "max_server_ms",
    "max_upload": "max_upload_nbytes",
    "device_memory": "device_memory_nbytes",
    "uplink": "uplink_mbps",
    "downlink": "downlink_mbps",
    "round_trip": "round_trip_ms",
    "pin": "pins",
    "shape": "shapes",
}
"""What the command line's options are called here."""

SHOWING = {"as_json", "help", "plot", "pareto", "compare", "switches", "overlap", "tiers"}
"""Options about what is printed."""


@pytest.mark.parametrize("command", ["compile", "plan"])
def test_options_have_the_names_of_the_command_line(command: str) -> None:
    function = getattr(importlib.import_module("partc.api"), command)
    own = inspect.signature(function).parameters.keys() - {"options"}
    options: list[Any] = typer.main.get_command(app).commands[command].params  # pyright: ignore[reportAttributeAccessIssue, reportUnknownVariableType, reportUnknownMemberType]  a group
    theirs = {WITH_UNITS.get(str(option.name), str(option.name)) for option in options}
    assert own | GoalOptions.__annotations__.keys() == (theirs - SHOWING) | (
        {"examples"} | ({"progress"} if command == "compile" else set())  # a command line has none
    )


@pytest.mark.parametrize(("option", "name"), WITH_UNITS.items())
def test_what_is_called_otherwise_is_in_the_readme(option: str, name: str) -> None:
    lines = (Path(__file__).parents[2] / "README.md").read_text(encoding="utf-8").splitlines()
    command_line = option.replace("_", "-")
    assert any(re.match(rf"\| `--{command_line} .*\| `{name}=", line) for line in lines)


def test_options_have_the_defaults_of_the_command_line(tmp_path: Path) -> None:
    found: list[Goal] = []

    @takes_a_goal
    def command(model: str, goal: Goal) -> None:
        found.append(goal)

    own = typer.Typer()
    own.command()(command)
    typer.main.get_command(own).main(["m", "--target", "native"], standalone_mode=False)
    assert found == [make_goal("native")]


def test_a_model_can_be_lowered(tiny_model: Path) -> None:
    graph = partc.lower(tiny_model)
    assert [layer.name for layer in graph.layers] == ["stem", "head"]
    assert all(layer.cost is None for layer in graph.layers)


def test_a_model_can_be_planned(tiny_model: Path) -> None:
    decision = partc.plan(tiny_model, target="jetson-tx2", link="lte", pins={"*": "server"})
    assert (decision.target, decision.server, decision.link) == ("jetson-tx2", "x86-64-v3", "lte")
    assert decision.plan.server_layers == ("stem", "head")


def test_a_model_can_be_compiled(tiny_bundle: Bundle) -> None:
    assert isinstance(tiny_bundle, Bundle)
    assert tiny_bundle.half(Side.DEVICE).Model().last_timing is None


def test_mistakes_are_sentences(tiny_model: Path) -> None:
    with pytest.raises(ModelError, match=r"there is no model file missing\.onnx"):
        partc.lower("missing.onnx")
    with pytest.raises(PartcError, match="objective"):
        partc.plan(tiny_model, target="native", objective="beauty")
    with pytest.raises(PartcError, match=r"nothing\*"):
        partc.plan(tiny_model, target="native", pins={"nothing*": "device"})
    with pytest.raises(PartcError, match="arrays by input name, not a list"):
        partc.plan(tiny_model, target="native", max_error=0.1, calibration=[1])  # pyright: ignore[reportArgumentType]  wrong on purpose
    with pytest.raises(PartcError, match="is a text such as 'imagenet'"):
        partc.lower(tiny_model, preprocess={"x:0": 1})  # pyright: ignore[reportArgumentType]  wrong on purpose
