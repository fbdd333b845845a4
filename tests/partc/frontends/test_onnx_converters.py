from __future__ import annotations

import numpy as np
import pytest
from onnx_models import assert_agrees, operators, parse, run_compiled

from partc.frontends.onnx import import_onnx

# Each takes the first index along an axis of 3; what is updated is there twice.
INDEXING = {
    "Gather": "(float[2,3] x, TYPE[2] i) => (float[2,2] y) { y = Gather<axis=1>(x, i) }",
    "GatherElements": """(float[2,3] x, TYPE[2,2] i) => (float[2,2] y)
        { y = GatherElements<axis=1>(x, i) }""",
    "GatherND": "(float[3,4] x, TYPE[2,1] i) => (float[2,4] y) { y = GatherND(x, i) }",
    "GatherND in batches": """(float[2,3,4] x, TYPE[2,1] i) => (float[2,4] y)
        { y = GatherND<batch_dims=1>(x, i) }""",
    "ScatterElements": """(float[2,3] x, TYPE[2,1] i, float[2,1] u) => (float[2,3] y)
        { y = ScatterElements<axis=1>(x, i, u) }""",
    "ScatterND": """(float[3,4] x, TYPE[1,1] i, float[1,4] u) => (float[3,4] y)
        { y = ScatterND<reduction="add">(x, i, u) }""",
}
_EXTENT = 3


def example(name: str, index_type: str = "int64", index: int = 0) -> tuple:
    source = import_onnx(parse(f"net {INDEXING[name]}".replace("TYPE", index_type), opset=16))
    random = np.random.default_rng(0)
    inputs = {
        tensor.name: random.standard_normal(tensor.type.shape).astype(tensor.type.dtype)
        for tensor in source.inputs
    }
    inputs["i"] = np.full_like(inputs["i"], index)
    return source, inputs


class TestIndexing:
    @pytest.mark.parametrize("index_type", ["int32", "int64"])
    @pytest.mark.parametrize("name", [name for name in INDEXING if "ND" not in name])
    def test_indices_of_either_type(self, name: str, index_type: str):
        for index in (-_EXTENT, -1, 0, _EXTENT - 1):
            assert_agrees(*example(name, index_type, index))

    @pytest.mark.parametrize("name", [name for name in INDEXING if "ND" in name])
    def test_coordinates(self, name: str):
        for index in (-_EXTENT, -1, 0, _EXTENT - 1):
            assert_agrees(*example(name, index=index))

    @pytest.mark.parametrize("name", INDEXING)
    def test_no_index_leads_out_of_its_tensor(self, name: str):
        for wild, nearest in ((10**12, _EXTENT - 1), (_EXTENT, _EXTENT - 1), (-(10**12), 0)):
            source, inputs = example(name, index=wild)
            expected = run_compiled(source, {**inputs, "i": np.full_like(inputs["i"], nearest)})
            np.testing.assert_array_equal(run_compiled(source, inputs)["y"], expected["y"])

    def test_constant_indices_cost_nothing(self):
        body = """net (float[2,3] x) => (float[2,2] y)
            <int64[2] i = {-1, 1}> { y = Gather<axis=1>(x, i) }"""
        source = import_onnx(parse(body))
        assert operators(source) == {"y": "take"}
        assert_agrees(source)

    def test_nothing_asks_at_run_time_for_a_shape_that_is_fixed(self):
        for name in INDEXING:
            source, _ = example(name)
            assert not {"shape_of", "shape_to_tensor"} & set(operators(source).values())
