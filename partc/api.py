"""What ``import partc`` offers: the commands as functions, with the same options."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from typing_extensions import Unpack

from partc.bundle import Bundle, open_bundle
from partc.compiler import Progress, compile_model, lower_model, plan_model
from partc.errors import PartcError
from partc.frontends.calibration import Calibration
from partc.frontends.load import Inputs, Shapes
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
    preprocess: Mapping[str, str] = {},
    calibration: Calibration | None = None,
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
        preprocess: Inputs that are to be images, uint8[N, H, W, C] as decoders give them, with how
            the model normalises these: ``imagenet``, ``unit`` (0 to 1), ``signed`` (-1 to 1), or
            means and standard deviations such as ``0.485,0.456,0.406/0.229,0.224,0.225``.
        calibration: Inputs like those that the model will get, for ``max_error``: arrays by name,
            with the samples along the first axis, or an ``.npz`` file of them.
        output: The directory to write. A bundle that is there is replaced once all is well.
        progress: Called with a line of text as each step starts.
        options: What is wanted of the plan, as :class:`partc.goal.GoalOptions` lists it:
            ``link="lte"``, ``deadline_ms=50`` and so on.

    Raises:
        PartcError: The model or an option cannot be worked with; nothing was written.
    """
    goal = make_goal(target, server, **options)
    inputs = Inputs(shapes, examples, preprocess, calibration)
    compile_model(model, goal, Path(output), inputs, progress)
    return open_bundle(output)


def plan(
    model: Any,
    *,
    target: str,
    server: str = SERVER,
    shapes: Shapes | None = None,
    examples: Any = None,
    preprocess: Mapping[str, str] = {},
    calibration: Calibration | None = None,
    **options: Unpack[GoalOptions],
) -> Decision:
    """Decide what runs where, without compiling; arguments as for :func:`compile`.

    Raises:
        PartcError: The model or an option cannot be worked with.
    """
    goal = make_goal(target, server, **options)
    if len(goal.links) > 1:
        raise PartcError(f"a plan is for one link, but {len(goal.links)} were given")
    return plan_model(model, goal, Inputs(shapes, examples, preprocess, calibration))[0]


def lower(
    model: Any,
    *,
    shapes: Shapes | None = None,
    examples: Any = None,
    preprocess: Mapping[str, str] = {},
) -> LayerGraph:
    """Import a model and group its operators into layers; arguments as for :func:`compile`.

    Raises:
        PartcError: The model cannot be compiled.
    """
    return lower_model(model, Inputs(shapes, examples, preprocess))
