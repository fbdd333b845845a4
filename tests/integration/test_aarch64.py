"""A library for a board's CPU, run by TVM's runtime for that CPU in an emulator."""

from __future__ import annotations

import importlib.metadata
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest
import tvm_ffi.libinfo
from halves import assert_close
from numpy.typing import NDArray
from prerequisites import require

import partc
from partc.codegen.link import run_zig_cc
from partc.plan import Side

SYSROOT = Path("/usr/aarch64-linux-gnu")
RUNNER_SOURCE = Path(__file__).with_name("aarch64_runner.c")
# The same glibc as partc links for.
WHEEL_PLATFORM = "manylinux_2_28_aarch64"
RUNTIME_LIBRARIES = {
    "apache-tvm-ffi": "tvm_ffi/lib/libtvm_ffi.so",
    "apache-tvm": "tvm/lib/libtvm_runtime.so",
}

Array = NDArray[np.float32]


@pytest.fixture(scope="module", autouse=True)
def emulator() -> None:
    require(shutil.which("qemu-aarch64-static") is not None, "the Debian package qemu-user-static")
    packages = "the Debian packages libc6-arm64-cross and libstdc++6-arm64-cross"
    for library in ("libc.so.6", "libstdc++.so.6"):
        require((SYSROOT / "lib" / library).exists(), packages)


@pytest.fixture(scope="module")
def runtime(pytestconfig: pytest.Config) -> Path:
    """A directory with the device's runtime libraries, fetched once for each version of TVM."""
    versions = {name: importlib.metadata.version(name) for name in RUNTIME_LIBRARIES}
    label = "-".join(versions.values())
    directory = pytestconfig.cache.mkdir(f"aarch64-{label}")
    for package, member in RUNTIME_LIBRARIES.items():
        if not (directory / Path(member).name).exists():
            fetch_library(f"{package}=={versions[package]}", member, directory)
    return directory


def fetch_library(requirement: str, member: str, directory: Path) -> None:
    wheels = directory / "wheels"
    options = ["--quiet", "--no-deps", "--only-binary=:all:", "--python-version=3.11"]
    platform = f"--platform={WHEEL_PLATFORM}"
    subprocess.run(
        [sys.executable, "-m", "pip", "download", *options, platform, "-d", wheels, requirement],
        check=True,
    )
    (wheel,) = wheels.iterdir()
    with zipfile.ZipFile(wheel) as archive:
        content = archive.read(member)
    shutil.rmtree(wheels)
    (directory / Path(member).name).write_bytes(content)


@pytest.fixture(scope="module")
def runner(runtime: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("runner")
    executable = directory / "aarch64_runner"
    includes = [tvm_ffi.libinfo.find_include_path(), tvm_ffi.libinfo.find_dlpack_include_path()]
    run_zig_cc(
        ["-std=c11", "-O1", "-Wall", "-Wextra", "-Werror"]
        + [f"-I{path}" for path in includes]
        + ["-o", str(executable), str(RUNNER_SOURCE)]
        + [f"-L{runtime}", "-ltvm_ffi", "-Wl,--no-as-needed", "-ltvm_runtime"]
        + ["-Wl,--allow-shlib-undefined"],
        "aarch64",
        cache=directory,
    )
    return executable


def run_emulated(
    runner: Path, runtime: Path, library: Path, function: str, inputs: list[Array], outputs: int
) -> list[bytes]:
    """Call a function of a library for aarch64; return what the outputs hold."""
    results = [library.with_name(f"output{index}") for index in range(outputs)]
    arguments = [f"out:{path}" for path in results]
    for index, array in enumerate(inputs):
        path = library.with_name(f"input{index}")
        array.tofile(path)
        shape = "x".join(map(str, array.shape))
        arguments.append(f"in:{array.dtype}:{shape}:{path}")
    emulator = ["qemu-aarch64-static", "-L", SYSROOT, "-E", f"LD_LIBRARY_PATH={runtime}"]
    subprocess.run([*emulator, runner, library, function, *arguments], check=True)
    return [path.read_bytes() for path in results]


def test_the_device_half_for_a_raspberry_pi_computes_what_onnx_runtime_computes(
    runner: Path,
    runtime: Path,
    cls_model: Path,
    cls_input: Array,
    cls_expected: Array,
    tmp_path: Path,
) -> None:
    bundle = partc.compile(
        cls_model,
        target="raspberry-pi-4",
        server="native",
        shapes={"x": cls_input.shape},
        pins={"Conv_16": "device", "Conv_17": "server"},
        output=tmp_path / "bundle",
    )
    library = Path(shutil.copy(bundle.path / "device" / "model.so", tmp_path))
    weights = np.load(bundle.path / "device" / "params.npz")
    entries = (*bundle.manifest.plans[2].upload, *bundle.manifest.outputs)
    shapes = {entry.name: entry.shape for entry in entries}
    tensors = {"x": cls_input}
    segments = bundle.half(Side.DEVICE).ARTIFACT.segments
    assert len(segments) == 2
    for segment in segments:
        inputs = [*(tensors[name] for name in segment.inputs), *map(weights.get, segment.params)]
        made = run_emulated(runner, runtime, library, segment.name, inputs, len(segment.outputs))
        for name, raw in zip(segment.outputs, made, strict=True):
            tensors[name] = np.frombuffer(raw, np.float32).reshape(shapes[name])
    assert_close(tensors[bundle.manifest.outputs[0].name], cls_expected)


def test_the_runner_reports_what_the_runtime_raises(
    runner: Path, runtime: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(subprocess.CalledProcessError):
        run_emulated(runner, runtime, tmp_path / "missing.so", "main", [], outputs=0)
    assert "missing.so" in capfd.readouterr().err
