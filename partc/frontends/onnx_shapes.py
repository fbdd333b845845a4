"""Fixed shapes for the inputs of an ONNX model."""

from __future__ import annotations

import shlex
from collections.abc import Iterable, Mapping

import onnx.helper
import onnx.shape_inference
from onnx import ModelProto, TensorShapeProto, ValueInfoProto

from partc.errors import ModelError
from partc.frontends.onnx_messages import reason
from partc.graph import ITEM_NBYTES, Tensor, TensorType

# The first version of the format that does not list weights as inputs.
_WEIGHTS_ARE_NO_INPUTS = 4
_LARGEST_EXTENT = 2**63 - 1


def fix_shapes(model: ModelProto, shapes: Mapping[str, tuple[int, ...]]) -> ModelProto:
    """A copy of a model whose inputs all have fixed shapes, without its other shapes.

    Weights that the model lists as inputs, as old files do, are no longer inputs.

    Args:
        model: The model.
        shapes: Shapes by input name, for any of the inputs.

    Raises:
        ModelError: An input is no tensor, a shape does not fit, or dynamic dimensions are left.
    """
    fixed = ModelProto()
    fixed.CopyFrom(model)
    graph = fixed.graph
    weights = {tensor.name for tensor in graph.initializer}
    inputs = [value for value in graph.input if value.name not in weights]
    _check_names(shapes, inputs)
    for value in inputs:
        _check_type(value)
        if value.name in shapes:
            _fix_shape(value, shapes[value.name])
    _check_fixed(inputs)
    fixed.ir_version = max(fixed.ir_version, _WEIGHTS_ARE_NO_INPUTS)
    del graph.input[:]
    graph.input.extend(inputs)
    _forget_shapes(fixed)
    return fixed


def declare_outputs(model: ModelProto, title: str) -> None:
    """Declare, in place, the outputs of a model with fixed shapes that have no type or no shape.

    ONNX Runtime takes such models, ONNX's checker and onnxslim do not.

    Raises:
        ModelError: What an output is cannot be inferred.
    """
    if not any(map(_is_undeclared, model.graph.output)):
        return
    try:
        inferred = onnx.shape_inference.infer_shapes(model, data_prop=True)
    except (onnx.shape_inference.InferenceError, ValueError) as error:
        raise ModelError(f"the outputs of {title} cannot be inferred: {reason(error)}") from error
    for output, found in zip(model.graph.output, inferred.graph.output, strict=True):
        if _is_undeclared(found):
            raise ModelError(
                f"{title} declares output {output.name!r} without a type or shape, and none "
                "can be inferred; declare it, or mend the nodes that make it"
            )
        output.CopyFrom(found)
    _forget_shapes(model)


def input_tensors(model: ModelProto) -> tuple[Tensor, ...]:
    """Names and types of the inputs of a model with fixed shapes."""
    return tuple(
        Tensor(value.name, TensorType(_dtype(value), _fixed_shape(value)))
        for value in model.graph.input
    )


def _fixed_shape(value: ValueInfoProto) -> tuple[int, ...]:
    return tuple(dim.dim_value for dim in value.type.tensor_type.shape.dim)


def _check_names(shapes: Mapping[str, tuple[int, ...]], inputs: Iterable[ValueInfoProto]) -> None:
    declared = {value.name: _declared(value) for value in inputs}
    for name in shapes:
        if name not in declared:
            known = ", ".join(f"{name} {shape}" for name, shape in declared.items()) or "none"
            raise ModelError(
                f"a shape was given for {name!r}, which is no input; the inputs are {known}"
            )


def _check_type(value: ValueInfoProto) -> None:
    kind = value.type.WhichOneof("value")
    if kind != "tensor_type":
        found = (kind or "nothing").removesuffix("_type").replace("_", " ")
        raise ModelError(f"input {value.name!r} must be a tensor, but its type is {found}")
    if _dtype(value) not in ITEM_NBYTES:
        raise ModelError(
            f"input {value.name!r} holds {_dtype(value)}; "
            f"element types that can be compiled are {', '.join(ITEM_NBYTES)}"
        )


def _fix_shape(value: ValueInfoProto, shape: tuple[int, ...]) -> None:
    declared = _extents(value)
    fits = declared is None or (
        len(declared) == len(shape)
        and all(old in (None, new) for old, new in zip(declared, shape, strict=True))
    )
    if not fits or any(not 1 <= extent <= _LARGEST_EXTENT for extent in shape):
        raise ModelError(
            f"input {value.name!r} is declared as {_declared(value)}, "
            f"which the given shape [{', '.join(map(str, shape))}] does not fit"
        )
    dimensions = [TensorShapeProto.Dimension(dim_value=extent) for extent in shape]
    value.type.tensor_type.shape.CopyFrom(TensorShapeProto(dim=dimensions))


def _check_fixed(inputs: Iterable[ValueInfoProto]) -> None:
    dynamic = [value for value in inputs if _is_dynamic(value)]
    if dynamic:
        declared = ", ".join(f"{value.name} {_declared(value)}" for value in dynamic)
        shapes = {value.name: _example(value) for value in dynamic}
        given = (f"{name}={','.join(map(str, shape))}" for name, shape in shapes.items())
        options = " ".join(f"--shape {shlex.quote(each)}" for each in given)
        raise ModelError(
            f"the model has inputs without a fixed shape: {declared}; "
            f"give their shapes, for example {options}, or shapes={shapes} in Python"
        )


def _forget_shapes(model: ModelProto) -> None:
    """Drop the shapes of all other values, which may still be symbolic."""
    del model.graph.value_info[:]
    for output in model.graph.output:
        for dim in output.type.tensor_type.shape.dim:
            dim.Clear()


def _extents(value: ValueInfoProto) -> list[int | None] | None:
    """The declared extents, None for a dynamic one; None for an unknown rank."""
    tensor = value.type.tensor_type
    if not tensor.HasField("shape"):
        return None
    # Exporters write -1, and long ago 0, where they mean a dynamic dimension.
    return [dim.dim_value if dim.dim_value > 0 else None for dim in tensor.shape.dim]


def _is_undeclared(output: ValueInfoProto) -> bool:
    kind = output.type.WhichOneof("value")
    return kind is None or (kind == "tensor_type" and _extents(output) is None)


def _is_dynamic(value: ValueInfoProto) -> bool:
    extents = _extents(value)
    return extents is None or None in extents


def _declared(value: ValueInfoProto) -> str:
    if _extents(value) is None:
        return "of unknown rank"
    dimensions = value.type.tensor_type.shape.dim
    return f"[{', '.join(_dimension(dim) for dim in dimensions)}]"


def _dimension(dim: TensorShapeProto.Dimension) -> str:
    return str(dim.dim_value) if dim.dim_value > 0 else dim.dim_param or "?"


def _example(value: ValueInfoProto) -> tuple[int, ...]:
    """What to give for an input: images have 224 pixels a side, everything else is 1."""
    extents = _extents(value) or [None, 3, None, None]
    usual = [1, 3, 224, 224] if len(extents) == 4 else [1] * len(extents)
    return tuple(old or new for old, new in zip(extents, usual, strict=True))


def _dtype(value: ValueInfoProto) -> str:
    code = value.type.tensor_type.elem_type
    known = onnx.helper.get_all_tensor_dtypes()
    return str(onnx.helper.tensor_dtype_to_np_dtype(code)) if code in known else "no known type"
