from __future__ import annotations

import io
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from msgspec import structs
from PIL import Image
from tiny import INPUT, SHAPE, run_reference

import partc
from partc import compiler
from partc.bundle import Bundle, open_bundle
from partc.compiler import compile_model, lower_model, plan_model
from partc.errors import BundleError, CompilerError, PartcError, TargetError, VerificationError
from partc.frontends.load import Inputs
from partc.goal import Goal, make_goal
from partc.manifest import hash_files
from partc.passes.encode import Measured
from partc.plan import Objective, Side
from partc.planner import decide, predict_costs
from partc.targets.encodings import decode_ms, encode_ms
from partc.targets.target import Target


@pytest.fixture
def goal() -> Goal:
    return make_goal("native", "native")


def slow_to_enter(target: Target, entry_ms: float) -> Target:
    return structs.replace(target, entry_ms=entry_ms)


def refuse_work(step: str) -> None:
    pytest.fail(f"began with {step!r} before the output was checked")


class TestDecide:
    def test_one_decision_for_each_link(self, tiny_model: Path) -> None:
        goal = make_goal("jetson-tx2", link=["ethernet", "lte"])
        first, second = plan_model(tiny_model, goal)
        assert (first.link, second.link) == ("ethernet", "lte")
        assert first.conditions == goal.links[0].conditions
        assert first.power.upload_watts < second.power.upload_watts

    def test_costs_are_those_of_the_targets(self, tiny_model: Path) -> None:
        graph = lower_model(tiny_model)
        goal = make_goal("jetson-nano", "x86-64-v4")
        (decision,) = decide(predict_costs(graph, goal), goal)
        assert decision.device_only.device_ms > decision.server_only.server_ms > 0
        assert decision.objective is Objective.LATENCY

    def test_machines_that_have_waited_take_longer(self, tiny_model: Path) -> None:
        goal = make_goal("native", "native", pins={"stem": "device", "head": "server"})
        device = structs.replace(goal.target, entry_ms=2, cold_share=0.5)
        server = structs.replace(goal.server, entry_ms=3, cold_share=1)
        (hot,) = plan_model(tiny_model, goal)
        (cold,) = plan_model(tiny_model, replace(goal, target=device, server=server))
        for made, free in (
            (cold.plan, hot.plan),
            (cold.device_only, hot.device_only),
            (cold.server_only, hot.server_only),
        ):
            computes, asks = bool(free.device_layers), bool(free.server_layers)
            assert made.device_ms == pytest.approx(2 * computes + 1.5 * free.device_ms)
            assert made.server_ms == pytest.approx(3 * asks + 2 * free.server_ms)
            assert made.device_mj == pytest.approx(made.device_ms * device.busy_watts)

    def test_entering_a_side_may_not_be_worth_it(self, tiny_model: Path) -> None:
        goal = make_goal("native", pins={"head": "server"})
        (split,) = plan_model(tiny_model, replace(goal, target=slow_to_enter(goal.target, 0)))
        (alone,) = plan_model(tiny_model, replace(goal, target=slow_to_enter(goal.target, 1000)))
        assert (split.plan.device_layers, alone.plan.device_layers) == (("stem",), ())

    def test_pins_hold(self, tiny_model: Path) -> None:
        goal = make_goal("native", pins={"stem": "device", "head": "server"})
        (decision,) = plan_model(tiny_model, goal)
        assert (decision.plan.device_layers, decision.plan.server_layers) == (("stem",), ("head",))

    def test_a_target_that_cannot_be_compiled_for_can_be_planned_for(
        self, tiny_model: Path
    ) -> None:
        plan_model(tiny_model, make_goal("jetson-tk1"))


def test_costs_of_a_bundles_plans_are_those_of_the_decision(
    tiny_model: Path, tmp_path: Path
) -> None:
    goal = make_goal("native", "native")
    goal = replace(goal, target=slow_to_enter(goal.target, 7), server=slow_to_enter(goal.server, 5))
    (decision,) = compile_model(tiny_model, goal, tmp_path / "out")
    server_only, device_only, *_ = open_bundle(tmp_path / "out").manifest.plans
    assert (server_only.device_ms, device_only.server_ms) == (0, 0)
    assert server_only.server_ms == decision.server_only.server_ms > 5
    assert device_only.device_ms == decision.device_only.device_ms > 7


def test_progress_names_every_step(tiny_model: Path, tmp_path: Path, goal: Goal) -> None:
    steps: list[str] = []
    compile_model(tiny_model, goal, tmp_path / "out", progress=steps.append)
    assert steps == [
        "Importing the model",
        "Planning 2 layers",
        "Compiling the device's half for native",
        "Compiling the server's half for native",
        "Verifying 2 plans against the source model",
    ]


