# pyright: reportMissingTypeStubs=false
# TVM ships no types
"""What the machine that partc runs on is, and which targets' code it can execute."""

from __future__ import annotations

import platform
from typing import Any, TypeAlias

import tvm
import tvm_ffi

# tvm.target.Target, whose declared types are wrong.
TvmTarget: TypeAlias = Any

_MACHINES = {"amd64": "x86_64", "arm64": "aarch64"}

# LLVM names the x86 features that a host lacks, but not the Arm ones. Those for cryptography are
# not among them: kernels have no use for them, and boards differ where their cores do not.
_ARM_EXTENSIONS = frozenset("bf16 crc dotprod fp16fml fullfp16 i8mm lse rdm sve sve2".split())


def host_architecture() -> str:
    """Return this machine's architecture as LLVM spells it: ``x86_64`` or ``aarch64``."""
    machine = platform.machine().lower()
    return _MACHINES.get(machine, machine)


def host_attributes() -> dict[str, Any]:
    """Return the TVM target attributes of this machine's CPU, with every feature spelled out.

    The CPU's name alone is not enough: virtual machines hide features of the CPU they run on.
    """
    features = _host_features()
    return {
        "kind": "llvm",
        "mtriple": f"{host_architecture()}-linux-gnu",
        "mcpu": _host_cpu(),
        "mattr": [("+" if features[name] else "-") + name for name in sorted(features)],
    }


def can_execute(target: TvmTarget) -> bool:
    """Whether this machine can execute code that was compiled for a TVM target.

    A feature that LLVM does not report for this machine counts as missing.
    """
    if target.kind.name == "cuda":
        return _has_gpu(str(target.attrs["arch"])) and can_execute(target.host)
    if not str(target.attrs["mtriple"]).startswith(f"{host_architecture()}-"):
        return False
    host = _host_features()
    wanted = set(map(str, tvm_ffi.get_global_func("target.llvm_get_cpu_features")(target)))
    return all(host.get(name, False) for name in wanted & (host.keys() | _ARM_EXTENSIONS))


def _has_gpu(arch: str) -> bool:
    gpu: Any = tvm.device("cuda", 0)
    return bool(gpu.exist) and arch == "sm_" + gpu.compute_version.replace(".", "")


def _host_cpu() -> str:
    return str(tvm_ffi.get_global_func("tvm.codegen.llvm.GetHostCPUName")())


def _host_features() -> dict[str, bool]:
    features = tvm_ffi.get_global_func("tvm.codegen.llvm.GetHostCPUFeatures")()
    return {str(name): bool(present) for name, present in features.items()}
