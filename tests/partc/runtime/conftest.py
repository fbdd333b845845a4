"""A model of two segments, compiled by TVM itself, in the shape in which a bundle holds it.

hidden = relu(image) * weight          segment_0
scores = hidden + bias + offset        segment_1
outputs: scores, hidden and image itself
"""

from __future__ import annotations

import hashlib
import shutil
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tvm
from numpy.typing import NDArray
from tvm import relax

from partc.runtime import client
from partc.runtime.client import Client
from partc.runtime.executor import Executor
from partc.runtime.server import InferenceServer
from partc.runtime.spec import ArtifactSpec, ModelSpec, PlanSpec, SegmentSpec, SentSpec, TensorSpec

WEIGHT = np.array([1, 2, 3, 4], "float32")
BIAS = np.array([0.5], "float32")

IMAGE = TensorSpec("image", "float32", (2, 4))
OFFSET = TensorSpec("offset", "int64", (4,))
HIDDEN = TensorSpec("hidden", "float32", (2, 4))
SCORES = TensorSpec("scores", "float32", (2, 4))

SENT_IMAGE = SentSpec("image", "float32", (2, 4), "plain", 32)
SENT_OFFSET = SentSpec("offset", "int64", (4,), "plain", 32)
SENT_HIDDEN = SentSpec("hidden", "float32", (2, 4), "plain", 32)

SEGMENTS = (
    SegmentSpec("segment_0", ("image",), ("weight",), ("hidden",)),
    SegmentSpec("segment_1", ("hidden", "offset"), ("bias",), ("scores",)),
)
_NAMES = ("segment_0", "segment_1")
MODEL = ModelSpec(
    name="toy",
    digest="0123456789abcdef" * 4,
    inputs=(IMAGE, OFFSET),
    outputs=(SCORES, HIDDEN, IMAGE),
    plans=(
        PlanSpec("server-only", 0, (), _NAMES, (SENT_IMAGE, SENT_OFFSET), (SCORES, HIDDEN)),
        PlanSpec("device-only", 1, _NAMES, (), (), ()),
        PlanSpec("cut-1", 2, _NAMES[:1], _NAMES[1:], (SENT_OFFSET, SENT_HIDDEN), (SCORES,)),
    ),
    default_plan="cut-1",
)
PLANS = tuple(plan.name for plan in MODEL.plans)


@dataclass(frozen=True)
class Half:
    """A directory with a library and weights, and what describes them."""

    directory: Path
    artifact: ArtifactSpec

    def executor(self, **changes: Any) -> Executor:
        return Executor(self.directory, replace(self.artifact, **changes))


def write_half(
    directory: Path,
    module: tvm.IRModule,
    segments: tuple[SegmentSpec, ...],
    params: Mapping[str, NDArray[Any]],
) -> Half:
    """Compile a module and describe it as code generation does."""
    tvm.compile(module, "llvm").export_library(str(directory / "model.so"))
    np.savez(directory / "params.npz", **dict(params))
    digests = {
        name: hashlib.sha256((directory / name).read_bytes()).hexdigest()
        for name in ("model.so", "params.npz")
    }
    artifact = ArtifactSpec(
        library="model.so",
        library_sha256=digests["model.so"],
        params="params.npz",
        params_sha256=digests["params.npz"],
        segments=segments,
        device="cpu",
        threads=1,
    )
    return Half(directory, artifact)


def toy_module() -> tvm.IRModule:
    builder = relax.BlockBuilder()
    image, hidden = (relax.Var(name, relax.TensorType((2, 4), "float32")) for name in "ih")
    weight = relax.Var("weight", relax.TensorType((4,), "float32"))
    bias = relax.Var("bias", relax.TensorType((1,), "float32"))
    offset = relax.Var("offset", relax.TensorType((4,), "int64"))
    with builder.function("segment_0", [image, weight]):
        made = builder.emit(relax.op.multiply(relax.op.nn.relu(image), weight))
        builder.emit_func_output(relax.Tuple([made]))
    with builder.function("segment_1", [hidden, offset, bias]):
        added = builder.emit(relax.op.add(hidden, relax.op.astype(offset, "float32")))
        builder.emit_func_output(relax.Tuple([builder.emit(relax.op.add(added, bias))]))
    return builder.get()


class Toy:
    """The model, arrays for it, what they must give, and its compiled half."""

    model = MODEL
    plans = PLANS

    def __init__(self, half: Half) -> None:
        self.half = half

    @staticmethod
    def inputs(seed: int = 0) -> dict[str, NDArray[Any]]:
        rng = np.random.default_rng(seed)
        return {
            "image": rng.standard_normal((2, 4), "float32"),
            "offset": rng.integers(-9, 9, 4),
        }

    @staticmethod
    def outputs(inputs: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
        hidden = np.maximum(inputs["image"], 0) * WEIGHT
        scores = hidden + inputs["offset"].astype("float32") + BIAS
        return {"scores": scores, "hidden": hidden, "image": inputs["image"]}

    @staticmethod
    def assert_same(
        found: Mapping[str, NDArray[Any]], expected: Mapping[str, NDArray[Any]]
    ) -> None:
        assert list(found) == list(expected)
        for name, array in expected.items():
            np.testing.assert_allclose(found[name], array, rtol=1e-6, strict=True)


@pytest.fixture(scope="session")
def build_half() -> Callable[..., Half]:
    return write_half


@pytest.fixture(scope="session")
def toy(tmp_path_factory: pytest.TempPathFactory) -> Toy:
    params = {"weight": WEIGHT, "bias": BIAS}
    return Toy(write_half(tmp_path_factory.mktemp("toy"), toy_module(), SEGMENTS, params))


@pytest.fixture(scope="session")
def toy_executor(toy: Toy) -> Executor:
    return toy.half.executor()


@pytest.fixture(scope="session")
def toy_server(toy_executor: Executor) -> Iterator[InferenceServer]:
    server = InferenceServer(MODEL, toy_executor, "127.0.0.1", 0).start()
    yield server
    server.stop()


@pytest.fixture
def toy_client(toy_executor: Executor, toy_server: InferenceServer) -> Iterator[Client]:
    connected = Client(MODEL, toy_executor).connect(f"127.0.0.1:{toy_server.port}")
    yield connected
    connected.close()


_PROGRAM = """
import sys
from pathlib import Path
from .runtime.{side} import main
from .runtime.spec import *

status = main({model!r}, {artifact!r}, Path({directory!r}))
assert not {{"tvm", "partc", "google.protobuf"}} & sys.modules.keys()
sys.exit(status)
"""


@pytest.fixture(scope="session")
def deployed(toy: Toy, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with a package ``half``: a copy of the runtime and a program for each side."""
    root = tmp_path_factory.mktemp("deployed")
    package = root / "half"
    shutil.copytree(Path(client.__file__).parent, package / "runtime")
    for side in ("client", "server"):
        text = _PROGRAM.format(
            side=side, model=MODEL, artifact=toy.half.artifact, directory=str(toy.half.directory)
        )
        (package / f"{side}.py").write_text(text)
    return root


@pytest.fixture
def help_of(
    toy: Toy, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> Callable[..., str]:
    """What a half's program prints when it is asked for help, on its own or by partc."""

    def help_of(main: Callable[..., int], argv: list[str] | None) -> str:
        monkeypatch.setattr(sys, "argv", ["__main__.py", "-h"])
        with pytest.raises(SystemExit):
            main(toy.model, toy.half.artifact, toy.half.directory, argv)
        return capsys.readouterr().out

    return help_of
