# pyright: reportMissingTypeStubs=false, reportUnknownMemberType=false
# TVM ships no types
"""Compile a module of segments for a target, to one shared library."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import tvm
import tvm_ffi
from tvm import relax
from tvm.relax.backend.cpu_generic import pipeline as cpu_passes
from tvm.relax.backend.cuda import pipeline as cuda_passes
from tvm.s_tir.dlight import ApplyDefaultSchedule

from partc.codegen.cuda import compile_kernels, replace_source
from partc.codegen.host import TvmTarget, can_execute, host_attributes
from partc.codegen.kernels.mathematics import legalize_map
from partc.codegen.link import ARCHITECTURES, link_library
from partc.codegen.machine import Machine, describe_machine
from partc.codegen.patterns import correct_patterns
from partc.codegen.schedule import KernelRules
from partc.codegen.sequences import inline_sequences
from partc.codegen.storage import share_storage
from partc.errors import CompilerError, TargetError
from partc.targets.target import Target, load_target

_NATIVE = "native"

# Kernels say what a vector is. All that LLVM would find beside them are offsets, to compute in
# vectors and take apart again: convolutions that look up channels took 20 to 30 % longer with it.
_NO_SLP = "-vectorize-slp:bool=false"

# The symbol under which a library carries its serialised modules (tvm/ffi/extra/module.h).
_EMBEDDING = """const unsigned char __tvm_ffi__library_bin[] = {
#embed "imports.bin"
};
"""


def build_library(module: tvm.IRModule, target: Target, path: Path) -> None:
    """Compile every function of a module for a target and link them to one shared library.

    The same module and target give the same bytes, wherever and whenever they are built.

    Args:
        module: Relax functions that take their inputs, then their parameters, and return a tuple.
        target: What to compile for; it need not be the machine that this runs on.
        path: The library to write.

    Raises:
        TargetError: The target's description is wrong, or nothing installed compiles for it.
        CompilerError: TVM or the linker failed.
    """
    tvm_target = resolve_target(target)
    with tempfile.TemporaryDirectory(prefix="partc-build-") as directory:
        workspace = Path(directory)
        try:
            executable, objects = _compile(module, tvm_target, find_machine(target), workspace)
        except Exception as error:
            raise CompilerError(f"failed to compile for {target.name}: {error}") from error
        embedding = _embed(_imports(executable, tvm_target), workspace)
        link_library([embedding, *objects], _architecture(tvm_target), workspace / "model.so")
        path.write_bytes((workspace / "model.so").read_bytes())


def find_machine(target: Target) -> Machine | None:
    """The CPU that kernels are scheduled for; None if they run on a GPU."""
    tvm_target = resolve_target(target)
    return None if tvm_target.kind.name == "cuda" else describe_machine(tvm_target, target)


def runs_here(target: Target) -> bool:
    """Whether this machine can execute a library that is built for a target."""
    if target.uncompilable is not None:
        return False
    return target.tvm.get("mcpu") == _NATIVE or can_execute(resolve_target(target))


def host_target() -> Target:
    """Return the target that stands in for one whose code cannot run here."""
    return load_target("native")


def resolve_target(target: Target) -> TvmTarget:
    """Turn a target's attributes into TVM's description of it.

    Raises:
        TargetError: partc cannot compile for the target, or TVM does not know what it describes.
    """
    if target.uncompilable is not None:
        raise TargetError(f"cannot compile for {target.name}: {target.uncompilable}")
    attributes: dict[str, Any] = dict(target.tvm)
    if attributes.get("mcpu") == _NATIVE:
        attributes |= host_attributes()
    if attributes.get("kind") == "llvm":
        attributes["cl-opt"] = [_NO_SLP, *attributes.get("cl-opt", [])]
    try:
        resolved = tvm.target.Target(attributes)
    except (ValueError, TypeError, RuntimeError) as error:
        raise TargetError(
            f"TVM does not know what target {target.name} describes as {attributes}: {error}"
        ) from error
    if _architecture(resolved) not in ARCHITECTURES:
        raise TargetError(
            f"target {target.name} must have an mtriple that starts with one of "
            f"{', '.join(ARCHITECTURES)}; it has {_triple(resolved)!r}"
        )
    _check_cpu(_cpu(resolved), target.name)
    return resolved


def _check_cpu(cpu: TvmTarget, name: str) -> None:
    """Refuse a CPU that LLVM does not know; it would compile for a generic one without a word."""
    known = map(str, tvm_ffi.get_global_func("target.llvm_get_cpu_archlist")(cpu))
    mcpu = str(cpu.attrs.get("mcpu", ""))
    if mcpu and mcpu not in known:
        raise TargetError(
            f"target {name} has mcpu {mcpu!r}, which LLVM does not know for {_triple(cpu)}; "
            "give a name that clang's -mcpu takes"
        )


def _cpu(target: TvmTarget) -> TvmTarget:
    return target.host if target.kind.name == "cuda" else target


def _triple(target: TvmTarget) -> str:
    cpu = _cpu(target)
    return "" if cpu is None else str(cpu.attrs.get("mtriple", ""))


def _architecture(target: TvmTarget) -> str:
    return _triple(target).partition("-")[0]


def _compile(
    module: tvm.IRModule, target: TvmTarget, machine: Machine | None, workspace: Path
) -> tuple[tvm.runtime.Module, list[Path]]:
    with _no_cuda_driver():
        pipeline = _cuda_pipeline(target) if machine is None else _cpu_pipeline(target, machine)
        executable = relax.build(module, target, relax_pipeline=pipeline).mod
    objects: list[Path] = []
    for index, kernels in enumerate(executable.imports):
        if kernels.kind == "llvm":  # where there is no kernel at all, TVM puts an empty C file
            objects.append(workspace / f"kernels{index}.o")
            kernels.write_to_file(str(objects[-1]))
    return executable, objects


def _cuda_pipeline(target: TvmTarget) -> tvm.transform.Pass:
    return tvm.transform.Sequential(
        [
            *cuda_passes.library_dispatch_passes(target),
            *cuda_passes.legalize_passes(target),
            inline_sequences,
            *cuda_passes.dataflow_lower_passes(target),
            *cuda_passes.finalize_passes(target),
        ]
    )


def _cpu_pipeline(target: TvmTarget, machine: Machine) -> tvm.transform.Pass:
    return tvm.transform.Sequential(
        [
            *cpu_passes.library_dispatch_passes(target),
            relax.transform.LegalizeOps(legalize_map()),
            relax.transform.AnnotateTIROpPattern(),
            correct_patterns,
            relax.transform.EliminateCommonSubexpr(),
            relax.transform.DeadCodeElimination(),
            relax.transform.FuseOps(),
            relax.transform.FuseTIR(),
            ApplyDefaultSchedule(KernelRules(machine)),
            inline_sequences,
            *cpu_passes.dataflow_lower_passes(target),
            *_with_shared_storage(cpu_passes.finalize_passes(target)),
        ]
    )


def _with_shared_storage(passes: Sequence[Any]) -> list[Any]:
    """The passes, with storage shared as soon as it is planned."""
    names = [str(each.info.name) for each in passes]
    planned = names.index("StaticPlanBlockMemory") + 1
    return [*passes[:planned], share_storage, *passes[planned:]]


@contextmanager
def _no_cuda_driver() -> Generator[None]:
    """Have TVM treat every machine as one without a CUDA driver, so that all build alike."""
    name = "TVM_COMPILE_FORCE_FALLBACK"
    before = os.environ.get(name)
    os.environ[name] = "1"
    try:
        yield
    finally:
        if before is None:
            del os.environ[name]
        else:
            os.environ[name] = before


def _imports(executable: tvm.runtime.Module, target: TvmTarget) -> bytes:
    """Serialise what is not object code: the virtual machine's program and a GPU's kernels."""
    pack = tvm_ffi.get_global_func("runtime.ModulePackImportsToTensor")
    imports = pack(executable).numpy().tobytes()
    for host_module in executable.imports:
        for gpu_module in host_module.imports:
            source = str(gpu_module.inspect_source("cuda"))
            cubin = compile_kernels(source, str(target.attrs["arch"]))
            imports = replace_source(imports, source, cubin)
    return imports


def _embed(imports: bytes, workspace: Path) -> Path:
    (workspace / "imports.bin").write_bytes(imports)
    embedding = workspace / "imports.c"
    embedding.write_text(_EMBEDDING)
    return embedding
