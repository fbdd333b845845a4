"""Write what ties the two compiled halves together, in the model's own names and types."""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Callable, Iterable, Iterator, Sequence
from importlib import metadata
from pathlib import Path

from jinja2 import Environment, PackageLoader, StrictUndefined

import partc.runtime
from partc.codegen.source import identifiers, literal, prose, source
from partc.graph import IMAGE, PLAIN, Encoding, LayerGraph, Tensor
from partc.plan import Cut, NamedPlan, PlanTable, Side
from partc.runtime.encodings import library_of
from partc.runtime.spec import ArtifactSpec, ModelSpec, PlanSpec, SentSpec, TensorSpec
from partc.runtime.tensors import describe

PROGRAMS = {Side.DEVICE: "client", Side.SERVER: "server"}
"""The generated module of each half."""

# What the generated class uses where its inputs' names are parameters, and its outputs' fields.
_NO_PARAMETERS = frozenset(("self", "plan", "outputs", "Outputs"))
_NO_FIELDS = frozenset(("count", "index", "np", "NDArray"))

_LEAST_VERSIONS = {"lz4": "4.3", "pillow": "11", "zstandard": "0.22"}


def model_spec(
    graph: LayerGraph,
    table: PlanTable,
    default_plan: str,
    artifacts: Iterable[ArtifactSpec],
    is_eligible: Callable[[Cut], bool] = lambda _: True,
) -> ModelSpec:
    """The facts about a model and its plans that both halves need.

    Args:
        graph: What the plans are of.
        table: The plans.
        default_plan: The name of the plan of a call that names none.
        artifacts: The compiled halves.
        is_eligible: Whether a plan may be chosen without being asked for by name.
    """
    plans = tuple(
        _plan_spec(plan, version, is_eligible(plan.plan.cut))
        for version, plan in enumerate(table.plans)
    )
    digests = [digest for half in artifacts for digest in (half.library_sha256, half.params_sha256)]
    digests += [repr((plan.version, plan.server_segments, plan.upload)) for plan in plans]
    return ModelSpec(
        name=graph.name,
        digest=hashlib.sha256("".join(digests).encode()).hexdigest(),
        inputs=_tensor_specs(graph.inputs),
        outputs=_tensor_specs(graph.outputs),
        plans=plans,
        default_plan=default_plan,
        image_inputs=tuple(
            tensor.name for tensor in graph.inputs if graph.encodings_of(tensor)[0].name == IMAGE
        ),
    )


def write_glue(model: ModelSpec, artifact: ArtifactSpec, side: Side, directory: Path) -> None:
    """Generate a half's files and copy the runtime that they use.

    Args:
        model: The signature and the plans.
        artifact: The half's compiled library and weights.
        side: Which half.
        directory: Where the half is; it becomes a Python package.
    """
    for name, text in glue_texts(model, artifact, side).items():
        (directory / name).write_text(text, encoding="utf-8")
    copy_runtime(directory / "runtime")


def glue_texts(model: ModelSpec, artifact: ArtifactSpec, side: Side) -> dict[str, str]:
    """The files that are generated for a half, by name."""
    program = PROGRAMS[side]
    facts = {
        "program": program,
        "model": model,
        "artifact": artifact,
        "inputs": list(_named(model.inputs, _NO_PARAMETERS)),
        "outputs": list(_named(model.outputs, _NO_FIELDS)),
        "sends": any(plan.upload for plan in model.plans),
        "requirements": [f"{name}>={_LEAST_VERSIONS[name]}" for name in _libraries(model, side)],
        "partc_version": metadata.version("partc"),
        "tvm_version": metadata.version("apache-tvm"),
        "tvm_ffi_version": metadata.version("apache-tvm-ffi"),
    }
    names = ["__init__.py", "__main__.py", f"{program}.py", "requirements.txt"]
    if side is Side.SERVER:
        names.append("Dockerfile")
    environment = _environment()
    return {name: environment.get_template(f"{name}.jinja").render(facts) for name in names}


def _libraries(model: ModelSpec, side: Side) -> list[str]:
    """What encoding or decoding needs on a side besides NumPy; the device also checks images."""
    used = {sent.encoding for plan in model.plans for sent in plan.upload}
    if side is Side.DEVICE and model.image_inputs:
        used.add(IMAGE)
    return sorted({library for encoding in used if (library := library_of(encoding))})


def copy_runtime(directory: Path) -> None:
    """Copy the model-independent part of the glue."""
    directory.mkdir()
    for module in sorted(Path(partc.runtime.__path__[0]).glob("*.py")):
        shutil.copyfile(module, directory / module.name)


def _named(
    tensors: Sequence[TensorSpec], reserved: frozenset[str]
) -> Iterator[tuple[str, TensorSpec]]:
    return zip(identifiers([spec.name for spec in tensors], reserved), tensors, strict=True)


def _plan_spec(named: NamedPlan, version: int, eligible: bool) -> PlanSpec:
    return PlanSpec(
        name=named.name,
        version=version,
        device_segments=named.device_segments,
        server_segments=named.server_segments,
        upload=tuple(map(_sent_spec, named.plan.upload, named.plan.encodings)),
        download=_tensor_specs(named.plan.download),
        device_ms=float(named.plan.device_ms),
        server_ms=float(named.plan.server_ms),
        eligible=eligible,
    )


def _sent_spec(tensor: Tensor, encoding: Encoding) -> SentSpec:
    return SentSpec(
        tensor.name, tensor.type.dtype, tensor.type.shape, encoding.name, encoding.nbytes
    )


def _tensor_specs(tensors: Sequence[Tensor]) -> tuple[TensorSpec, ...]:
    return tuple(
        TensorSpec(tensor.name, tensor.type.dtype, tensor.type.shape) for tensor in tensors
    )


def _environment() -> Environment:
    environment = Environment(
        loader=PackageLoader("partc.codegen"),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
        autoescape=False,  # noqa: S701  the output is Python, and every value goes through partc.codegen.source
    )
    filters: dict[str, Callable[..., str]] = {
        "described": _described,
        "literal": literal,
        "names": _names,
        "sent": _sent,
        "prose": prose,
        "source": source,
    }
    environment.filters.update(filters)
    return environment


def _described(identifier: str, tensor: TensorSpec) -> str:
    """A tensor in a docstring: its type and, if that is another, its own name."""
    described = describe(tensor.dtype, tensor.shape)
    if identifier == tensor.name:
        return f"{described}."
    return f"{described}, in the model '{prose(tensor.name)}'."


def _sent(tensors: Sequence[SentSpec]) -> str:
    """Tensors with how they are sent, if that is not as they are."""
    return ", ".join(
        prose(spec.name) + (f" ({spec.encoding})" if spec.encoding != PLAIN else "")
        for spec in tensors
    )


def _names(tensors: Sequence[TensorSpec]) -> str:
    return ", ".join(prose(spec.name) for spec in tensors)
