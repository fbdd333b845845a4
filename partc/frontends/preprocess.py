"""Images as decoders give them, as an input of a model that takes normalised numbers."""
# TVM declares expressions and types only in part.
# pyright: reportMissingTypeStubs=false, reportUnknownMemberType=false
# pyright: reportUnknownVariableType=false, reportUnknownArgumentType=false
# pyright: reportArgumentType=false

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import tvm
from numpy.typing import NDArray
from tvm import relax

from partc.errors import ModelError
from partc.frontends.normalisation import Normalisation
from partc.frontends.source import Arrays, SourceModel
from partc.graph import Tensor, TensorType

_WHITE = 255
_CHANNELS = (1, 3)
_DTYPES = ("float32", "float16")


def add_preprocessing(source: SourceModel, wanted: Mapping[str, Normalisation]) -> SourceModel:
    """Let a model take images as decoders give them, and normalise these in layers of its own.

    Args:
        source: A model with inputs float32 or float16 of shape [N, C, H, W] or [N, H, W, C], C
            being 1 or 3; what may be read either way has its channels first.
        wanted: How to normalise which inputs, by name.

    Returns:
        The model with these inputs as uint8[N, H, W, C], RGB or grey. Of examples that were given
        for them, there are the pixels that are closest to making them.

    Raises:
        ModelError: There is no such input, or it is no image of as many channels as there are
            numbers.
    """
    for name, normalisation in wanted.items():
        source = _add(source, _Image.of(_input(source, name), normalisation))
    return source


def _input(source: SourceModel, name: str) -> Tensor:
    for tensor in source.inputs:
        if tensor.name == name:
            return tensor
    known = ", ".join(tensor.name for tensor in source.inputs) or "none"
    raise ModelError(f"--preprocess is about {name!r}, which is no input; the inputs are {known}")


def _add(source: SourceModel, image: _Image) -> SourceModel:
    name, examples = image.tensor.name, source.examples

    def reference(arrays: Arrays) -> dict[str, NDArray[np.generic]]:
        return source.reference({**arrays, name: image.normalise(arrays[name])})

    if examples is not None:
        examples = {**examples, name: image.denormalise(examples[name])}
    return replace(
        source,
        module=_put_before(source, image),
        inputs=tuple(image.pixels if each is image.tensor else each for each in source.inputs),
        reference=reference,
        examples=examples,
    )


@dataclass(frozen=True)
class _Image:
    """An input of a model that is an image, and what it takes to make it from pixels.

    Args:
        tensor: The input, as the model has it.
        channel_axis: 1 or 3.
        mean: Of pixels from 0 to 1, broadcast against the tensor.
        std: The same.
    """

    tensor: Tensor
    channel_axis: int
    mean: NDArray[np.float64]
    std: NDArray[np.float64]

    @staticmethod
    def of(tensor: Tensor, normalisation: Normalisation) -> _Image:
        axis = _channel_axis(tensor)
        mean, std = (
            _per_channel(tensor, axis, what, numbers)
            for what, numbers in (
                ("mean", normalisation.mean),
                ("standard deviation", normalisation.std),
            )
        )
        return _Image(tensor, axis, mean, std)

    @property
    def pixels(self) -> Tensor:
        """What decoders give."""
        shape = tuple(self.tensor.type.shape[axis] for axis in self._channels_last)
        return Tensor(self.tensor.name, TensorType("uint8", shape))

    def normalise(self, pixels: NDArray[np.generic]) -> NDArray[np.generic]:
        """The model's input for pixels."""
        numbers = pixels.astype(np.float64).transpose(self._channels_back) / _WHITE
        return ((numbers - self.mean) / self.std).astype(self.tensor.type.dtype)

    def denormalise(self, array: NDArray[np.generic]) -> NDArray[np.generic]:
        """The pixels whose normalisation is closest to an input of the model."""
        numbers = np.nan_to_num(array.astype(np.float64) * self.std + self.mean).clip(0, 1)
        return np.rint(_WHITE * numbers).astype(np.uint8).transpose(self._channels_last)

    def bindings(self, pixels: relax.Var) -> list[relax.VarBinding]:
        """The same in Relax; the last binding makes the model's input."""
        op, name = relax.op, self.tensor.name
        steps: list[Callable[[relax.Expr], relax.Call]] = [lambda x: op.astype(x, "float32")]
        if self.channel_axis == 1:
            steps.append(lambda x: op.permute_dims(x, self._channels_back))
        steps.append(lambda x: op.multiply(x, _constant(1 / (_WHITE * self.std))))
        if self.mean.any():
            steps.append(lambda x: op.add(x, _constant(-self.mean / self.std)))
        if self.tensor.type.dtype != "float32":
            steps.append(lambda x: op.astype(x, self.tensor.type.dtype))
        # A layer is named after its first variable, and a tensor after its own.
        names = [f"{name}.preprocess"] * (len(steps) - 1) + [f"{name}.normalised"]
        return _chain(pixels, names, steps)

    @property
    def _channels_back(self) -> tuple[int, ...]:
        """The axes of pixels, in the order in which the model has them."""
        return (0, 3, 1, 2) if self.channel_axis == 1 else (0, 1, 2, 3)

    @property
    def _channels_last(self) -> tuple[int, ...]:
        """The model's axes, in the order in which pixels have them."""
        return (0, 2, 3, 1) if self.channel_axis == 1 else (0, 1, 2, 3)


