from __future__ import annotations

import os
import shutil
import struct
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
import tvm
from numpy.typing import NDArray
from prerequisites import require
from tvm import relax

from partc.codegen.build import build_library, host_target, resolve_target, runs_here
from partc.errors import CompilerError, TargetError
from partc.targets.target import Target, load_target

Array = NDArray[np.float32]

IMAGE, KERNEL, WEIGHT = (1, 3, 16, 16), (8, 3, 3, 3), (8, 10)
X86_64, AARCH64, CUDA = 62, 183, 190  # e_machine


def make_segments() -> tvm.IRModule:
    """Two functions: a convolution with ReLU, and pooling with a dense layer behind it."""
    builder = relax.BlockBuilder()
    image, kernel = variable("image", IMAGE), variable("kernel", KERNEL)
    with builder.function("features", [image, kernel]):
        with builder.dataflow():
            convolved = builder.emit(relax.op.nn.conv2d(image, kernel, padding=1))
            result = builder.emit_output(relax.Tuple([relax.op.nn.relu(convolved)]))
        builder.emit_func_output(result)
    features, weight = variable("features", (1, 8, 16, 16)), variable("weight", WEIGHT)
    with builder.function("classify", [features, weight]):
        with builder.dataflow():
            pooled = builder.emit(relax.op.mean(features, [2, 3]))
            scores = builder.emit(relax.op.nn.softmax(relax.op.matmul(pooled, weight)))
            result = builder.emit_output(relax.Tuple([scores, pooled]))
        builder.emit_func_output(result)
    return builder.get()


def variable(name: str, shape: tuple[int, ...]) -> relax.Var:
    return relax.Var(name, relax.TensorType(shape, "float32"))


def target_with(**fields: Any) -> Target:
    return msgspec.structs.replace(load_target("native"), name="mine", **fields)


def machine_of(elf: bytes) -> int:
    assert elf.startswith(b"\x7fELF")
    return struct.unpack_from("<H", elf, 18)[0]


def build(directory: Path, target: str) -> Path:
    path = directory / "library.so"
    build_library(make_segments(), load_target(target), path)
    return path


def call(library: Path, function: str, *arrays: Array) -> list[Array]:
    machine = relax.VirtualMachine(tvm.runtime.load_module(str(library)), tvm.cpu())
    return [output.numpy() for output in machine[function](*map(tvm.runtime.tensor, arrays))]


def relu_of_convolution(image: Array, kernel: Array) -> Array:
    padded = np.pad(image, ((0, 0), (0, 0), (1, 1), (1, 1)))
    windows = np.lib.stride_tricks.sliding_window_view(padded, (3, 3), axis=(2, 3))
    return np.maximum(np.einsum("ncyxij,ocij->noyx", windows, kernel), 0)


@pytest.fixture
def arrays() -> dict[str, Array]:
    random = np.random.default_rng(0)
    shapes = {"image": IMAGE, "kernel": KERNEL, "weight": WEIGHT}
    return {name: random.standard_normal(shape, np.float32) for name, shape in shapes.items()}


@pytest.fixture(scope="module")
def native_library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build(tmp_path_factory.mktemp("native"), "native")


def test_every_segment_computes_what_numpy_computes(
    native_library: Path, arrays: dict[str, Array]
) -> None:
    (features,) = call(native_library, "features", arrays["image"], arrays["kernel"])
    np.testing.assert_allclose(
        features, relu_of_convolution(arrays["image"], arrays["kernel"]), rtol=1e-4, atol=1e-5
    )
    scores, pooled = call(native_library, "classify", features, arrays["weight"])
    np.testing.assert_allclose(pooled, features.mean((2, 3)), rtol=1e-4)
    exponentials = np.exp(pooled @ arrays["weight"])
    np.testing.assert_allclose(scores, exponentials / exponentials.sum(), rtol=1e-4)


@pytest.mark.parametrize("target", ["x86-64", "x86-64-v3", "x86-64-v4"])
def test_a_library_for_an_x86_level_computes_the_same(
    target: str, native_library: Path, arrays: dict[str, Array], tmp_path: Path
) -> None:
    require(runs_here(load_target(target)), f"a CPU that runs {target}")
    inputs = arrays["image"], arrays["kernel"]
    (expected,) = call(native_library, "features", *inputs)
    (actual,) = call(build(tmp_path, target), "features", *inputs)
    np.testing.assert_allclose(actual, expected, rtol=1e-4, atol=1e-5)


def test_plain_x86_64_has_no_avx(tmp_path: Path) -> None:
    require(shutil.which("objdump") is not None, "objdump (Debian package binutils)")
    assert "%xmm" in disassemble(build(tmp_path, "x86-64"))
    assert "%ymm" not in disassemble(build(tmp_path, "x86-64"))
    assert "%ymm" in disassemble(build(tmp_path, "x86-64-v3"))


def disassemble(library: Path) -> str:
    command = ["objdump", "--disassemble", str(library)]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


def test_another_process_in_another_place_builds_the_same_bytes(tmp_path: Path) -> None:
    targets = ("native", "raspberry-pi-4")
    elsewhere = tmp_path / "some" / "where" / "else"
    elsewhere.mkdir(parents=True)
    environment = {
        **os.environ,
        "PYTHONHASHSEED": "12345",
        "PYTHONPATH": os.pathsep.join([str(Path(__file__).parent), *sys.path]),
        "TMPDIR": str(elsewhere),
    }
    script = f"import test_build; test_build.build_all(test_build.Path.cwd(), {targets})"
    subprocess.run([sys.executable, "-c", script], cwd=elsewhere, env=environment, check=True)
    for here, there in zip(build_all(tmp_path, targets), build_all(elsewhere, ()), strict=True):
        assert here.read_bytes() == there.read_bytes()


