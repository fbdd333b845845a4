"""The compiler: from a model file to a plan, and from a plan to a bundle."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

from partc.codegen.build import host_target, resolve_target, runs_here
from partc.codegen.bundle import check_output, describe_bundle, staged
from partc.codegen.calibrate import measure_encodings
from partc.codegen.glue import model_spec, write_glue
from partc.codegen.halves import build_half
from partc.codegen.verify import make_samples, verify
from partc.errors import PartcError
from partc.frontends.load import INPUTS, Inputs, import_source
from partc.frontends.source import Arrays, SourceModel
from partc.goal import Goal
from partc.graph import LayerGraph
from partc.interruption import interruptible
from partc.manifest import MANIFEST_NAME, manifest_json
from partc.passes.annotate import entry_charges
from partc.passes.build import build_graph
from partc.passes.canonicalize import canonicalize
from partc.passes.encode import offer_encodings
from partc.passes.segment import build_plan_table
from partc.plan import PlanTable, Side
from partc.planner import (
    Progress,
    check_range,
    decide,
    keeps_constraints,
    predict_costs,
    survey,
)
from partc.report.decision import Decision
from partc.report.html import report_html
from partc.runtime.encodings import encodings_of, is_lossless
from partc.runtime.executor import Executor
from partc.runtime.spec import ArtifactSpec, ModelSpec


def compile_model(
    model: Any,
    goal: Goal,
    output: Path,
    inputs: Inputs = INPUTS,
    progress: Progress = lambda _: None,
) -> tuple[Decision, ...]:
    """Every step from a model to a bundle.

    Args:
        model: What :func:`partc.frontends.load.import_model` takes.
        goal: What to plan and compile for.
        output: The directory to write; a bundle that is there is replaced once all is well.
        inputs: What is said of the model's inputs.
        progress: Called with a line of text as each step starts.

    Returns:
        What was decided for each link.

    Raises:
        PartcError: The model, the goal or the output cannot be worked with; nothing was written.
    """
    check_output(output)
    for target in (goal.target, goal.server):
        resolve_target(target)
    with interruptible() as check_interruption:
        source, graph = prepare_model(model, goal, inputs, progress)
        progress(f"Planning {len(graph.layers)} layers")
        decisions = decide(graph, goal)
        with staged(output) as staging:
            _write_bundle(source, goal, decisions, staging, progress)
            check_interruption()
    return decisions


def prepare_model(
    model: Any, goal: Goal, inputs: Inputs, progress: Progress
) -> tuple[SourceModel, LayerGraph]:
    """A model and its layer graph, with all that a plan for a goal rests on.

    Raises:
        PartcError: The model or what is said of its inputs cannot be worked with, or the goal
            contradicts itself.
    """
    if goal.varies:
        check_range(goal)
    if inputs.calibration is not None and goal.constraints.max_error is None:
        raise PartcError("--calibration is what --max-error is measured on; give both or neither")
    progress("Importing the model")
    source = import_source(model, inputs)
    graph = predict_costs(lower(source), goal, progress)
    most = goal.constraints.max_error
    if most is None:
        return source, graph
    encodings = [name for name in encodings_of("float32") if most or is_lossless(name)]
    samples = _calibration(source, progress)
    measured = measure_encodings(graph, samples, encodings, progress)
    return source, offer_encodings(graph, measured, goal.target, goal.server, most)


def _calibration(source: SourceModel, progress: Progress) -> list[Arrays]:
    """What to measure encodings on."""
    if not source.calibration:
        given = "random inputs" if source.examples is None else "the example inputs"
        progress(f"No --calibration: sizes and deviations are those of {given}")
    samples = make_samples(source)
    return [sample.inputs for sample in samples if sample.calibration]


def _write_bundle(
    source: SourceModel,
    goal: Goal,
    decisions: Sequence[Decision],
    staging: Path,
    progress: Progress,
) -> None:
    graph = decisions[0].graph
    cuts = [decision.plan.cut for decision in decisions]
    if goal.varies:
        progress("Finding the plans that win in the range of conditions")
        cuts += [cut for link in goal.links for cut in survey(graph, goal, link).cuts]
    table = build_plan_table(graph, cuts, entry_charges(goal.target, goal.server))
    artifacts = _build_halves(graph, table, goal, staging, progress)
    default_plan = table.find(decisions[0].plan.cut).name
    eligible = partial(keeps_constraints, graph, goal)
    spec = model_spec(graph, table, default_plan, artifacts.values(), eligible)
    progress(f"Verifying {len(table.plans)} plans against the source model")
    _verify(source, spec, graph, table, goal, staging, artifacts)
    for side, artifact in artifacts.items():
        write_glue(spec, artifact, side, staging / side.value)
    (staging / "report.html").write_text(report_html(decisions[0]), encoding="utf-8")
    manifest = describe_bundle(spec, table, goal, decisions, staging, source.preprocess)
    (staging / MANIFEST_NAME).write_bytes(manifest_json(manifest))


def plan_model(
    model: Any, goal: Goal, inputs: Inputs = INPUTS, progress: Progress = lambda _: None
) -> tuple[Decision, ...]:
    """The decision for each link, without compiling; arguments as for :func:`compile_model`."""
    return decide(prepare_model(model, goal, inputs, progress)[1], goal)


def lower_model(
    model: Any, inputs: Inputs = INPUTS, progress: Progress = lambda _: None
) -> LayerGraph:
    """A model's layer graph, without costs; arguments as for :func:`compile_model`."""
    progress("Importing the model")
    return lower(import_source(model, inputs))


def lower(source: SourceModel) -> LayerGraph:
    """The layer graph of an imported model, without costs."""
    return build_graph(source.name, canonicalize(source.module), source.inputs, source.outputs)


def _build_halves(
    graph: LayerGraph, table: PlanTable, goal: Goal, staging: Path, progress: Progress
) -> dict[Side, ArtifactSpec]:
    artifacts: dict[Side, ArtifactSpec] = {}
    for side, target in ((Side.DEVICE, goal.target), (Side.SERVER, goal.server)):
        progress(f"Compiling the {side.value}'s half for {target.name}")
        directory = staging / side.value
        directory.mkdir()
        artifacts[side] = build_half(graph, table, side, target, directory, progress)
    return artifacts


def _verify(
    source: SourceModel,
    model: ModelSpec,
    graph: LayerGraph,
    table: PlanTable,
    goal: Goal,
    staging: Path,
    artifacts: dict[Side, ArtifactSpec],
) -> None:
    """Compare each plan with the source; a half that cannot run here is built for this machine."""
    targets = {Side.DEVICE: goal.target, Side.SERVER: goal.server}
    with tempfile.TemporaryDirectory(prefix="partc-verify-") as workspace:
        executors: dict[Side, Executor] = {}
        for side, target in targets.items():
            directory, artifact = staging / side.value, artifacts[side]
            if not runs_here(target):
                directory = Path(workspace) / side.value
                directory.mkdir()
                artifact = build_half(graph, table, side, host_target(), directory)
            executors[side] = Executor(directory, artifact)
        device, server = (executors[side] for side in targets)
        samples, most = list(make_samples(source)), goal.constraints.max_error or 0.0
        verify(model, device, server, source.reference, samples, most)