def test_what_crosses_is_encoded_where_that_is_better(tiny_model: Path, tmp_path: Path) -> None:
    goal = make_goal("native", "native", split=True, uplink_mbps=0.01, max_error=0.5)
    steps: list[str] = []
    (decision,) = compile_model(tiny_model, goal, tmp_path / "out", progress=steps.append)
    assert "No --calibration: sizes and deviations are those of random inputs" in steps
    (encoding,) = decision.plan.encodings
    assert not encoding.name.startswith("plain")
    assert encoding.nbytes < decision.plan.upload[0].nbytes / 2
    assert 0 < encoding.deviation <= 0.5
    manifest = open_bundle(tmp_path / "out").manifest
    (sent,) = manifest.plans[-1].upload
    assert (sent.encoding, sent.nbytes) == (encoding.name, encoding.nbytes)
    assert manifest.constraints.max_error == 0.5


@pytest.fixture
def claimed(monkeypatch: pytest.MonkeyPatch) -> list[Measured]:
    """What is said to have been measured of the tensor between the layers."""
    found: list[Measured] = []
    monkeypatch.setattr(compiler, "measure_encodings", lambda *_: {"act": found})
    return found


def test_each_machine_is_charged_for_its_own_work(
    tiny_model: Path, claimed: list[Measured]
) -> None:
    goal = make_goal("native", "native", max_error=0.2, input_nbytes={INPUT: 200})
    goal = replace(goal, target=structs.replace(goal.target, codec_slowdown=10.0))
    claimed += [Measured("float16", 72, 0.1), Measured("uint8", 60, 0.3)]
    inputs = Inputs(preprocess={INPUT: "signed"})
    _, graph = compiler.prepare_model(tiny_model, goal, inputs, lambda _: None)
    (file,) = graph.encodings[INPUT]
    assert file.decode_ms == decode_ms("image", 192, 200, goal.server)
    _, half = graph.encodings["act"]
    assert half.encode_ms == encode_ms("float16", 144, 72, goal.target)
    assert half.decode_ms == decode_ms("float16", 144, 72, goal.server)


