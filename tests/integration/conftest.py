"""Bundles of real models that several tests use."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

import partc
from partc.bundle import Bundle
from partc.frontends.onnx_reference import OnnxReference
from partc.plan import Side

CLS_SHAPE = (1, 3, 48, 192)


@pytest.fixture(scope="session")
def ocr_models() -> Path:
    """Where the PP-OCRv4 models lie; no package has them for Python 3.13."""
    if importlib.util.find_spec("rapidocr_onnxruntime") is None:
        pytest.skip("needs rapidocr-onnxruntime, which exists for Python up to 3.12")
    import rapidocr_onnxruntime

    return Path(rapidocr_onnxruntime.__file__).parent / "models"


@pytest.fixture(scope="session")
def cls_model(ocr_models: Path) -> Path:
    return ocr_models / "ch_ppocr_mobile_v2.0_cls_infer.onnx"


@pytest.fixture(scope="session")
def cls_bundle(cls_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """PP-OCRv4's direction classifier with real weights, and with a cut in the middle."""
    return partc.compile(
        cls_model,
        target="x86-64",
        server="x86-64-v3",
        shapes={"x": CLS_SHAPE},
        pins={"Conv_16": Side.DEVICE, "Conv_17": Side.SERVER},
        output=tmp_path_factory.mktemp("cls") / "bundle",
    )


@pytest.fixture(scope="session")
def cls_input() -> NDArray[np.float32]:
    return np.random.default_rng(7).standard_normal(CLS_SHAPE, dtype=np.float32)


@pytest.fixture(scope="session")
def cls_expected(cls_model: Path, cls_input: NDArray[np.float32]) -> NDArray[np.float32]:
    """What ONNX Runtime computes."""
    outputs = OnnxReference(str(cls_model), cls_model)({"x": cls_input})
    return np.asarray(outputs["save_infer_model/scale_0.tmp_1"], dtype=np.float32)
