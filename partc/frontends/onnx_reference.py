# pyright: reportMissingTypeStubs=false, reportUnknownMemberType=false, reportUnknownVariableType=false
# pyright: reportUnknownArgumentType=false
# onnxruntime ships no types
"""ONNX Runtime as the reference that a compiled model must agree with."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import numpy as np
import onnxruntime
from numpy.typing import NDArray

from partc.errors import ModelError
from partc.frontends.onnx_messages import reason

_FATAL = 4


@dataclass(frozen=True)
class OnnxReference:
    """Runs the original model on one CPU thread.

    Args:
        title: What messages call the model.
        source: The model's file, or its bytes.
    """

    title: str
    source: Path | bytes = field(repr=False)

    def __call__(self, arrays: Mapping[str, NDArray[np.generic]]) -> dict[str, NDArray[np.generic]]:
        """Outputs by name, for inputs by name.

        Raises:
            ModelError: ONNX Runtime cannot run the model, or not on these arrays.
        """
        names = [output.name for output in self._session.get_outputs()]
        try:
            values = self._session.run(names, dict(arrays))
        except Exception as error:
            raise self._failure(error) from error
        return dict(zip(names, (np.asarray(value) for value in values), strict=True))

    @cached_property
    def _session(self) -> onnxruntime.InferenceSession:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        options.inter_op_num_threads = 1
        options.log_severity_level = _FATAL
        source = self.source if isinstance(self.source, bytes) else str(self.source)
        try:
            return onnxruntime.InferenceSession(source, options, providers=["CPUExecutionProvider"])
        except Exception as error:
            raise self._failure(error) from error

    def _failure(self, error: Exception) -> ModelError:
        # Errors of every kind come out of ONNX Runtime; they share no base class but Exception.
        return ModelError(f"ONNX Runtime cannot run {self.title}: {reason(error)}")
