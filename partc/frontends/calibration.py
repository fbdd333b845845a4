"""Read the inputs that a user gives to measure a model on."""

from __future__ import annotations

import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import cast
from zipfile import BadZipFile

import numpy as np
from numpy.typing import NDArray

from partc.errors import PartcError
from partc.graph import Tensor

Array = NDArray[np.generic]


def load_calibration(path: Path, inputs: Sequence[Tensor]) -> list[dict[str, Array]]:
    """Read calibration samples from an ``.npz`` file.

    Args:
        path: The file; for each input it holds an array of the input's name, dtype and shape, or
            with one more leading axis, whose length is the number of samples.
        inputs: The model's inputs.

    Returns:
        For each sample an array for each input, of the input's own shape.

    Raises:
        PartcError: The file cannot be read, or what it holds does not fit the inputs.
    """
    arrays = _read(path)
    names = [tensor.name for tensor in inputs]
    if arrays.keys() != set(names):
        raise PartcError(
            f"{path} holds arrays {_listing(arrays)}, expected one for each input of the model: "
            f"{_listing(names)}"
        )
    stacked = {tensor.name: _stack(path, tensor, arrays[tensor.name]) for tensor in inputs}
    count = _count_samples(path, stacked)
    return [{name: array[index] for name, array in stacked.items()} for index in range(count)]


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


def _stack(path: Path, tensor: Tensor, array: Array) -> Array:
    """The array with an axis for the samples in front."""
    shape = tensor.type.shape
    stacked = array[np.newaxis] if array.shape == shape else array
    if str(array.dtype) != tensor.type.dtype or stacked.shape[1:] != shape:
        extents = ", ".join(map(str, array.shape))
        raise PartcError(
            f"input {tensor.name!r} in {path} is {array.dtype}[{extents}], expected "
            f"{tensor.type} or that with one more leading axis, the samples"
        )
    return stacked


def _count_samples(path: Path, stacked: Mapping[str, Array]) -> int:
    counts = {name: len(array) for name, array in stacked.items()}
    if len(set(counts.values())) > 1:
        told = ", ".join(f"{count} of {name!r}" for name, count in counts.items())
        raise PartcError(f"{path} holds {told}; give as many samples of every input")
    count = next(iter(counts.values()), 0)
    if count == 0:
        raise PartcError(f"{path} holds no sample; give at least one")
    return count


def _listing(names: Mapping[str, Array] | Sequence[str]) -> str:
    return ", ".join(map(repr, sorted(names))) or "none"