def build_all(directory: Path, targets: Iterable[str]) -> list[Path]:
    """Build in one directory for each target; return all that are there."""
    for target in targets:
        (directory / target).mkdir()
        build(directory / target, target)
    return sorted(directory.glob("*/library.so"))


def test_a_library_names_no_place_and_no_symbol_that_it_need_not(native_library: Path) -> None:
    content = native_library.read_bytes()
    for stray in (b"/tmp", b"partc-build", str(Path.home()).encode(), b".symtab", b".debug"):
        assert stray not in content


def test_the_machine_is_the_targets(tmp_path: Path) -> None:
    assert machine_of(build(tmp_path, "x86-64").read_bytes()) == X86_64
    assert machine_of(build(tmp_path, "raspberry-pi-4").read_bytes()) == AARCH64


def test_a_jetson_library_is_for_arm_and_holds_machine_code_for_its_gpu(tmp_path: Path) -> None:
    content = build(tmp_path, "jetson-agx-orin").read_bytes()
    assert machine_of(content) == AARCH64
    start = content.index(b"\x05\0\0\0\0\0\0\0cubin")
    cubin = content[content.index(b"\x7fELF", start) :]
    assert machine_of(cubin) == CUDA
    # Compute capability 8.7, in the second byte of e_flags as in its ABI version 8.
    assert struct.unpack_from("<I", cubin, 48)[0] >> 8 & 0xFF == 87
    assert b"conv2d_relu_kernel" in cubin
    assert b"__global__" not in content


def test_without_cudas_headers_the_error_says_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("cuda.pathfinder.find_nvidia_header_directory", lambda _: None)
    with pytest.raises(TargetError, match=r"pip install 'partc\[cuda\]'"):
        build(tmp_path, "jetson-agx-orin")


def test_without_nvrtc_the_error_says_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "cuda.bindings.nvrtc", None)
    with pytest.raises(TargetError, match=r"pip install 'partc\[cuda\]'"):
        build(tmp_path, "jetson-agx-orin")


def test_a_target_that_can_only_be_planned_for_is_refused_with_its_reason(tmp_path: Path) -> None:
    tk1 = load_target("jetson-tk1")
    assert tk1.uncompilable
    assert not runs_here(tk1)
    with pytest.raises(TargetError) as error:
        build(tmp_path, "jetson-tk1")
    assert "jetson-tk1" in str(error.value)
    assert tk1.uncompilable in str(error.value)


@pytest.mark.parametrize(
    ("attributes", "complaint"),
    [
        ({"tag": "no/such-board"}, "mine.*no/such-board"),
        ({"kind": "llvm", "mtriple": "riscv64-linux-gnu"}, "mine.*riscv64-linux-gnu"),
        ({"kind": "cuda", "arch": "sm_87"}, "mine.*mtriple"),
        (
            {"kind": "llvm", "mtriple": "x86_64-linux-gnu", "mcpu": "nonsense"},
            "mine has mcpu 'nonsense'",
        ),
    ],
)
def test_a_target_that_tvm_or_the_linker_does_not_know_is_refused(
    attributes: dict[str, Any], complaint: str
) -> None:
    with pytest.raises(TargetError, match=complaint):
        resolve_target(target_with(tvm=attributes))


def test_native_spells_out_this_machines_features() -> None:
    attributes = resolve_target(load_target("native")).attrs
    assert str(attributes["mcpu"]) != "native"
    assert len(attributes["mattr"]) > 1


def test_llvm_looks_for_no_vectors_of_its_own() -> None:
    attributes = {**load_target("x86-64").tvm, "cl-opt": ["-unroll-threshold:uint=100"]}
    options = resolve_target(target_with(tvm=attributes)).attrs["cl-opt"]
    assert list(options) == ["-vectorize-slp:bool=false", "-unroll-threshold:uint=100"]


def test_what_tvm_raises_is_translated(tmp_path: Path) -> None:
    image = variable("image", IMAGE)
    missing = relax.Call(tvm.ir.GlobalVar("missing"), [image])
    module = tvm.IRModule({"main": relax.Function([image], missing, image.ty)})
    with pytest.raises(CompilerError, match="native") as error:
        build_library(module, load_target("native"), tmp_path / "library.so")
    assert error.value.__cause__ is not None


def test_a_segment_without_a_kernel_is_built(tmp_path: Path) -> None:
    builder = relax.BlockBuilder()
    image = variable("image", (2, 6))
    with builder.function("flatten", [image]):
        with builder.dataflow():
            result = builder.emit_output(relax.Tuple([relax.op.reshape(image, (12,))]))
        builder.emit_func_output(result)
    build_library(builder.get(), load_target("native"), tmp_path / "library.so")
    array = np.arange(12, dtype=np.float32).reshape(2, 6)
    (flat,) = call(tmp_path / "library.so", "flatten", array)
    np.testing.assert_array_equal(flat, array.ravel())


def test_what_runs_here() -> None:
    assert runs_here(load_target("native"))
    assert runs_here(host_target())
    assert not runs_here(load_target("jetson-agx-orin"))
    x86, arm = load_target("x86-64"), load_target("raspberry-pi-4")
    assert runs_here(x86) != runs_here(arm)


def test_a_cpu_with_a_feature_that_this_one_lacks_does_not_run_here() -> None:
    attributes = {"kind": "llvm", "mtriple": "x86_64-linux-gnu", "mcpu": "x86-64"}
    assert not runs_here(target_with(tvm={**attributes, "mattr": ["+amx-fp8"]}))
