"""Real models through the command line, from file to verified bundle."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from partc.bundle import open_bundle


@pytest.mark.slow
@pytest.mark.parametrize(
    ("model", "shape"),
    [
        ("ch_PP-OCRv4_rec_infer.onnx", "x=1,3,48,128"),
        ("ch_PP-OCRv4_det_infer.onnx", "x=1,3,160,160"),
    ],
)
def test_a_real_export_with_shape_arithmetic_compiles(
    ocr_models: Path, tmp_path: Path, model: str, shape: str
) -> None:
    """Compilation compares every plan with ONNX Runtime before it writes anything."""
    output = tmp_path / "bundle"
    command = [sys.executable, "-m", "partc", "compile", str(ocr_models / model)]
    command += ["--shape", shape, "--target", "x86-64", "--link", "lte", "-o", str(output)]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    assert open_bundle(output).manifest.inputs[0].name == "x"
