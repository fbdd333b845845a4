from __future__ import annotations

import ast
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny import INPUT, run_reference, tiny_inputs

import partc.runtime
from partc.bundle import Bundle
from partc.codegen.glue import glue_texts, model_spec, write_glue
from partc.graph import Encoding, Layer, LayerCost, LayerGraph, Tensor, TensorType
from partc.passes.segment import build_plan_table
from partc.plan import Cut, Side
from partc.runtime.spec import (
    ArtifactSpec,
    ModelSpec,
    PlanSpec,
    SegmentSpec,
    SentSpec,
    SequenceSpec,
    TensorSpec,
)

IMAGE = TensorSpec("x:0", "float32", (1, 3, 8, 8))
FLAG = TensorSpec("class", "bool", ())
BOXES = TensorSpec("2nd", "int64", (4,))
SPACED = TensorSpec("a b", "uint8", (2, 2))
PLAN = TensorSpec("plan", "float16", (1,))
QUOTED = TensorSpec('it\'s "here"\\', "float64", (0, 3))
ACCENTED = TensorSpec("größe", "int8", (7,))
PHOTO = TensorSpec("photo", "uint8", (1, 9, 8, 3))


def sent(spec: TensorSpec, encoding: str = "plain", nbytes: int = 100) -> SentSpec:
    return SentSpec(spec.name, spec.dtype, spec.shape, encoding, nbytes)


AWKWARD = ModelSpec(
    name="2nd model",
    digest="0123456789abcdef" * 4,
    inputs=(IMAGE, FLAG, SPACED, PLAN, QUOTED, ACCENTED, PHOTO),
    outputs=(BOXES, FLAG, QUOTED, SPACED),
    plans=(
        PlanSpec(
            "server-only",
            0,
            (),
            ("segment_0", "segment_1"),
            (
                *map(sent, (IMAGE, FLAG, SPACED, PLAN, QUOTED, ACCENTED)),
                sent(PHOTO, "image", 152_000),
            ),
            (BOXES, QUOTED),
        ),
        PlanSpec("device-only", 1, ("segment_0", "segment_1"), (), (), ()),
        PlanSpec(
            "cut-1",
            2,
            ("segment_0",),
            ("segment_1",),
            (sent(ACCENTED), sent(QUOTED, "uint8+zstd", 7)),
            (BOXES,),
        ),
    ),
    default_plan="cut-1",
    image_inputs=("photo",),
)
ARTIFACT = ArtifactSpec(
    library="model.so",
    library_sha256="ab" * 32,
    params="params.npz",
    params_sha256="cd" * 32,
    segments=(
        SegmentSpec("segment_0", ("x:0", "class"), ("weight_0",), ('it\'s "here"\\', "größe")),
        SegmentSpec("segment_1", ("größe",), tuple(f"weight_{n}" for n in range(1, 12)), ("2nd",)),
    ),
    device="cuda",
    threads=4,
    sequences=(
        SequenceSpec(
            "sequence_0",
            ("x:0", "class"),
            tuple(f"weight_{n}" for n in range(12)),
            ("2nd",),
            ("segment_0", "segment_1"),
        ),
    ),
)
PROGRAMS = {Side.DEVICE: "client.py", Side.SERVER: "server.py"}
SIDES = list(PROGRAMS)
MAIN_STATEMENTS = "Expr ImportFrom Import ImportFrom Expr".split()


def execute(text: str) -> dict[str, Any]:
    """Run generated code with the installed runtime in the place of the copied one."""
    module = ModuleType("partc.generated")
    module.__dict__.update(__package__="partc", __file__="generated.py")
    exec(compile(text, "generated.py", "exec"), module.__dict__)  # noqa: S102  it is what is tested
    return module.__dict__


@pytest.mark.parametrize(
    ("side", "name"),
    [
        (side, name)
        for side in SIDES
        for name in glue_texts(AWKWARD, ARTIFACT, side)
        if side is Side.SERVER or name == "client.py"
    ],
)
def test_generated_files_are_as_reviewed(
    side: Side, name: str, golden: Callable[[str, str], None]
) -> None:
    golden(f"awkward.{name}.txt", glue_texts(AWKWARD, ARTIFACT, side)[name])


