from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import msgspec
import pytest

from partc.errors import TargetError
from partc.graph import Layer, Tensor, TensorType
from partc.targets.features import describe
from partc.targets.predictor import Predictor, Roofline, predictor_for
from partc.targets.profile import SCHEMA_VERSION, Measured, Profile, Sample, load_profile
from partc.targets.regression import Regression
from partc.targets.target import Target, load_target, write_target

BOARD = Target(
    name="board",
    description="Round numbers",
    sources={"peak_gflops": "assumed"},
    tvm={"kind": "llvm", "mattr": ["+neon"], "num-cores": 2},
    peak_gflops=20,
    memory_bandwidth_gb_s=4,
    launch_overhead_us=0,
    memory_gb=1,
    idle_watts=1,
    busy_watts=2,
    threads=2,
)


def softmax(rows: int, width: int) -> Layer:
    shape = TensorType("float32", (rows, width))
    return Layer(
        "softmax",
        "softmax",
        (Tensor("x", shape),),
        (Tensor("y", shape),),
        ("softmax",),
        flops=16 * rows * width,
        parameters={"run": 1},
    )


def resize(extent: int) -> Layer:
    """Of a family that was not measured."""
    shape = TensorType("float32", (1, 3, extent, extent))
    tensors = (Tensor("x", shape),), (Tensor("y", shape),)
    return Layer("resize", "resize2d", *tensors, ("resize2d",), parameters={"linear": 2})


def measured_ms(layer: Layer) -> float:
    """Far from what the board's roofline would say."""
    return 1e-4 * layer.flops + 1


LAYERS = [softmax(rows, width) for rows in (10, 30, 100, 300) for width in (20, 70, 250)]


def samples() -> tuple[Sample, ...]:
    """Each layer in a network of its own."""
    return tuple(
        Sample(number, describe([layer])[0], measured_ms(layer), 0.01)
        for number, layer in enumerate(LAYERS)
    )


@pytest.fixture(scope="module")
def profile() -> Profile:
    measured = samples()
    workloads = [sample.workload for sample in measured]
    fits = Regression(workloads, [sample.latency_ms for sample in measured], {}).fits
    return Profile("board", BOARD.tvm, 2, "A processor", measured, fits, (10.0, 10.2))


@pytest.fixture
def described(profile: Profile, tmp_path: Path) -> Path:
    """A target's file with its profile beside it."""
    (tmp_path / "board.profile.json").write_bytes(msgspec.json.encode(profile))
    path = tmp_path / "board.toml"
    write_target(msgspec.structs.replace(BOARD, profile="board.profile.json"), path)
    return path


def predicted_ms(predictor: Predictor, layer: Layer) -> float:
    (prediction,) = predictor.predict([layer])
    assert prediction
    return prediction.latency_ms


# Files -------------------------------------------------------------------------------------------


def test_round_trip(profile: Profile, tmp_path: Path):
    path = tmp_path / "profile.json"
    path.write_bytes(msgspec.json.encode(profile))
    assert load_profile(path) == profile


def test_a_profile_that_was_read_predicts_the_same(profile: Profile, described: Path):
    """Bit for bit: what is searched for is in the file."""
    read = Measured(BOARD, load_profile(described.with_name("board.profile.json")))
    fresh = Measured(BOARD, profile)
    for layer in (softmax(50, 50), resize(40)):
        assert read.predict([layer]) == fresh.predict([layer])


def test_a_file_that_is_not_there(tmp_path: Path):
    path = tmp_path / "none.json"
    with pytest.raises(TargetError) as caught:
        load_profile(path)
    assert str(caught.value) == f"the profile {path} cannot be read: No such file or directory"


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        (b"", "Input data was truncated"),
        (b"a profile", "JSON is malformed: invalid character (byte 0)"),
        (b"[]", "Expected `object`, got `array`"),
        (b"{}", "Object missing required field `schema_version`"),
        (
            b'{"schema_version": %d, "target": 7}' % SCHEMA_VERSION,
            "Expected `str`, got `int` - at `$.target`",
        ),
        (b"\xff", "JSON is malformed: invalid character (byte 0)"),
    ],
)
def test_a_file_that_is_no_profile(text: bytes, problem: str, tmp_path: Path):
    path = tmp_path / "profile.json"
    path.write_bytes(text)
    with pytest.raises(TargetError) as caught:
        load_profile(path)
    assert str(caught.value) == f"{path} is no profile: {problem}; `partc profile` writes them"


def test_a_field_that_no_profile_has(profile: Profile, tmp_path: Path):
    path = tmp_path / "profile.json"
    path.write_bytes(msgspec.json.encode(msgspec.to_builtins(profile) | {"colour": "red"}))
    with pytest.raises(TargetError, match="contains unknown field `colour`"):
        load_profile(path)


@pytest.mark.parametrize(
    ("broken", "problem"),
    [
        ({"latency_ms": 0}, "Expected `float` > 0.0 - at `$.samples[0].latency_ms`"),
        ({"latency_ms": -1.5}, "Expected `float` > 0.0 - at `$.samples[0].latency_ms`"),
        ({"spread": -0.1}, "Expected `float` >= 0.0 - at `$.samples[0].spread`"),
        (
            {"workload": {"kind": "a", "family": "b", "features": {"read": 1e9}}},
            "Expected `float` <= 100.0 - at `$.samples[0].workload.features[...]`",
        ),
    ],
)
def test_a_sample_that_cannot_be(
    profile: Profile, tmp_path: Path, broken: dict[str, object], problem: str
):
    path = tmp_path / "profile.json"
    fields = msgspec.json.decode(msgspec.json.encode(profile))
    fields["samples"][0] |= broken
    path.write_bytes(msgspec.json.encode(fields))
    with pytest.raises(TargetError) as caught:
        load_profile(path)
    assert str(caught.value) == f"{path} is no profile: {problem}; `partc profile` writes them"


