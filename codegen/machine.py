# pyright: reportMissingTypeStubs=false, reportUnknownMemberType=false
# TVM ships no types
"""What kernels have to know of the CPU that they are written for."""

from __future__ import annotations

from dataclasses import dataclass

import tvm_ffi

from partc.codegen.host import TvmTarget
from partc.targets.target import Target

FLOAT32_NBYTES = 4

# LLVM feature, bytes of a vector register, how many of them; the first that a CPU has holds.
_VECTOR_UNITS = (("avx512f", 64, 32), ("avx", 32, 16), ("sse2", 16, 16), ("neon", 16, 32))
_NO_VECTOR_UNIT = (16, 16)


@dataclass(frozen=True)
class Machine:
    """One core of a CPU.

    Args:
        lanes: float32 numbers in a vector register.
        registers: Vector registers that code can name.
        broadcasts: Whether a multiply-add can take one of its operands as a single number, from
            memory or a lane, without an instruction to spread it first.
        multiply_adds: Whether a multiply-add is one instruction.
        l1_nbytes: Its first-level data cache.
        l2_nbytes: Its second-level cache, or its share of one.
    """

    lanes: int
    registers: int
    broadcasts: bool
    multiply_adds: bool
    l1_nbytes: int
    l2_nbytes: int

    @property
    def vector_nbytes(self) -> int:
        return FLOAT32_NBYTES * self.lanes


def describe_machine(cpu: TvmTarget, target: Target) -> Machine:
    """Return what kernels for a target have to know.

    Args:
        cpu: TVM's description of the CPU, resolved.
        target: Whose CPU it is, for the sizes of its caches.
    """
    features = set(map(str, tvm_ffi.get_global_func("target.llvm_get_cpu_features")(cpu)))
    nbytes, registers = next(
        ((nbytes, registers) for name, nbytes, registers in _VECTOR_UNITS if name in features),
        _NO_VECTOR_UNIT,
    )
    return Machine(
        lanes=nbytes // FLOAT32_NBYTES,
        registers=registers,
        broadcasts=bool(features & {"avx512f", "neon"}),
        multiply_adds=bool(features & {"fma", "neon"}),
        l1_nbytes=target.l1_cache_kib * 1024,
        l2_nbytes=target.l2_cache_kib * 1024,
    )