def test_what_was_measured_wrongly_is_not_written(
    tiny_model: Path, tmp_path: Path, claimed: list[Measured]
) -> None:
    claimed += [Measured("uint8", 10, 0.0)]
    goal = make_goal("native", "native", split=True, uplink_mbps=0.01, max_error=1e-5)
    with pytest.raises(VerificationError, match=r"--max-error 1e-05 is not kept: .* 'act' as u"):
        compile_model(tiny_model, goal, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_without_loss_only_compression_is_tried(tiny_model: Path, tmp_path: Path) -> None:
    zeros = tmp_path / "zeros.npz"
    np.savez(zeros, allow_pickle=False, **{INPUT: np.zeros(SHAPE, "float32")})
    goal = make_goal("native", "native", split=False, pins={"*": "server"}, max_error=0)
    slow = replace(goal, network=(("uplink_mbps", (0.01, 0.01)),))
    steps: list[str] = []
    (decision,) = plan_model(tiny_model, slow, Inputs(calibration=zeros), steps.append)
    assert not any("random" in step for step in steps)
    (encoding,) = decision.plan.encodings
    assert encoding.name in ("plain+lz4", "plain+zstd")
    assert encoding.nbytes < 100  # the input is 768 bytes of zeros
    assert encoding.deviation == 0


def test_an_input_may_come_as_an_image_file(tiny_model: Path, tmp_path: Path) -> None:
    goal = make_goal("native", "native", input_nbytes={INPUT: 200})
    inputs = Inputs(preprocess={INPUT: "signed"})
    compile_model(tiny_model, goal, tmp_path / "out", inputs)
    bundle = open_bundle(tmp_path / "out")
    assert bundle.manifest.preprocess == {INPUT: "signed"}
    server_only, *_ = bundle.manifest.plans
    assert [(sent.encoding, sent.nbytes) for sent in server_only.upload] == [("image", 200)]
    pixels = np.random.default_rng(0).integers(0, 255, (1, 8, 8, 3), np.uint8, endpoint=True)
    file = io.BytesIO()
    Image.fromarray(pixels[0]).save(file, "PNG")
    (found,) = partc.load(bundle.path / "device")(x_0=file.getvalue(), plan="device-only")
    given = {INPUT: (pixels.transpose(0, 3, 1, 2) / 127.5 - 1).astype("float32")}
    np.testing.assert_allclose(found, run_reference(tiny_model, given), rtol=1e-4, atol=1e-5)


def test_every_link_has_its_plan_and_the_first_is_the_default(
    tiny_model: Path, tmp_path: Path
) -> None:
    goal = make_goal("native", "native", link=["wifi", "ethernet"])
    compile_model(tiny_model, goal, tmp_path / "out")
    manifest = open_bundle(tmp_path / "out").manifest
    assert [link.name for link in manifest.links] == ["wifi", "ethernet"]
    assert manifest.default_plan == manifest.links[0].plan


@pytest.mark.parametrize("occupied", ["file", "thesis", "missing/out"])
def test_the_output_is_checked_before_any_work(
    tiny_model: Path, tmp_path: Path, goal: Goal, occupied: str
) -> None:
    (tmp_path / "file").touch()
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis" / "thesis.tex").touch()
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(BundleError):
        compile_model(tiny_model, goal, tmp_path / occupied, progress=refuse_work)
    assert sorted(tmp_path.rglob("*")) == before


def test_the_targets_are_checked_before_any_work(tiny_model: Path, tmp_path: Path) -> None:
    for goal in (make_goal("jetson-tk1"), make_goal("native", "tesla-k40")):
        with pytest.raises(TargetError, match=r"cannot compile for (jetson-tk1|tesla-k40)"):
            compile_model(tiny_model, goal, tmp_path / "out", progress=refuse_work)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("step", ["Importing", "Planning", "Compiling the server", "Verifying"])
@pytest.mark.parametrize("error", [KeyboardInterrupt, CompilerError])
def test_an_interruption_leaves_what_was_there(
    tiny_model: Path, tmp_path: Path, goal: Goal, step: str, error: type[BaseException]
) -> None:
    def interrupt(message: str) -> None:
        if message.startswith(step):
            raise error

    place = tmp_path / "out"
    with pytest.raises(error):
        compile_model(tiny_model, goal, place, progress=interrupt)
    assert list(tmp_path.iterdir()) == []


def test_an_old_bundle_survives_a_failure_and_not_a_success(
    tiny_model: Path, tmp_path: Path, goal: Goal
) -> None:
    place = tmp_path / "out"
    compile_model(tiny_model, goal, place)
    before = hash_files(place)
    pinned = replace(goal, constraints=make_goal("native", pins={"stem": "device"}).constraints)

    def interrupt(message: str) -> None:
        if message.startswith("Verifying"):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        compile_model(tiny_model, pinned, place, progress=interrupt)
    assert hash_files(place) == before
    with pytest.raises(PartcError):
        compile_model("missing.onnx", pinned, place)
    assert hash_files(place) == before
    compile_model(tiny_model, pinned, place)
    assert open_bundle(place).manifest.constraints == pinned.constraints
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


_COMPILE = """
import partc
partc.compile({model!r}, target="native", server="native", link=["wifi", "lte"], output={output!r},
    pins={{"stem": "device", "head": "server"}})
"""


def test_two_compilations_give_the_same_bytes(tiny_model: Path, tmp_path: Path) -> None:
    places = [tmp_path / "one", tmp_path / "deeper" / "another-name"]
    places[1].parent.mkdir()
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", _COMPILE.format(model=str(tiny_model), output=str(place))],
            env={**os.environ, "PYTHONHASHSEED": seed},
        )
        for place, seed in zip(places, ("1", "271828"), strict=True)
    ]
    assert [process.wait() for process in processes] == [0, 0]
    one, another = map(hash_files, places)
    assert one == another


def test_a_server_that_cannot_run_here_is_verified_by_a_stand_in(
    tiny_model: Path, tmp_path: Path
) -> None:
    bundle = partc.compile(
        tiny_model, target="raspberry-pi-4", server="native", output=tmp_path / "out"
    )
    assert bundle.manifest.target == "raspberry-pi-4"
    library = (bundle.path / "device" / "model.so").read_bytes()
    assert library[18:20] == b"\xb7\x00", "an ELF file for aarch64"


def test_a_bundle_is_whole(tiny_bundle: Bundle) -> None:
    files = tiny_bundle.manifest.files
    for side, program in (("device", "client.py"), ("server", "server.py")):
        for name in (program, "__init__.py", "__main__.py", "requirements.txt", "model.so"):
            assert f"{side}/{name}" in files
    assert {"report.html", "server/Dockerfile"} <= files.keys()


def test_plans_that_do_not_keep_what_was_asked_are_not_chosen(tiny_bundle: Bundle) -> None:
    model = tiny_bundle.half(Side.DEVICE).Model()
    assert model.choose_plan(1e6, 1e6, 0.0) == "cut-1"
    assert model.choose_plan(1e-6, 1e-6, 1e6) == "cut-1"
