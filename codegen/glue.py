"""Write what ties the two compiled halves together, in the model's own names and types."""

from __future__ import annotations

import hashlib
import keyword
import re
import shutil
from collections.abc import Iterable, Iterator, Sequence
from importlib import metadata
from pathlib import Path

from jinja2 import Environment, PackageLoader, StrictUndefined

import partc.runtime
from partc.graph import LayerGraph, Tensor
from partc.plan import NamedPlan, PlanTable, Side
from partc.runtime.spec import ArtifactSpec, ModelSpec, PlanSpec, TensorSpec

PROGRAMS = {Side.DEVICE: "client", Side.SERVER: "server"}
"""The generated module of each half."""

_RESERVED = frozenset(("plan", "self"))


def model_spec(
    graph: LayerGraph, table: PlanTable, default_plan: str, artifacts: Iterable[ArtifactSpec]
) -> ModelSpec:
    """The facts about a model and its plans that both halves need."""
    digests = [digest for half in artifacts for digest in (half.library_sha256, half.params_sha256)]
    return ModelSpec(
        name=graph.name,
        digest=hashlib.sha256("".join(digests).encode()).hexdigest(),
        inputs=_tensor_specs(graph.inputs),
        outputs=_tensor_specs(graph.outputs),
        plans=tuple(_plan_spec(plan, version) for version, plan in enumerate(table.plans)),
        default_plan=default_plan,
    )


def write_glue(model: ModelSpec, artifact: ArtifactSpec, side: Side, directory: Path) -> None:
    """Generate a half's Python files and copy the runtime that they use.

    Args:
        model: The signature and the plans.
        artifact: The half's compiled library and weights.
        side: Which half.
        directory: Where the half is; it becomes a Python package.
    """
    program = PROGRAMS[side]
    names = {
        "program": program,
        "model": model,
        "artifact": artifact,
        "inputs": list(_named(model.inputs)),
        "outputs": list(_named(model.outputs)),
        "class_name": _class_name(model.name),
        "partc_version": metadata.version("partc"),
        "tvm_version": metadata.version("apache-tvm"),
        "tvm_ffi_version": metadata.version("apache-tvm-ffi"),
    }
    files = {
        "__init__.py": "__init__.py.jinja",
        "__main__.py": "__main__.py.jinja",
        f"{program}.py": f"{program}.py.jinja",
        "requirements.txt": "requirements.txt.jinja",
    }
    if side is Side.SERVER:
        files["Dockerfile"] = "Dockerfile.jinja"
    environment = _environment()
    for name, template in files.items():
        text = environment.get_template(template).render(names)
        (directory / name).write_text(text, encoding="utf-8")
    copy_runtime(directory / "runtime")


def copy_runtime(directory: Path) -> None:
    """Copy the model-independent part of the glue."""
    directory.mkdir()
    for source in sorted(Path(partc.runtime.__path__[0]).glob("*.py")):
        shutil.copyfile(source, directory / source.name)


def identifiers(names: Sequence[str]) -> Iterator[str]:
    """A distinct Python identifier for each name, alike where it can be."""
    taken = set(_RESERVED)
    for name in names:
        base = re.sub(r"\W", "_", name, flags=re.ASCII).strip("_") or "tensor"
        base = f"_{base}" if base[0].isdigit() else base
        base = f"{base}_" if keyword.iskeyword(base) else base
        identifier, count = base, 0
        while identifier in taken:
            count += 1
            identifier = f"{base}_{count}"
        taken.add(identifier)
        yield identifier


def _named(tensors: Sequence[TensorSpec]) -> Iterator[tuple[str, TensorSpec]]:
    return zip(identifiers([tensor.name for tensor in tensors]), tensors, strict=True)


def _class_name(model_name: str) -> str:
    return "".join(word[:1].upper() + word[1:] for word in re.split(r"\W|_", model_name)) or "Model"


def _plan_spec(named: NamedPlan, version: int) -> PlanSpec:
    return PlanSpec(
        name=named.name,
        version=version,
        device_segments=named.device_segments,
        server_segments=named.server_segments,
        upload=_tensor_specs(named.plan.upload),
        download=_tensor_specs(named.plan.download),
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
        autoescape=False,  # noqa: S701  the output is Python, and every value goes through repr
    )
    environment.filters["literal"] = _literal
    environment.filters["described"] = _described
    environment.filters["numpy_name"] = _numpy_name
    return environment


def _literal(value: object) -> str:
    """A Python literal, strings with double quotes."""
    if isinstance(value, str):
        return '"' + repr(value)[1:-1].replace("\\'", "'").replace('"', '\\"') + '"'
    if isinstance(value, tuple):
        items = [_literal(item) for item in value]  # pyright: ignore[reportUnknownVariableType]  a tuple of literals
        return f"({items[0]},)" if len(items) == 1 else f"({', '.join(items)})"
    return repr(value)


def _described(tensor: TensorSpec) -> str:
    """A tensor in prose: ``'logits', float32[1, 1000].``."""
    return f"{tensor.name!r}, {tensor.dtype}{list(tensor.shape)}."


def _numpy_name(dtype: str) -> str:
    """The NumPy scalar type of a dtype; ``np.bool`` is none before NumPy 2."""
    return "bool_" if dtype == "bool" else dtype
