"""Read the inputs that a user gives to measure a model on."""

from __future__ import annotations

import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias, cast
from zipfile import BadZipFile

import numpy as np
from numpy.typing import ArrayLike, NDArray

from partc.errors import PartcError
from partc.graph import Tensor

Array = NDArray[np.generic]


@dataclass(frozen=True)
class CalibrationArrays:
    """What a user gives to measure a model on, as it was read.

    Args:
        origin: Where it comes from, to name it in an error.
        arrays: By the names of the model's inputs.
    """

    origin: str
    arrays: Mapping[str, Array]

    def samples(self, inputs: Sequence[Tensor]) -> list[dict[str, Array]]:
        """Take the samples apart.

        Args:
            inputs: The model's inputs. For each there is an array of its name, dtype and shape, or
                with one more leading axis, whose length is the number of samples; where an input's
                first extent is 1, the samples may be along that axis.

        Returns:
            For each sample an array for each input, of the input's own shape.

        Raises:
            PartcError: The arrays do not fit the inputs, or hold NaN or infinities.
        """
        names = [tensor.name for tensor in inputs]
        if set(self.arrays) != set(names):
            raise PartcError(
                f"{self.origin} holds arrays {_listing(self.arrays)}, expected one for each input "
                f"of the model: {_listing(names)}"
            )
        stacked = {tensor.name: self._stack(tensor) for tensor in inputs}
        count = self._count(stacked)
        for name, array in stacked.items():
            self._check_finite(name, array)
        return [{name: array[index] for name, array in stacked.items()} for index in range(count)]

    def _stack(self, tensor: Tensor) -> Array:
        """The array of an input, with an axis for the samples in front."""
        array = self.arrays[tensor.name]
        stacked = _samples_first(array, tensor.type.shape)
        if stacked is None or str(array.dtype) != tensor.type.dtype:
            raise PartcError(
                f"input {tensor.name!r} in {self.origin} is {array.dtype}{_extents(array.shape)}, "
                f"expected {_expected(tensor)} for N samples; "
                f"{_advice(array, tensor, has_shape=stacked is not None)}"
            )
        return stacked

    def _count(self, stacked: Mapping[str, Array]) -> int:
        counts = {name: len(array) for name, array in stacked.items()}
        if len(set(counts.values())) > 1:
            told = ", ".join(f"{count} of {name!r}" for name, count in counts.items())
            raise PartcError(f"{self.origin} holds {told}; give as many samples of every input")
        count = next(iter(counts.values()), 0)
        if count == 0:
            raise PartcError(f"{self.origin} holds no sample; give at least one")
        return count

    def _check_finite(self, name: str, stacked: Array) -> None:
        """Beside an infinity or a NaN, what an encoding does to an output cannot be seen."""
        for number, sample in enumerate(stacked, 1):
            if not np.isfinite(sample).all():
                raise PartcError(
                    f"input {name!r} in {self.origin} has NaN or infinite values in sample "
                    f"{number}; leave such samples out"
                )


Calibration: TypeAlias = str | Path | Mapping[str, ArrayLike] | CalibrationArrays
"""An ``.npz`` file, its arrays by name, or what was read already."""


def read_calibration(given: Calibration) -> CalibrationArrays:
    """Read calibration samples, which takes no model.

    Args:
        given: An ``.npz`` file, or arrays by name; what was read already stays as it is.

    Raises:
        PartcError: The file cannot be read, or there are no arrays.
    """
    if isinstance(given, CalibrationArrays):
        return given
    if isinstance(given, (str, Path)):
        return CalibrationArrays(str(given), _read(Path(given)))
    if isinstance(cast("object", given), Mapping):
        arrays = {name: _as_array(name, value) for name, value in given.items()}
        return CalibrationArrays("calibration", arrays)
    raise PartcError(
        f"calibration is an .npz file, or arrays by input name, not a {type(given).__name__}"
    )


def _read(path: Path) -> dict[str, Array]:
    try:
        with np.load(path, allow_pickle=False) as archive:
            # What is in an archive without being an array comes as bytes.
            return {name: _expect_array(archive[name]) for name in archive.files}
    except OSError as error:
        raise PartcError(
            f"the calibration file {path} cannot be read: {error.strerror or error}"
        ) from error
    except (TypeError, ValueError, EOFError, BadZipFile, zlib.error) as error:
        raise PartcError(
            f"{path} is no .npz archive of arrays without pickles; write it with numpy.savez"
        ) from error


def _expect_array(value: object) -> Array:
    if not isinstance(value, np.ndarray):
        raise TypeError(f"expected an array, got a {type(value).__name__}")
    return cast("Array", value)


def _as_array(name: str, value: ArrayLike) -> Array:
    try:
        return np.asarray(value)
    # Lists of different lengths; tensors of torch that are on a GPU or want a gradient.
    except (TypeError, ValueError, RuntimeError) as error:
        raise PartcError(
            f"calibration is arrays by input name, but {name!r} is a {type(value).__name__} that "
            f"NumPy cannot read: {error}"
        ) from error


def _samples_first(array: Array, shape: tuple[int, ...]) -> Array | None:
    """The array with an axis for samples of a shape, if it holds such."""
    if array.shape == shape:
        return array[np.newaxis]
    if array.shape[1:] == shape:
        return array
    if _is_batch_of_one(shape) and array.ndim == len(shape) and array.shape[1:] == shape[1:]:
        return array[:, np.newaxis]
    return None


def _is_batch_of_one(shape: tuple[int, ...]) -> bool:
    return shape[:1] == (1,)


def _expected(tensor: Tensor) -> str:
    shape = tensor.type.shape
    each = shape[1:] if _is_batch_of_one(shape) else shape
    return tensor.type.dtype + _extents(("N", *each))


def _advice(array: Array, tensor: Tensor, *, has_shape: bool) -> str:
    dtype, steps = tensor.type.dtype, list[str]()
    if str(array.dtype) != dtype:
        is_alike = np.can_cast(array.dtype, np.dtype(dtype), "same_kind")
        # As integers, what is normalised is mostly zeros.
        steps.append(f"convert it with .astype(np.{dtype})" if is_alike else f"give it as {dtype}")
    if not has_shape:
        steps.append("give it that shape")
    return " and ".join(steps)


def _extents(extents: Sequence[int | str]) -> str:
    return f"[{', '.join(map(str, extents))}]"


def _listing(names: Mapping[str, Array] | Sequence[str]) -> str:
    return ", ".join(map(repr, sorted(names))) or "none"
