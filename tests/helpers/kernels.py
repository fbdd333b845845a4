"""Kernels outside of any model: compiled for a target, and run where that is possible."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import tvm
from numpy.typing import NDArray
from prerequisites import require
from tvm import te

from partc.codegen.build import resolve_target, runs_here
from partc.codegen.machine import Machine, describe_machine
from partc.codegen.schedule import KernelRules
from partc.targets.target import load_target

X86 = ("x86-64", "x86-64-v3", "x86-64-v4")
EVERYWHERE = (*X86, "raspberry-pi-4")


@functools.cache
def machine_of(target_name: str) -> Machine:
    target = load_target(target_name)
    return describe_machine(resolve_target(target), target)


@dataclass(frozen=True)
class Kernel:
    """A compiled kernel: NumPy arrays in, one array out."""

    library: Any
    target_name: str
    shape: tuple[int, ...]
    dtype: str

    def __call__(self, *arrays: NDArray[Any]) -> NDArray[Any]:
        require(runs_here(load_target(self.target_name)), f"a CPU that runs {self.target_name}")
        inputs = [tvm.runtime.tensor(array) for array in arrays]
        output = tvm.runtime.tensor(np.full(self.shape, 7, self.dtype))
        self.library["main"](*inputs, output)
        return output.numpy()

    def assembly(self) -> str:
        return str(self.library.inspect_source("asm"))


def compile_kernel(inputs: Sequence[te.Tensor], output: te.Tensor, target_name: str) -> Kernel:
    """Schedule a TE computation by the rules that its anchors name, and compile it."""
    schedule = apply_rules(te.create_prim_func([*inputs, output]), target_name)
    return build_kernel(schedule, output, target_name)


def apply_rules(function: Any, target_name: str) -> Any:
    """Schedule one function of a module."""
    return KernelRules(machine_of(target_name)).apply(function, None, tunable=False)


def build_kernel(schedule: Any, output: te.Tensor, target_name: str) -> Kernel:
    library = tvm.compile(schedule.mod, target=resolve_target(load_target(target_name)))
    shape = tuple(int(extent) for extent in output.shape)
    return Kernel(library.mod, target_name, shape, str(output.dtype))
