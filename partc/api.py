"""What ``import partc`` offers: the commands as functions, with the same options."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from typing_extensions import Unpack

from partc.bundle import Bundle, open_bundle
from partc.compiler import Progress, compile_model, lower_model, plan_model
from partc.errors import PartcError
from partc.frontends.load import Shapes
from partc.goal import SERVER, GoalOptions, make_goal
from partc.graph import LayerGraph
from partc.report.decision import Decision


def compile(  # noqa: A001  the command's name
    model: Any,
    *,
    target: str,
    server: str = SERVER,
    shapes: Shapes | None = None,
    examples: Any = None,
    output: str | Path = "out",
    progress: Progress = lambda _: None,
    **options: Unpack[GoalOptions],
) -> Bundle:
    """Compile a model to a bundle.

    Args:
        model: A path to an ``.onnx`` or ``.pt2`` file, ``package.module:callable``, an
            ``onnx.ModelProto``, a ``torch.nn.Module``, an ``fx.GraphModule`` or an
            ``ExportedProgram``.
        target: The device: a name that ``partc targets`` lists, or a ``.toml`` file.
        server: The server, likewise.
        shapes: Shapes of an ONNX model's inputs, by name.
        examples: Example inputs of a torch module: a tensor, a sequence, or a dict by name.
        output: The directory to write. A bundle that is there is replaced once all is well.
        progress: Called with a line of text as each step starts.
        options: What is wanted of the plan, as :class:`partc.goal.GoalOptions` lists it:
            ``link="lte"``, ``deadline_ms=50`` and so on.

    Raises:
        PartcError: The model or an option cannot be worked with; nothing was written.
    """
    compile_model(
        model, make_goal(target, server, **options), Path(output), shapes, examples, progress
    )
    return open_bundle(output)


def plan(
    model: Any,
    *,
    target: str,
    server: str = SERVER,
    shapes: Shapes | None = None,
    examples: Any = None,
    **options: Unpack[GoalOptions],
) -> Decision:
    """Decide what runs where, without compiling; arguments as for :func:`compile`.

    Raises:
        PartcError: The model or an option cannot be worked with.
    """
    goal = make_goal(target, server, **options)
    if len(goal.links) > 1:
        raise PartcError(f"a plan is for one link, but {len(goal.links)} were given")
    return plan_model(model, goal, shapes, examples)[0]


def lower(model: Any, *, shapes: Shapes | None = None, examples: Any = None) -> LayerGraph:
    """Import a model and group its operators into layers; arguments as for :func:`compile`.

    Raises:
        PartcError: The model cannot be compiled.
    """
    return lower_model(model, shapes, examples)
