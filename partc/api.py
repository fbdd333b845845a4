"""What ``import partc`` offers: the commands as functions, with the same options."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from partc.bundle import Bundle, open_bundle
from partc.compiler import Progress, compile_model, lower_model, plan_model
from partc.errors import PartcError
from partc.frontends.load import Shapes
from partc.goal import Pins, make_goal
from partc.graph import LayerGraph
from partc.report.decision import Decision


def compile(  # noqa: A001  the command's name
    model: Any,
    *,
    target: str,
    server: str = "x86-64-v3",
    link: str | Sequence[str] = "wifi",
    objective: str = "latency",
    pins: Pins | None = None,
    server_busy: float = 0.0,
    measure: bool = False,
    rpc: str | None = None,
    shapes: Shapes | None = None,
    examples: Any = None,
    output: str | Path = "out",
    progress: Progress = lambda _: None,
) -> Bundle:
    """Compile a model to a bundle.

    Args:
        model: A path to an ``.onnx`` or ``.pt2`` file, ``package.module:callable``, an
            ``onnx.ModelProto``, a ``torch.nn.Module``, an ``fx.GraphModule`` or an
            ``ExportedProgram``.
        target: The device: a name that ``partc targets`` lists, or a ``.toml`` file.
        server: The server, likewise.
        link: What lies between: one or several names that ``partc links`` lists, or ``.toml``
            files. The bundle holds the best plan for each; the first one's is its default.
        objective: ``latency`` or ``energy``.
        pins: Patterns of layer names, each with the side on which those layers have to be,
            ``device`` or ``server``.
        server_busy: How many other requests the server computes at once, on average.
        measure: Time the model's layers on both machines instead of predicting.
        rpc: ``HOST:PORT`` of a TVM RPC server on the device, to measure there; else it is measured
            here.
        shapes: Shapes of an ONNX model's inputs, by name.
        examples: Example inputs of a torch module: a tensor, a sequence, or a dict by name.
        output: The directory to write. A bundle that is there is replaced once all is well.
        progress: Called with a line of text as each step starts.

    Raises:
        PartcError: The model or an option cannot be worked with; nothing was written.
    """
    goal = make_goal(target, server, link, objective, pins, server_busy, measure, rpc)
    compile_model(model, goal, Path(output), shapes, examples, progress)
    return open_bundle(output)


def plan(
    model: Any,
    *,
    target: str,
    server: str = "x86-64-v3",
    link: str = "wifi",
    objective: str = "latency",
    pins: Pins | None = None,
    server_busy: float = 0.0,
    measure: bool = False,
    rpc: str | None = None,
    shapes: Shapes | None = None,
    examples: Any = None,
) -> Decision:
    """Decide what runs where, without compiling; arguments as for :func:`compile`.

    Raises:
        PartcError: The model or an option cannot be worked with.
    """
    goal = make_goal(target, server, link, objective, pins, server_busy, measure, rpc)
    if len(goal.links) > 1:
        raise PartcError(f"a plan is for one link, but {len(goal.links)} were given")
    return plan_model(model, goal, shapes, examples)[0]


def lower(model: Any, *, shapes: Shapes | None = None, examples: Any = None) -> LayerGraph:
    """Import a model and group its operators into layers; arguments as for :func:`compile`.

    Raises:
        PartcError: The model cannot be compiled.
    """
    return lower_model(model, shapes, examples)
