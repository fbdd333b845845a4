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

from partc.codegen.kernels.blocks import gather_channels, scatter_channels
from partc.codegen.kernels.layout import to_blocked, to_plain
from partc.codegen.layout import Layout, plane_of
from partc.codegen.machine import Machine
from partc.codegen.patterns import FUSABLE, PATTERN
from partc.errors import CompilerError
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
        machine: The CPU that kernels are for; None where none of ours are used.
        weights: Where the weights go.
    """

    def __init__(
        self, builder: relax.BlockBuilder, machine: Machine | None, weights: WeightTable
    ) -> None:
        self.params: dict[str, relax.Var] = {}
        self._builder = builder
        self._machine = machine
        self._weights = weights
        self._values: dict[tuple[relax.Var, Layout | None], relax.Expr] = {}
        self._layouts: dict[relax.Var, Layout | None] = {}

    @property
    def machine(self) -> Machine:
        """The CPU that kernels are for."""
        if self._machine is None:
            raise CompilerError("lower: a kernel was chosen, but no CPU to run it on")
        return self._machine

    def define(self, source: relax.Var, value: relax.Expr, layout: Layout | None) -> None:
        """Say what a variable of the source is here, and in which layout."""
        self._values[source, layout] = value
        self._layouts[source] = layout

    def own(self, source: relax.Var) -> relax.Expr:
        """A variable of the source in the layout that it has."""
        return self._values[source, self._layouts[source]]

    def plain(self, source: relax.Expr) -> relax.Expr:
        """A leaf of the source in plain layout."""
        if not isinstance(source, relax.Var):
            array = as_array(source)
            inline = array is None or array.nbytes <= INLINE_NBYTES
            return source if inline else self.weight(array)
        if (source, None) not in self._values:
            plain = self._to_plain(self.own(source), self._layouts[source])
            self._values[source, None] = self._reshape(plain, shape_of(source))
        return self._values[source, None]

    def blocked(self, source: relax.Expr, layout: Layout) -> relax.Expr:
        """A leaf of the source, of shape (N, C, H, W) or (N, C, W), in a blocked layout."""
        if not isinstance(source, relax.Var):
            return self.weight(layout.pack(as_array(source)))
        if (source, layout) not in self._values:
            batch, channels, *_ = shape = shape_of(source)
            plain = self._reshape(self.plain(source), (batch, channels, *plane_of(shape)))
            self._values[source, layout] = self._to_blocked(plain, layout)
        return self._values[source, layout]

    def weight(self, array: NDArray[Any]) -> relax.Expr:
        """A constant as a parameter of the function."""
        name = self._weights.name(array)
        type_ = relax.TensorType(array.shape, str(array.dtype))
        return self.params.setdefault(name, relax.Var(name, type_))

    def call(self, call: relax.Expr) -> relax.Expr:
        """Emit a call of a Relax operator."""
        return self._builder.emit(call)

    def kernel(self, name: str, compute: Callable[..., Any], *tensors: Any) -> relax.Expr:
        """Emit a call of a kernel that TE computes from tensors, an anchor of a layer."""
        return self._builder.emit_te(
            compute, *tensors, primfunc_name_hint=name, primfunc_attrs={PATTERN: FUSABLE}
        )

    def copy(self, name: str, compute: Callable[..., Any], *tensors: Any) -> relax.Expr:
        """Emit a call of a kernel that only moves elements."""
        return self._builder.emit_te(compute, *tensors, primfunc_name_hint=name)

    def _reshape(self, value: relax.Expr, shape: tuple[int, ...]) -> relax.Expr:
        return value if shape_of(value) == shape else self.call(relax.op.reshape(value, shape))

    def _to_plain(self, value: relax.Expr, layout: Layout) -> relax.Expr:
        machine = self.machine
        if layout.in_order:
            return self.copy("to_plain", lambda x: to_plain(x, layout.channels, machine), value)
        slots = self.weight(np.array(layout.slots, np.int32))
        return self.copy("to_plain", gather_channels, value, slots)

    def _to_blocked(self, value: relax.Expr, layout: Layout) -> relax.Expr:
        machine = self.machine
        if layout == Layout.of(layout.channels, layout.lanes):
            return self.copy("to_blocked", lambda x: to_blocked(x, machine), value)
        channels = self.weight(layout.inverse())
        return self.copy(
            "to_blocked", lambda x, c: scatter_channels(x, c, layout.lanes), value, channels
        )