def test_a_time_without_end(profile: Profile, tmp_path: Path):
    path = tmp_path / "profile.json"
    text = msgspec.json.encode(profile)
    path.write_bytes(text.replace(b'"references_ms":[10.0', b'"references_ms":[1e999'))
    with pytest.raises(TargetError, match=r"no profile: Number out of range - at `\$\.references_"):
        load_profile(path)


def test_a_profile_of_another_version(profile: Profile, tmp_path: Path):
    path = tmp_path / "profile.json"
    later = msgspec.structs.replace(profile, schema_version=SCHEMA_VERSION + 1)
    path.write_bytes(msgspec.json.encode(later))
    with pytest.raises(TargetError) as caught:
        load_profile(path)
    assert str(caught.value) == (
        f"{path} is a profile of version {SCHEMA_VERSION + 1}, and this partc reads version "
        f"{SCHEMA_VERSION}; profile the machine again"
    )


def test_a_later_version_with_other_fields_is_told_as_such(tmp_path: Path):
    """Another version may well have other fields; that is not what its reader has to know."""
    path = tmp_path / "profile.json"
    path.write_text(f'{{"schema_version": {SCHEMA_VERSION + 1}, "machines": []}}')
    with pytest.raises(TargetError, match=f"is a profile of version {SCHEMA_VERSION + 1}, and"):
        load_profile(path)


@pytest.mark.parametrize(
    ("references_ms", "drift"), [((), 0), ((2.0,), 0), ((2.0, 3.0, 2.5), 0.5), ((4.0, 2.0), 1)]
)
def test_drift_is_between_the_best_and_the_worst_round(
    profile: Profile, references_ms: tuple[float, ...], drift: float
):
    changed = msgspec.structs.replace(profile, references_ms=references_ms)
    assert changed.drift == pytest.approx(drift)


# Predictions -------------------------------------------------------------------------------------


def test_measurements_go_before_the_roofline(profile: Profile):
    predictor = Measured(BOARD, profile)
    layer = softmax(50, 50)
    (prediction,) = predictor.predict([layer])
    assert prediction.latency_ms == pytest.approx(measured_ms(layer), rel=0.1)
    assert not prediction.extrapolated
    assert prediction.latency_ms > 10 * predicted_ms(Roofline(BOARD), layer)


def test_the_roofline_stands_in_for_what_was_not_measured(profile: Profile):
    layers = [resize(100), softmax(50, 50), resize(30)]
    found = Measured(BOARD, profile).predict(layers)
    bounds = Roofline(BOARD).predict(layers)
    assert [found[0], found[2]] == [
        replace(bounds[0], extrapolated=True),
        replace(bounds[2], extrapolated=True),
    ]
    assert not bounds[0].extrapolated


def test_an_empty_profile_leaves_the_roofline():
    nothing = Profile("board", BOARD.tvm, 2, "A processor", (), {}, ())
    layers = [softmax(50, 50), resize(100)]
    assert Measured(BOARD, nothing).predict(layers) == [
        replace(bound, extrapolated=True) for bound in Roofline(BOARD).predict(layers)
    ]


# Targets with profiles ---------------------------------------------------------------------------


def test_a_target_is_written_as_it_is_read(tmp_path: Path):
    path = tmp_path / "board.toml"
    write_target(BOARD, path)
    assert load_target(str(path)) == BOARD
    assert "uncompilable" not in path.read_text()


def test_a_target_that_cannot_be_written(tmp_path: Path):
    path = tmp_path / "nowhere" / "board.toml"
    with pytest.raises(TargetError) as caught:
        write_target(BOARD, path)
    assert str(caught.value) == f"{path} cannot be written: No such file or directory"


def test_a_profile_is_found_from_the_targets_file(described: Path):
    beside = str(described.with_name("board.profile.json"))
    assert load_target(str(described)).profile == beside
    here = os.path.relpath(described)
    target = load_target(here)
    assert target.profile == os.path.relpath(beside)
    assert isinstance(predictor_for(target), Measured)


def test_a_profile_may_be_anywhere(described: Path, tmp_path: Path):
    path = tmp_path / "other.toml"
    elsewhere = str(tmp_path / "profiles" / "a.json")
    write_target(msgspec.structs.replace(BOARD, profile=elsewhere), path)
    assert load_target(str(path)).profile == elsewhere


def test_a_profiled_target_is_predicted_by_its_profile(described: Path, profile: Profile):
    predictor = predictor_for(load_target(str(described)))
    layer = softmax(50, 50)
    assert predictor.predict([layer]) == Measured(BOARD, profile).predict([layer])


def test_a_target_without_a_profile_is_predicted_by_its_roofline():
    assert predictor_for(BOARD) == Roofline(BOARD)


def test_a_profile_that_is_gone_is_named(described: Path):
    profile = described.with_name("board.profile.json")
    profile.unlink()
    with pytest.raises(TargetError, match=r"board\.profile\.json cannot be read: No such file"):
        predictor_for(load_target(str(described)))
