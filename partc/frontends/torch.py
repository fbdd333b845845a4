# pyright: reportUnknownMemberType=false
# torch's own types are incomplete.
"""PyTorch models: modules, traced and exported programs, and ``.pt2`` archives."""

from __future__ import annotations

import importlib
import inspect
import re
import sys
import warnings
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn
from torch.export import ExportedProgram
from torch.export.graph_signature import InputKind, OutputKind, TensorArgument
from torch.utils import _pytree as pytree

from partc.errors import ModelError
from partc.frontends.source import Arrays, SourceModel
from partc.frontends.torch_archive import load_archive
from partc.frontends.torch_relax import dtype_name, first_line, to_relax
from partc.graph import ITEM_NBYTES, Tensor, TensorType

Examples: TypeAlias = torch.Tensor | Sequence[torch.Tensor] | Mapping[str, torch.Tensor]


def import_torch(
    model: nn.Module | ExportedProgram | Path,
    examples: Examples | None = None,
    name: str | None = None,
) -> SourceModel:
    """Import a model; what the caller gave is left as it was.

    Args:
        model: A module (an ``fx.GraphModule`` is one), which is imported in eval mode; a program
            exported with fixed shapes; or the path of a ``.pt2`` archive of one.
        examples: Input tensors, by position or by the name of ``forward``'s parameter. A module
            needs them, because they fix the shapes; programs bring their own.
        name: What to call the model; by default the file's or the class's name.

    Raises:
        ModelError: The file cannot be read, the model cannot be exported, has dynamic shapes or
            state, or uses operators that cannot be compiled (all of them are listed).
    """
    if isinstance(model, Path):
        name = name or model.stem
        model = load_archive(model)
    if isinstance(model, ExportedProgram):
        args, kwargs = _arguments(examples) if examples is not None else _own_examples(model)
        program, run = model, _program_runner(model)
    elif isinstance(cast("object", model), nn.Module):
        name = name or type(model).__name__
        args, kwargs = _arguments(_require(examples, name))
        program, run = _export(model, args, kwargs), _module_runner(model)
    else:
        raise ModelError(
            "expected an nn.Module, an ExportedProgram or the path of a .pt2 file, "
            f"but got {type(model).__name__}"
        )
    inputs = _inputs(program)
    decomposed = _decompose(program)
    outputs = _outputs(decomposed)
    module = to_relax(decomposed, [tensor.name for tensor in inputs])
    return SourceModel(
        name=re.sub(r"\W", "_", name or "model"),
        module=module,
        inputs=inputs,
        outputs=tuple(tensor for tensor in outputs if tensor),
        reference=_Reference(
            run, cast("pytree.TreeSpec", program.call_spec.in_spec), inputs, outputs
        ),
        examples=_named_examples(inputs, args, kwargs),
    )


def load_callable(spec: str) -> tuple[nn.Module | ExportedProgram, Examples | None]:
    """Call ``package.module:callable`` for a model and its example inputs.

    The module is imported with the current directory on ``sys.path``.

    Args:
        spec: Names a callable without arguments that returns (module, example inputs), a module
            with an ``example_inputs`` attribute or method, or an ``ExportedProgram``.

    Raises:
        ModelError: There is no such callable, it fails, or it returns something else.
    """
    module_name, _, attribute = spec.partition(":")
    if not module_name or not attribute:
        raise ModelError(f"expected package.module:callable, but got {spec!r}")
    with _current_directory_on_path():
        make = _find_callable(module_name, attribute)
        try:
            made = make()
            model, examples = _split_examples(made)
        except Exception as error:
            raise ModelError(
                f"{spec} failed with {type(error).__name__}: {first_line(error)}"
            ) from error
    if isinstance(model, ExportedProgram):
        return model, None
    if isinstance(model, nn.Module) and examples is not None:
        return model, examples
    raise ModelError(
        f"expected {spec} to return (module, example_inputs), a module that has example_inputs, "
        f"or an ExportedProgram, but it returned {type(made).__name__}"
    )


@contextmanager
def _current_directory_on_path() -> Generator[None]:
    directory = str(Path.cwd())
    sys.path.insert(0, directory)
    importlib.invalidate_caches()
    try:
        yield
    finally:
        sys.path.remove(directory)


def _find_callable(module_name: str, attribute: str) -> Callable[[], Any]:
    try:
        found = getattr(importlib.import_module(module_name), attribute, None)
    except Exception as error:
        raise ModelError(
            f"cannot import {module_name!r} from {Path.cwd()} or the installed packages: {error}"
        ) from error
    if not callable(found):
        raise ModelError(f"module {module_name!r} has no callable {attribute!r}")
    return found


