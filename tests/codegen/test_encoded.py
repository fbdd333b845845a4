"""A bundle whose plans differ in how they send a tensor, from its graph to its halves' answers."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
import tritonclient.grpc as triton
from halves import running_server
from tiny import INPUT, OUTPUT, SHAPE, run_reference, tiny_inputs

from partc.bundle import Bundle
from partc.codegen.bundle import describe_bundle
from partc.codegen.glue import model_spec, write_glue
from partc.codegen.halves import build_half
from partc.codegen.verify import Sample, run_split, verify
from partc.compiler import lower_model
from partc.errors import VerificationError
from partc.goal import make_goal
from partc.graph import PLAIN, Encoding, LayerGraph
from partc.manifest import MANIFEST_NAME, Manifest, manifest_json, read_manifest
from partc.passes.segment import build_plan_table
from partc.plan import Cut, PlanTable, Side
from partc.planner import predict_costs
from partc.runtime.executor import Executor
from partc.runtime.spec import ArtifactSpec, ModelSpec
from partc.targets.target import load_target

GOAL = make_goal("native", "native")
INPUTS = tiny_inputs()
NBYTES = {"plain": 144, "float16": 72, "uint8": 68, "plain+lz4": 130, "uint8+zstd": 60}


def encoded(graph: LayerGraph) -> LayerGraph:
    """The graph with ways to send its input and what is between its layers."""
    (hidden,) = graph.by_name["stem"].outputs
    ways = {hidden.name: tuple(Encoding(name, nbytes) for name, nbytes in NBYTES.items())}
    return replace(
        graph, encodings={**ways, INPUT: (Encoding(PLAIN, 768), Encoding("plain+zstd", 700))}
    )


@dataclass(frozen=True)
class Made:
    """What code generation made of a graph and its plans."""

    path: Path
    graph: LayerGraph
    table: PlanTable
    model: ModelSpec
    artifacts: dict[Side, ArtifactSpec]

    def executor(self, side: Side) -> Executor:
        return Executor(self.path / side.value, self.artifacts[side])

    def verify(self, max_error: float, scale: float = 1.0) -> None:
        reference: Any = lambda inputs: {OUTPUT: scale * self.run("cut-1", inputs)}  # noqa: E731
        halves = [self.executor(side) for side in Side]
        samples = [Sample("the test's input", INPUTS, calibration=True)]
        verify(self.model, *halves, reference, samples, max_error)

    def run(self, plan: str, inputs: Any) -> np.ndarray[Any, Any]:
        spec = next(each for each in self.model.plans if each.name == plan)
        halves = [self.executor(side) for side in Side]
        return run_split(self.model, spec, *halves, inputs)[OUTPUT]


@pytest.fixture(scope="module")
def made(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Made:
    path = tmp_path_factory.mktemp("encoded")
    graph = encoded(predict_costs(lower_model(tiny_model), GOAL))
    (hidden,) = graph.by_name["stem"].outputs
    head, whole = frozenset(["head"]), Cut.server_only(graph).server_layers
    cuts = [Cut(head), *(Cut(head, ((hidden.name, how),)) for how in list(NBYTES)[1:])]
    cuts.append(Cut(whole, ((INPUT, "plain+zstd"),)))
    table = build_plan_table(graph, cuts)
    artifacts: dict[Side, ArtifactSpec] = {}
    for side in Side:
        (path / side.value).mkdir()
        artifacts[side] = build_half(graph, table, side, load_target("native"), path / side.value)
    model = model_spec(graph, table, "cut-1", artifacts.values())
    for side in Side:
        write_glue(model, artifacts[side], side, path / side.value)
    return Made(path, graph, table, model, artifacts)


@pytest.fixture(scope="module")
def address(made: Made) -> Iterator[str]:
    with running_server(sys.executable, cast("Bundle", made)) as address:
        yield address


def test_plans_share_segments(made: Made) -> None:
    assert [segment.name for segment in made.table.segments] == ["segment_0", "segment_1"]
    found = {
        plan.name: [(each.encoding, each.nbytes) for each in plan.upload]
        for plan in made.model.plans
    }
    assert found == {
        "server-only": [("plain", 768)],
        "device-only": [],
        **{f"cut-{n}": [item] for n, item in enumerate(NBYTES.items(), 1)},
        "cut-6": [("plain+zstd", 700)],
    }


_RUN = """
import sys
import numpy as np
from device.client import MODEL, Model

