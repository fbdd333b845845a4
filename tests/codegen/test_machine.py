from __future__ import annotations

import msgspec
import pytest
import tvm
from kernels import machine_of

from partc.codegen.build import find_machine
from partc.codegen.machine import Machine, describe_machine
from partc.targets.target import builtin_targets, load_target

# float32 numbers in a vector, registers, operands that broadcast, multiply-adds.
SSE2 = (4, 16, False, False)
AVX = (8, 16, False, False)
AVX2 = (8, 16, False, True)
AVX512 = (16, 32, True, True)
NEON = (4, 32, True, True)

KIB = 1024


def vector_unit(machine: Machine) -> tuple[int, int, bool, bool]:
    return machine.lanes, machine.registers, machine.broadcasts, machine.multiply_adds


@pytest.mark.parametrize(
    ("name", "unit", "l1_kib", "l2_kib"),
    [
        ("x86-64", SSE2, 48, 1024),
        ("x86-64-v3", AVX2, 48, 1024),
        ("x86-64-v4", AVX512, 48, 1024),
        ("raspberry-pi-4", NEON, 32, 256),
        ("raspberry-pi-5", NEON, 64, 512),
        ("jetson-agx-orin-cpu", NEON, 64, 256),
    ],
)
def test_what_kernels_know_of_each_board(
    name: str, unit: tuple[int, int, bool, bool], l1_kib: int, l2_kib: int
) -> None:
    machine = machine_of(name)
    assert vector_unit(machine) == unit
    assert (machine.l1_nbytes, machine.l2_nbytes) == (l1_kib * KIB, l2_kib * KIB)


def test_every_cpu_has_vectors_and_every_gpu_schedules_of_its_own() -> None:
    for target in builtin_targets():
        if target.uncompilable is None:
            machine = find_machine(target)
            assert (machine is None) == (target.tvm.get("kind") != "llvm")
            assert machine is None or vector_unit(machine) in (SSE2, AVX, AVX2, AVX512, NEON)


@pytest.mark.parametrize(
    ("attributes", "unit"),
    [
        ({"mtriple": "x86_64-linux-gnu", "mcpu": "x86-64-v2"}, SSE2),
        ({"mtriple": "x86_64-linux-gnu", "mcpu": "ivybridge"}, AVX),
        ({"mtriple": "x86_64-linux-gnu", "mcpu": "x86-64", "mattr": ["+avx", "+fma"]}, AVX2),
        ({"mtriple": "x86_64-linux-gnu", "mcpu": "x86-64-v4", "mattr": ["-avx512f"]}, AVX2),
        ({"mtriple": "aarch64-linux-gnu", "mattr": ["-neon"]}, (4, 16, False, False)),
    ],
)
def test_features_decide_and_not_names(
    attributes: dict[str, object], unit: tuple[int, int, bool, bool]
) -> None:
    cpu = tvm.target.Target({"kind": "llvm", **attributes})
    assert vector_unit(describe_machine(cpu, load_target("x86-64"))) == unit


def test_caches_are_those_of_the_description() -> None:
    target = load_target("x86-64-v3")
    small = msgspec.structs.replace(target, l1_cache_kib=16, l2_cache_kib=128)
    machine = find_machine(small)
    assert machine is not None
    assert (machine.l1_nbytes, machine.l2_nbytes) == (16 * KIB, 128 * KIB)
