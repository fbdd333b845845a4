"""What every frontend returns."""
# TVM ships no types.
# pyright: reportMissingTypeStubs=false

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import numpy as np
import tvm
from numpy.typing import NDArray

from partc.graph import Tensor

Arrays = Mapping[str, NDArray[np.generic]]


@dataclass(frozen=True)
class SourceModel:
    """A model as imported, and the means to run the original.

    Args:
        name: An identifier made from the file's or the class's name.
        module: One Relax function ``main`` with fixed shapes. Its parameters are ``inputs``, in
            order; weights are constants; it returns a tuple of ``outputs``, in order. Where the
            source names its tensors, the variables' name hints are those names.
        inputs: Names and types of the model's inputs, named as in the source.
        outputs: Names and types of the model's outputs, named as in the source.
        reference: Runs the source model itself on arrays by input name and returns arrays by
            output name.
        examples: Inputs that the user gave with the model, if any.
        preprocess: How inputs that are images are normalised, in the user's words.
        calibration: Inputs like those that the model will get, if the user gave any.
    """

    name: str
    module: tvm.IRModule
    inputs: tuple[Tensor, ...]
    outputs: tuple[Tensor, ...]
    reference: Callable[[Arrays], dict[str, NDArray[np.generic]]]
    examples: Arrays | None = None
    preprocess: Mapping[str, str] = field(default_factory=dict[str, str])
    calibration: tuple[Arrays, ...] = ()