def _split_examples(made: object) -> tuple[object, Any]:
    if isinstance(made, tuple):
        pair = cast("tuple[Any, ...]", made)
        return (pair[0], pair[1]) if len(pair) == 2 else (pair, None)
    examples: Any = getattr(made, "example_inputs", None)
    return made, examples() if callable(examples) else examples


def _require(examples: Examples | None, name: str) -> Examples:
    if examples is None:
        raise ModelError(
            f"{name} needs example inputs, which fix its shapes; pass them like this: "
            "examples=(torch.zeros(1, 3, 224, 224),)"
        )
    return examples


def _arguments(examples: Examples) -> tuple[tuple[torch.Tensor, ...], dict[str, torch.Tensor]]:
    """Example inputs as arguments by position and by name."""
    if isinstance(examples, torch.Tensor):
        return (examples,), {}
    by_name = isinstance(examples, Mapping)
    values = list(examples.values()) if by_name else list(examples)
    for value in cast("list[object]", values):
        if not isinstance(value, torch.Tensor):
            raise ModelError(
                "expected example inputs to be tensors, a sequence of them or a mapping from "
                f"names to them, but found {type(value).__name__}"
            )
    return ((), dict(examples)) if by_name else (tuple(values), {})


def _own_examples(program: ExportedProgram) -> tuple[tuple[Any, ...], dict[str, Any]]:
    args, kwargs = program.example_inputs or ((), {})
    return args, kwargs


def _named_examples(
    inputs: Sequence[Tensor],
    args: tuple[Any, ...],
    kwargs: Mapping[str, Any],
) -> Arrays | None:
    """Example inputs by the names of the model's inputs, checked against their types."""
    if not args and not kwargs:
        return None
    if set(kwargs) == {tensor.name for tensor in inputs}:
        given = [kwargs[tensor.name] for tensor in inputs]
    else:
        given = pytree.tree_leaves((args, dict(kwargs)))
    if [_describe(value) for value in given] != [str(tensor.type) for tensor in inputs]:
        expected = ", ".join(map(str, inputs))
        raise ModelError(
            f"the model takes {expected}, but the example inputs are "
            + ", ".join(map(_describe, given))
        )
    return {
        tensor.name: value.detach().cpu().numpy().copy()
        for tensor, value in zip(inputs, given, strict=True)
    }


def _describe(value: object) -> str:
    if not isinstance(value, torch.Tensor):
        return repr(value)
    return f"{dtype_name(value.dtype)}[{', '.join(map(str, value.shape))}]"


