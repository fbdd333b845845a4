from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import onnx
import onnx.parser
import pytest
from onnx_models import parse

from partc.errors import ModelError
from partc.frontends.onnx import import_onnx


class TestReference:
    def test_it_runs_the_original(self, tmp_path: Path):
        path = tmp_path / "net.onnx"
        onnx.save(parse("net (float[n] x) => (float[n] y) { y = Neg(x) }"), path)
        reference = import_onnx(path, {"x": (2,)}).reference
        np.testing.assert_array_equal(reference({"x": np.float32([1, 2])})["y"], [-1, -2])
        # The file, not what was folded from it: the number of elements is free there.
        np.testing.assert_array_equal(reference({"x": np.float32([1, 2, 3])})["y"], [-1, -2, -3])

    def test_a_model_in_memory_may_change_afterwards(self):
        model = parse("net (float[1] x) => (float[1] y) { y = Neg(x) }")
        reference = import_onnx(model).reference
        model.graph.node[0].op_type = "Abs"
        assert reference({"x": np.float32([1])})["y"] == [-1]

    def test_arrays_that_do_not_fit(self):
        source = import_onnx(parse("net (float[2] x) => (float[2] y) { y = Relu(x) }"))
        with pytest.raises(ModelError, match="ONNX Runtime cannot run model 'net': "):
            source.reference({"x": np.zeros(3, np.float32)})

    def test_models_that_onnx_runtime_cannot_load(self, tmp_path: Path):
        path = tmp_path / "net.onnx"
        onnx.save(parse("net (float[2] x) => (float[2] y) { y = Relu(x) }"), path)
        source = import_onnx(path)
        path.write_bytes(b"gone")
        with pytest.raises(ModelError, match=f"ONNX Runtime cannot run {re.escape(str(path))}: "):
            source.reference({"x": np.zeros(2, np.float32)})
