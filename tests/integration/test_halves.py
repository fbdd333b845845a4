"""The two halves of a bundle of a real model, as separate processes and to a standard client."""

from __future__ import annotations

import subprocess
import sys
import venv
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import tritonclient.grpc as triton
from halves import assert_close, running_server
from numpy.typing import NDArray

from partc.bundle import Bundle
from partc.plan import Side

Array = NDArray[np.float32]


@pytest.fixture(scope="module")
def server(cls_bundle: Bundle) -> Iterator[str]:
    with running_server(sys.executable, cls_bundle) as address:
        yield address


def test_every_plan_answers_as_one_model(
    cls_bundle: Bundle, server: str, cls_input: Array, cls_expected: Array
) -> None:
    client = cls_bundle.half(Side.DEVICE).Model().connect(server)
    plans = [plan.name for plan in cls_bundle.manifest.plans]
    assert plans == ["server-only", "device-only", "cut-1"]
    assert cls_bundle.manifest.default_plan == "cut-1"
    for plan in [*plans, None]:
        (output,) = client(x=cls_input, plan=plan)
        assert_close(output, cls_expected)
    client.close()


@pytest.mark.parametrize("version", ["0", "2"])
def test_a_standard_client_drives_the_whole_model_and_a_cut(
    cls_bundle: Bundle, server: str, cls_input: Array, cls_expected: Array, version: str
) -> None:
    """Version 2's inputs are the tensors at the cut, which the device's half makes here."""
    plan = cls_bundle.manifest.plans[int(version)]
    device = cls_bundle.half(Side.DEVICE)
    executor = device.Executor(cls_bundle.path / "device", device.ARTIFACT)
    request = executor.request({"x": cls_input})
    request.run(plan.device_segments)
    inputs = []
    for entry in plan.upload:
        tensor = triton.InferInput(entry.name, list(entry.shape), "FP32")
        tensor.set_data_from_numpy(request.array(entry.name))
        inputs.append(tensor)
    with triton.InferenceServerClient(server) as client:
        result = client.infer(cls_bundle.manifest.model, inputs, model_version=version)
        assert_close(result.as_numpy(plan.download[0].name), cls_expected)


@pytest.mark.slow
def test_halves_need_nothing_but_their_requirements(
    cls_bundle: Bundle, cls_input: Array, cls_expected: Array, tmp_path: Path
) -> None:
    pythons = {side: bare_environment(cls_bundle, side, tmp_path / side.value) for side in Side}
    np.save(tmp_path / "x.npy", cls_input)
    with running_server(pythons[Side.SERVER], cls_bundle) as address:
        command = [pythons[Side.DEVICE], "-m", "device", "--server", address]
        command += ["--input", f"x={tmp_path / 'x.npy'}", "--output", str(tmp_path / "made")]
        subprocess.run(command, cwd=cls_bundle.path, check=True)
    (made,) = (tmp_path / "made").glob("*.npy")
    assert_close(np.load(made), cls_expected)


def bare_environment(bundle: Bundle, side: Side, directory: Path) -> str:
    """A virtual environment with a half's requirements; returns its interpreter."""
    venv.create(directory, with_pip=True)
    python = str(directory / "bin" / "python")
    requirements = bundle.path / side.value / "requirements.txt"
    install = [python, "-m", "pip", "install", "--quiet", "--requirement", str(requirements)]
    subprocess.run(install, check=True)
    for package in ("partc", "torch", "onnx", "google.protobuf"):
        command = [python, "-c", f"import {package}"]
        absent = subprocess.run(command, cwd=directory, capture_output=True)
        assert absent.returncode != 0, f"{package} is in the {side.value}'s environment"
    return python