def _per_channel(
    tensor: Tensor, axis: int, what: str, numbers: tuple[float, ...]
) -> NDArray[np.float64]:
    fitting = sorted({1, tensor.type.shape[axis]})
    if len(numbers) not in fitting:
        raise ModelError(
            f"--preprocess {tensor.name} has {len(numbers)} {what}s, expected "
            f"{' or '.join(map(str, fitting))}"
        )
    return np.asarray(numbers).reshape([-1 if each == axis else 1 for each in range(4)])


def _chain(
    first: relax.Var, names: Sequence[str], steps: Sequence[Callable[[relax.Expr], relax.Call]]
) -> list[relax.VarBinding]:
    """Calls, each on what the one before it makes."""
    builder, bindings, last = relax.BlockBuilder(), list[relax.VarBinding](), first
    for name, step in zip(names, steps, strict=True):
        value = builder.normalize(step(last))
        last = relax.Var(name, value.ty)
        bindings.append(relax.VarBinding(last, value))
    return bindings


def _constant(numbers: NDArray[np.float64]) -> relax.Expr:
    return relax.const(numbers.astype(np.float32))


def _put_before(source: SourceModel, image: _Image) -> tvm.IRModule:
    """The module with pixels for a parameter, which is computed from these."""
    main, position = source.module["main"], source.inputs.index(image.tensor)
    pixels = relax.Var(
        main.params[position].name, relax.TensorType(image.pixels.type.shape, "uint8")
    )
    bindings = image.bindings(pixels)
    bound = main.bind_params({main.params[position]: bindings[-1].var})
    params = list(bound.params)
    params.insert(position, pixels)
    body = relax.SeqExpr([relax.BindingBlock(bindings), *bound.body.blocks], bound.body.body)
    return tvm.IRModule({"main": relax.Function(params, body, main.ret_ty)})


def _channel_axis(tensor: Tensor) -> int:
    shape = tensor.type.shape
    axes = [axis for axis in (1, 3) if len(shape) == 4 and shape[axis] in _CHANNELS]
    if not axes or tensor.type.dtype not in _DTYPES:
        raise ModelError(
            f"an image is an input float32 or float16 of shape [N, C, H, W] or [N, H, W, C] with 1 "
            f"or 3 channels C, but {tensor.name!r} is {tensor.type}; normalise it before it is "
            "given"
        )
    return axes[0]
