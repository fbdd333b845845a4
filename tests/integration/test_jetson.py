"""A bundle for a Jetson's GPU, compiled on a machine that has neither."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import tritonclient.grpc as triton
from halves import assert_close, running_server
from numpy.typing import NDArray

from partc.bundle import Bundle, open_bundle

ELF_MAGIC = b"\x7fELF"
AARCH64 = 183
CUDA = 190


@pytest.fixture(scope="module")
def jetson_bundle(cls_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    output = tmp_path_factory.mktemp("jetson") / "bundle"
    command = [sys.executable, "-m", "partc", "compile", str(cls_model)]
    command += ["--shape", "x=1,3,48,192", "--target", "jetson", "--output", str(output)]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    return open_bundle(output)


def elf_machine(image: bytes) -> int:
    assert image[:4] == ELF_MAGIC
    return int.from_bytes(image[18:20], "little")


def test_the_library_is_for_aarch64_and_holds_machine_code_for_the_gpu(
    jetson_bundle: Bundle,
) -> None:
    library = (jetson_bundle.path / "device" / "model.so").read_bytes()
    assert elf_machine(library) == AARCH64
    gpu_code = library.find(ELF_MAGIC, 4)
    assert elf_machine(library[gpu_code:]) == CUDA
    assert b"_kernel" in library[gpu_code:]


def test_its_server_half_runs_here(
    jetson_bundle: Bundle, cls_input: NDArray[np.float32], cls_expected: NDArray[np.float32]
) -> None:
    with (
        running_server(sys.executable, jetson_bundle) as address,
        triton.InferenceServerClient(address) as client,
    ):
        tensor = triton.InferInput("x", list(cls_input.shape), "FP32")
        tensor.set_data_from_numpy(cls_input)
        result = client.infer(jetson_bundle.manifest.model, [tensor])
    assert_close(result.as_numpy(jetson_bundle.manifest.outputs[0].name), cls_expected)
