"""Emits the calls of one function, in whichever layout each tensor has."""
# TVM declares expressions and types only in part.
# pyright: reportMissingTypeStubs=false, reportUnknownMemberType=false
# pyright: reportUnknownVariableType=false, reportUnknownArgumentType=false
# pyright: reportUnknownParameterType=false, reportUnknownLambdaType=false
# pyright: reportAttributeAccessIssue=false, reportOptionalSubscript=false
# pyright: reportOptionalMemberAccess=false, reportArgumentType=false, reportReturnType=false

from __future__ import annotations

import hashlib
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tvm import relax

from partc.codegen.kernels.blocks import pack_channels, to_blocked, to_plain
from partc.codegen.machine import Machine
from partc.passes.expressions import as_array, shape_of

INLINE_NBYTES = 16
"""Constants up to this size stay in the code, where kernels can fold them."""


class WeightTable:
    """Names weights by content: equal arrays are stored once."""

    def __init__(self) -> None:
        self.arrays: dict[str, NDArray[np.generic]] = {}
        self._names: dict[tuple[str, tuple[int, ...], bytes], str] = {}

    def name(self, array: NDArray[np.generic]) -> str:
        digest = hashlib.sha256(array.tobytes()).digest()
        key = (array.dtype.str, array.shape, digest)
        if key not in self._names:
            self._names[key] = f"weight_{len(self._names)}"
            self.arrays[self._names[key]] = array
        return self._names[key]


class Emitter:
    """What the lowering of an operator needs of the function that it emits into.

    Args:
        builder: Whose current function and dataflow block calls are added to.
        machine: The CPU that kernels are for.
        weights: Where the weights go.
    """

    def __init__(
        self, builder: relax.BlockBuilder, machine: Machine | None, weights: WeightTable
    ) -> None:
        self.params: dict[str, relax.Var] = {}
        self._builder = builder
        self._machine = machine
        self._weights = weights
        self._plain: dict[relax.Var, relax.Expr] = {}
        self._blocked: dict[relax.Var, relax.Expr] = {}

    @property
    def machine(self) -> Machine:
        """The CPU; only lowerings for one ask for it."""
        assert self._machine is not None
        return self._machine

    def define(self, source: relax.Var, value: relax.Expr, *, blocked: bool) -> None:
        """Say what a variable of the source is here."""
        (self._blocked if blocked else self._plain)[source] = value

    def plain(self, source: relax.Expr) -> relax.Expr:
        """A leaf of the source in plain layout."""
        if isinstance(source, relax.Var):
            if source not in self._plain:
                channels, machine = shape_of(source)[1], self.machine
                self._plain[source] = self.kernel(
                    "to_plain", lambda x: to_plain(x, channels, machine), self._blocked[source]
                )
            return self._plain[source]
        array = as_array(source)
        if array is None or array.nbytes <= INLINE_NBYTES:
            return source
        return self.weight(array)

    def blocked(self, source: relax.Expr) -> relax.Expr:
        """A leaf of the source, of shape (N, C, H, W), in blocked layout."""
        if isinstance(source, relax.Var):
            if source not in self._blocked:
                machine = self.machine
                self._blocked[source] = self.kernel(
                    "to_blocked", lambda x: to_blocked(x, machine), self._plain[source]
                )
            return self._blocked[source]
        return self.weight(pack_channels(as_array(source), self.machine.lanes))

    def weight(self, array: NDArray[Any]) -> relax.Expr:
        """A constant as a parameter of the function."""
        name = self._weights.name(array)
        type_ = relax.TensorType(array.shape, str(array.dtype))
        return self.params.setdefault(name, relax.Var(name, type_))

    def call(self, call: relax.Expr) -> relax.Expr:
        """Emit a call of a Relax operator."""
        return self._builder.emit(call)

    def kernel(self, name: str, compute: Callable[..., Any], *tensors: Any) -> relax.Expr:
        """Emit a call of a kernel that TE computes from tensors."""
        return self._builder.emit_te(compute, *tensors, primfunc_name_hint=name)