@contextmanager
def _quiet() -> Generator[None]:
    """Keep what torch deprecates in itself from the user."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


@contextmanager
def _evaluation_mode(module: nn.Module) -> Generator[None]:
    """Eval mode for a while; afterwards every submodule is in the mode it was in."""
    modes = [(part, part.training) for part in module.modules()]
    module.eval()
    try:
        yield
    finally:
        for part, training in modes:
            part.training = training


def _export(
    module: nn.Module, args: tuple[torch.Tensor, ...], kwargs: dict[str, torch.Tensor]
) -> ExportedProgram:
    try:
        with _quiet(), _evaluation_mode(module), torch.no_grad():
            return torch.export.export(
                module, args, _in_signature_order(module, kwargs), strict=False
            )
    except Exception as error:
        raise ModelError(
            f"torch.export cannot trace {type(module).__name__} with these example inputs: "
            f"{first_line(error)}"
        ) from error


def _in_signature_order(
    module: nn.Module, kwargs: dict[str, torch.Tensor]
) -> dict[str, torch.Tensor]:
    parameters = list(inspect.signature(module.forward).parameters)
    return dict(
        sorted(
            kwargs.items(),
            key=lambda item: (
                parameters.index(item[0]) if item[0] in parameters else len(parameters)
            ),
        )
    )


def _decompose(program: ExportedProgram) -> ExportedProgram:
    try:
        with _quiet():
            return program.run_decompositions()
    except Exception as error:
        raise ModelError(f"torch cannot decompose the model: {first_line(error)}") from error


def _inputs(program: ExportedProgram) -> tuple[Tensor, ...]:
    """The user inputs of a program.

    Raises:
        ModelError: One is no tensor, has a dynamic shape or an element type without a name.
    """
    values = {
        node.name: node.meta.get("val") for node in program.graph.nodes if node.op == "placeholder"
    }
    return tuple(
        _tensor(f"input {spec.arg.name!r}", spec.arg.name, values[spec.arg.name])
        for spec in program.graph_signature.input_specs
        if spec.kind is InputKind.USER_INPUT
    )


def _outputs(program: ExportedProgram) -> tuple[Tensor | None, ...]:
    """The flattened outputs of a program; ``None`` where the model returns ``None``.

    Raises:
        ModelError: One is no tensor, or the program changes its state or its inputs.
    """
    specs = program.graph_signature.output_specs
    changed = [str(spec.target) for spec in specs if spec.kind is not OutputKind.USER_OUTPUT]
    if changed:
        raise ModelError(
            f"the model changes {', '.join(changed)} while it runs, but a partitioned model has "
            "no state; return the new value as an output instead"
        )
    values = {node.name: node.meta.get("val") for node in program.graph.nodes}
    outputs: list[Tensor | None] = []
    for name, spec in zip(_output_names(program), specs, strict=True):
        if isinstance(spec.arg, TensorArgument):
            outputs.append(_tensor(f"output {name!r}", name, values[spec.arg.name]))
        elif getattr(spec.arg, "value", name) is None:
            outputs.append(None)
        else:
            raise ModelError(f"output {name!r} is {spec.arg}, but an output must be a tensor")
    return tuple(outputs)


def _tensor(what: str, name: str, value: object) -> Tensor:
    if not isinstance(value, torch.Tensor):
        raise ModelError(
            f"{what} is {value!r}, but it must be a tensor; build it into the model before export"
        )
    if any(isinstance(extent, torch.SymInt) for extent in value.shape):
        shape = ", ".join(map(str, value.shape))
        raise ModelError(
            f"{what} has the dynamic shape [{shape}]; export the model with fixed shapes, "
            "without dynamic_shapes and without outputs whose size depends on data"
        )
    dtype = dtype_name(value.dtype)
    if dtype not in ITEM_NBYTES or dtype == "bfloat16":
        raise ModelError(
            f"{what} has element type {dtype}, which NumPy lacks; cast it in the model"
        )
    return Tensor(name, TensorType(dtype, tuple(value.shape)))


def _output_names(program: ExportedProgram) -> list[str]:
    """Keys of dicts where there are any, else ``output`` or ``output_0``, ``output_1``, …."""
    spec = cast("pytree.TreeSpec", program.call_spec.out_spec)
    leaves = pytree.tree_unflatten(range(spec.num_leaves), spec)
    paths = [path for path, _ in pytree.tree_flatten_with_path(leaves)[0]]
    names: list[str] = []
    for path in paths:
        parts = [str(_key(entry)) for entry in path]
        if len(paths) == 1 and not any(isinstance(_key(entry), str) for entry in path):
            parts = ["output"]
        elif not isinstance(_key(path[0]), str):
            parts.insert(0, "output")
        names.append(re.sub(r"\W", "_", "_".join(parts)))
    return names


def _key(entry: object) -> str | int:
    """A step of a pytree's path: a key, an index, or a field's name."""
    for attribute in ("key", "idx", "name"):
        if hasattr(entry, attribute):
            return getattr(entry, attribute)
    return str(entry)


def _module_runner(module: nn.Module) -> Callable[..., object]:
    def run(*args: object, **kwargs: object) -> object:
        with _evaluation_mode(module):
            return module(*args, **kwargs)

    return run


def _program_runner(program: ExportedProgram) -> Callable[..., object]:
    try:
        with _quiet():
            return program.module()
    except Exception as error:
        raise ModelError(f"torch cannot run the exported program: {first_line(error)}") from error


@dataclass(frozen=True)
class _Reference:
    """Runs the source model on one thread, arrays in and out by name."""

    run: Callable[..., object]
    in_spec: pytree.TreeSpec
    inputs: tuple[Tensor, ...]
    outputs: tuple[Tensor | None, ...]

    def __call__(self, arrays: Arrays) -> dict[str, NDArray[np.generic]]:
        tensors = [torch.tensor(arrays[tensor.name]) for tensor in self.inputs]
        args, kwargs = pytree.tree_unflatten(tensors, self.in_spec)
        with _quiet(), _one_thread(), torch.inference_mode():
            values = pytree.tree_leaves(self.run(*args, **kwargs))
        return {
            tensor.name: value.cpu().numpy()
            for tensor, value in zip(self.outputs, values, strict=True)
            if tensor
        }


@contextmanager
def _one_thread() -> Generator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)