@pytest.mark.parametrize("side", SIDES)
def test_generated_code_is_formatted_and_linted(side: Side, tmp_path: Path) -> None:
    for name, text in glue_texts(AWKWARD, ARTIFACT, side).items():
        (tmp_path / name).write_text(text, encoding="utf-8")
    ruff = [sys.executable, "-m", "ruff"]
    formatted = subprocess.run(
        [*ruff, "format", "--isolated", "--diff", str(tmp_path)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert formatted.returncode == 0, formatted.stdout
    linted = subprocess.run(
        [*ruff, "check", "--isolated", "--select", "E4,E7,E9,F,I,B,UP", str(tmp_path)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert linted.returncode == 0, linted.stdout


@pytest.mark.parametrize("side", SIDES)
def test_executing_a_half_gives_back_its_facts(side: Side) -> None:
    names = execute(glue_texts(AWKWARD, ARTIFACT, side)[PROGRAMS[side]])
    assert (names["MODEL"], names["ARTIFACT"]) == (AWKWARD, ARTIFACT)


def test_the_client_speaks_in_the_tensors_own_names(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[tuple[dict[str, Any], str | None]] = []

    class FakeClient:
        def __init__(self, *_: object) -> None: ...

        def infer(self, inputs: dict[str, Any], plan: str | None) -> dict[str, str]:
            calls.append((inputs, plan))
            return {spec.name: f"made {spec.name}" for spec in AWKWARD.outputs}

    names = execute(glue_texts(AWKWARD, ARTIFACT, Side.DEVICE)["client.py"])
    names.update(Client=FakeClient, Executor=lambda *_: None)
    outputs = names["Model"]()(
        x_0=1, class_=2, a_b=3, plan_=4, it_s__here=5, gr__e=6, photo=7, plan="server-only"
    )
    assert calls == [
        (
            {
                "x:0": 1,
                "class": 2,
                "a b": 3,
                "plan": 4,
                'it\'s "here"\\': 5,
                "größe": 6,
                "photo": 7,
            },
            "server-only",
        )
    ]
    assert outputs.tensor_2nd == "made 2nd"
    assert outputs == ("made 2nd", "made class", 'made it\'s "here"\\', "made a b")


names = (
    st.text()
    | st.text(alphabet="'\"\\\n\r\t{}%#a: ")
    | st.sampled_from(
        [
            '"""\nraise SystemExit\n"""',
            "'''",
            "\\",
            "{{ 7 * 7 }}",
            "{% raw %}",
            "outputs",
            "Outputs",
            "Client",
            "count",
            "np",
            "self",
            "__debug__",
            "_fields",
        ]
    )
)
tensors = st.builds(
    TensorSpec,
    names,
    st.sampled_from(["float32", "bool", "int64"]),
    st.lists(st.integers(0, 9), max_size=3).map(tuple),
)
some_tensors = st.lists(tensors, min_size=1, max_size=3).map(tuple)


@settings(deadline=None)
@given(names, some_tensors, some_tensors, names)
def test_no_name_can_become_code(
    name: str, inputs: tuple[TensorSpec, ...], outputs: tuple[TensorSpec, ...], plan: str
) -> None:
    plans = (PlanSpec(plan, 0, (), ("segment_0",), tuple(map(sent, inputs)), outputs),)
    model = ModelSpec(name, "0" * 64, inputs, outputs, plans, plan, (inputs[0].name,))
    segments = (SegmentSpec("segment_0", tuple(t.name for t in inputs), (name,), (plan,)),)
    artifact = ArtifactSpec("model.so", "1", "params.npz", "2", segments, "cpu", 1)
    for side, program in PROGRAMS.items():
        texts = glue_texts(model, artifact, side)
        made = execute(texts[program])
        assert (made["MODEL"], made["ARTIFACT"]) == (model, artifact)
        assert statements(texts[program]) == statements(
            glue_texts(AWKWARD, ARTIFACT, side)[program]
        )
        assert statements(texts["__init__.py"]) == ["Expr"]
        assert statements(texts["__main__.py"]) == MAIN_STATEMENTS


def statements(text: str) -> list[str]:
    """What kinds of statements a module consists of."""
    return [type(statement).__name__ for statement in ast.parse(text).body]


def test_a_client_without_inputs_can_be_called() -> None:
    model = ModelSpec("m", "0", (), (IMAGE,), AWKWARD.plans, "cut-1")
    ast.parse(glue_texts(model, ARTIFACT, Side.DEVICE)["client.py"])


def test_only_a_gpu_needs_cuda() -> None:
    cpu = ArtifactSpec("m", "1", "p", "2", (), "cpu", 1)
    assert "cudart" not in glue_texts(AWKWARD, cpu, Side.DEVICE)["requirements.txt"]
    assert "cudart" in glue_texts(AWKWARD, ARTIFACT, Side.DEVICE)["requirements.txt"]


def needed(model: ModelSpec, side: Side) -> set[str]:
    lines = glue_texts(model, ARTIFACT, side)["requirements.txt"].splitlines()
    names = {line.partition(">")[0] for line in lines if ">=" in line}
    return names - {"grpcio", "numpy"}


@pytest.mark.parametrize(
    ("encoding", "names"),
    [
        ("plain", set()),
        ("uint8", set()),
        ("plain+lz4", {"lz4"}),
        ("float16+zstd", {"zstandard"}),
        ("image", {"pillow"}),
    ],
)
def test_a_half_requires_what_its_plans_need(encoding: str, names: set[str]) -> None:
    plan = replace(AWKWARD.plans[0], upload=(sent(PHOTO, encoding),))
    model = replace(AWKWARD, plans=(plan, AWKWARD.plans[1]), image_inputs=())
    assert [needed(model, side) for side in SIDES] == [names, names]


def test_a_device_reads_images_whatever_it_sends() -> None:
    model = replace(AWKWARD, plans=AWKWARD.plans[1:2])
    assert [needed(model, side) for side in SIDES] == [{"pillow"}, set()]


def test_a_half_that_sends_nothing_names_no_encoding() -> None:
    alone = replace(AWKWARD, plans=AWKWARD.plans[1:2], default_plan="device-only")
    for side, program in PROGRAMS.items():
        text = glue_texts(alone, ARTIFACT, side)[program]
        assert "SentSpec" not in text
        assert execute(text)["MODEL"] == alone


def test_a_half_holds_the_whole_runtime(tmp_path: Path) -> None:
    write_glue(AWKWARD, ARTIFACT, Side.SERVER, tmp_path)
    for module in Path(partc.runtime.__path__[0]).glob("*.py"):
        assert (tmp_path / "runtime" / module.name).read_bytes() == module.read_bytes()
    assert {path.name for path in tmp_path.iterdir()} == {
        "runtime",
        *glue_texts(AWKWARD, ARTIFACT, Side.SERVER),
    }


def test_the_facts_follow_from_graph_and_plans() -> None:
    x, y = (Tensor(name, TensorType("float32", (2,))) for name in "xy")
    layer = Layer("only", "toy", (x,), (y,), cost=LayerCost(2, 3, 1))
    graph = LayerGraph("toy", (x,), (layer,), (y,))
    table = build_plan_table(graph, [Cut.device_only()])
    spec = model_spec(graph, table, "device-only", [ARTIFACT, ARTIFACT])
    given, made = (TensorSpec(name, "float32", (2,)) for name in "xy")
    assert (spec.inputs, spec.outputs) == ((given,), (made,))
    segments = ("segment_0",)
    upload = (sent(given, "plain", 8),)
    assert spec.plans[0] == PlanSpec("server-only", 0, (), segments, upload, (made,), 0.0, 3.0)
    assert spec.plans[1] == PlanSpec("device-only", 1, segments, (), (), (), 2.0, 0.0)
    assert model_spec(graph, table, "device-only", [ARTIFACT]).digest != spec.digest


def test_halves_that_send_otherwise_are_no_pair() -> None:
    x, y = (Tensor(name, TensorType("float32", (2,))) for name in "xy")
    layer = Layer("only", "toy", (x,), (y,), cost=LayerCost(2, 3, 1))
    ways = (Encoding("plain", 8), Encoding("float16", 4), Encoding("plain+lz4", 6))
    graph = LayerGraph("toy", (x,), (layer,), (y,), {"x": ways})
    cuts = [Cut(frozenset(["only"]), (("x", way.name),)) for way in ways[1:]]
    tables = [build_plan_table(graph, some) for some in ([], cuts, cuts[:1], cuts[::-1])]
    digests = {model_spec(graph, table, "device-only", [ARTIFACT]).digest for table in tables}
    assert len(digests) == len(tables)


def test_the_facts_say_how_tensors_are_sent() -> None:
    photo = Tensor("photo", TensorType("uint8", (1, 2, 2, 3)))
    y = Tensor("y", TensorType("float32", (2,)))
    layer = Layer("only", "toy", (photo,), (y,), cost=LayerCost(2, 3, 1))
    file, small = Encoding("image", 900, 0.0, 2.0), Encoding("plain+lz4", 300, 5.0, 1.0)
    graph = LayerGraph("toy", (photo,), (layer,), (y,), {"photo": (file, small)})
    compressed = Cut(frozenset(["only"]), (("photo", "plain+lz4"),))
    table = build_plan_table(graph, [compressed])
    spec = model_spec(graph, table, "device-only", [])
    assert spec.image_inputs == ("photo",)
    assert {(plan.upload, plan.device_ms, plan.server_ms) for plan in spec.plans} == {
        ((SentSpec("photo", "uint8", (1, 2, 2, 3), "image", 900),), 0.0, 5.0),
        ((), 2.0, 0.0),
        ((SentSpec("photo", "uint8", (1, 2, 2, 3), "plain+lz4", 300),), 5.0, 4.0),
    }


_DEPLOYED = """
import sys
import numpy as np
from device.client import Model

model = Model()
assert model.choose_plan(uplink_mbps=8, downlink_mbps=8, round_trip_ms=1) == "cut-1"
outputs = model(x_0=np.load("input.npy"), plan="device-only")
np.save("output.npy", outputs.class_)
assert not {"tvm", "partc", "onnx"} & sys.modules.keys()
"""


def test_a_half_alone_computes_what_the_source_does(
    tiny_bundle: Bundle, tiny_model: Path, tmp_path: Path
) -> None:
    shutil.copytree(tiny_bundle.path / "device", tmp_path / "device")
    inputs = tiny_inputs()
    np.save(tmp_path / "input.npy", inputs[INPUT])
    subprocess.run([sys.executable, "-c", _DEPLOYED], cwd=tmp_path, check=True)
    np.testing.assert_allclose(
        np.load(tmp_path / "output.npy"), run_reference(tiny_model, inputs), rtol=1e-4, atol=1e-5
    )