model = Model(threads=1).connect(sys.argv[1])
image = np.load("input.npy")
answers = {plan.name: model(x_0=image, plan=plan.name).class_ for plan in MODEL.plans}
assert not {"tvm", "partc", "onnx", "PIL"} & sys.modules.keys()
assert {"lz4", "zstandard"} <= sys.modules.keys()
np.savez("outputs.npz", **answers)
"""


def test_every_plan_answers_over_the_network(made: Made, tiny_model: Path, address: str) -> None:
    np.save(made.path / "input.npy", INPUTS[INPUT])
    subprocess.run([sys.executable, "-c", _RUN, address], cwd=made.path, check=True)
    expected = run_reference(tiny_model, INPUTS)
    with np.load(made.path / "outputs.npz") as outputs:
        found = {
            name: np.abs(outputs[name] - expected).max() / np.abs(expected).max()
            for name in outputs
        }
    lossy = {"cut-2": 1e-3, "cut-3": 1e-2, "cut-5": 1e-2}
    assert set(found) == {plan.name for plan in made.model.plans}
    assert {name: error < lossy.get(name, 1e-5) for name, error in found.items()} == dict.fromkeys(
        found, True
    )
    assert min(found[name] for name in lossy) > 1e-5


def test_strangers_use_the_whole_model_or_an_encoded_plan(
    made: Made, tiny_model: Path, address: str
) -> None:
    expected = run_reference(tiny_model, INPUTS)
    whole = triton.InferInput(INPUT, list(SHAPE), "FP32").set_data_from_numpy(INPUTS[INPUT])
    (sent,) = made.model.plans[4].upload
    (hidden,) = made.table.segments[0].outputs
    request = made.executor(Side.DEVICE).request(INPUTS)
    request.run(made.model.plans[4].device_segments)
    array = request.array(hidden.name)
    low, high = array.min((0, 2, 3)), array.max((0, 2, 3))
    bounds = np.stack([low, (high - low) / 255], 1)
    steps = np.rint((array - low[:, None, None]) / bounds[:, 1, None, None]).astype("uint8")
    parts = [
        triton.InferInput(sent.name, list(sent.shape), "UINT8").set_data_from_numpy(steps),
        triton.InferInput(f"{sent.name}.range", [4, 2], "FP32").set_data_from_numpy(bounds),
    ]
    with triton.InferenceServerClient(address) as client:
        answer = client.infer("tiny", [whole]).as_numpy(OUTPUT)
        narrow = client.infer("tiny", parts, "4").as_numpy(OUTPUT)
    np.testing.assert_allclose(answer, expected, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(narrow, expected, atol=1e-2 * np.abs(expected).max())


def test_verifying_runs_what_is_sent(made: Made) -> None:
    made.verify(max_error=0.02)
    with pytest.raises(VerificationError, match=r"--max-error 0\.0001 is not kept: .*as float16;"):
        made.verify(max_error=1e-4)
    with pytest.raises(VerificationError, match="the compiled model differs from its source"):
        made.verify(max_error=0.02, scale=1.01)


def test_the_manifest_says_how_tensors_are_sent(made: Made) -> None:
    (made.path / "report.html").touch()
    manifest = describe_bundle(made.model, made.table, GOAL, [], made.path)
    (made.path / MANIFEST_NAME).write_bytes(manifest_json(manifest))
    found: Manifest = read_manifest(made.path)
    assert found == manifest
    assert found.image_inputs == ()
    (entry,) = found.plans[4].upload
    (hidden,) = made.table.segments[0].outputs
    assert (entry.name, entry.shape, entry.encoding, entry.nbytes) == (
        hidden.name,
        hidden.type.shape,
        "uint8",
        68,
    )
    assert found.plans[4].upload_nbytes == 68
