from __future__ import annotations

import importlib
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
from tiny import INPUT, PLANS, run_reference, tiny_inputs

import partc
from partc.bundle import Bundle, load, open_bundle
from partc.errors import BundleError
from partc.plan import Side


@pytest.fixture
def copy(tiny_bundle: Bundle, tmp_path: Path) -> Path:
    return shutil.copytree(tiny_bundle.path, tmp_path / "copy")


def test_a_loaded_client_computes_what_the_source_does(
    tiny_bundle: Bundle, tiny_model: Path
) -> None:
    inputs = tiny_inputs()
    outputs = partc.load(tiny_bundle.path)(x_0=inputs[INPUT], plan="device-only")
    expected = run_reference(tiny_model, inputs)
    np.testing.assert_allclose(outputs.class_, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("side", list(Side))
def test_a_half_has_the_models_plans(tiny_bundle: Bundle, side: Side) -> None:
    assert tuple(plan.name for plan in tiny_bundle.half(side).MODEL.plans) == PLANS


def test_one_half_stands_for_the_bundle(tiny_bundle: Bundle) -> None:
    for name in ("device", "server"):
        assert open_bundle(str(tiny_bundle.path / name)) == tiny_bundle


def test_a_half_is_imported_once(tiny_bundle: Bundle) -> None:
    again = open_bundle(tiny_bundle.path)
    assert again.half(Side.DEVICE) is tiny_bundle.half(Side.DEVICE)


def test_another_bundles_half_is_another_module(tiny_bundle: Bundle, copy: Path) -> None:
    ours = tiny_bundle.half(Side.DEVICE)
    theirs = open_bundle(copy).half(Side.DEVICE)
    assert theirs is not ours
    assert Path(str(theirs.__file__)).is_relative_to(copy)


def test_the_same_code_with_other_weights_is_another_module(
    tiny_bundle: Bundle, tiny_model: Path, tmp_path: Path
) -> None:
    """model.so of two trainings of one network is the same file."""
    import onnx
    from onnx import numpy_helper

    place = tmp_path / "out"
    shutil.copytree(tiny_bundle.path, place)
    inputs = tiny_inputs()[INPUT]
    before = load(place)(x_0=inputs, plan="device-only").class_
    model = onnx.load(tiny_model)
    weights = model.graph.initializer[1]
    weights.CopyFrom(numpy_helper.from_array(2 * numpy_helper.to_array(weights), weights.name))
    onnx.save(model, tmp_path / "tiny.onnx")
    shutil.rmtree(place / "device" / "__pycache__", ignore_errors=True)
    partc.compile(
        tmp_path / "tiny.onnx",
        target="native",
        server="native",
        pins={"stem": "device", "head": "server"},
        output=place,
    )
    old, new = tiny_bundle.manifest.files, open_bundle(place).manifest.files
    assert new["device/model.so"] == old["device/model.so"]
    after = load(place)(x_0=inputs, plan="device-only").class_
    np.testing.assert_allclose(after, 2 * before, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("tampered", ["device/client.py", "device/runtime/client.py"])
def test_nothing_of_a_tampered_bundle_is_imported(copy: Path, tampered: str) -> None:
    (copy / tampered).write_text("raise SystemExit('imported')")
    before = set(sys.modules)
    with pytest.raises(BundleError, match="has changed since the bundle was written"):
        partc.load(copy)
    assert not [name for name in set(sys.modules) - before if name.startswith("partc_")]


def test_a_half_refuses_a_library_that_changed_after_the_bundle_was_checked(copy: Path) -> None:
    client = open_bundle(copy).half(Side.DEVICE)
    errors = importlib.import_module(f"{client.__package__}.runtime.errors")
    (copy / "device" / "model.so").write_bytes(b"\x7fELF")
    with pytest.raises(errors.IntegrityError, match=r"model\.so has changed since the bundle"):
        client.Model()


def test_a_half_computes_with_as_many_threads_as_it_is_told(tiny_bundle: Bundle) -> None:
    client = tiny_bundle.half(Side.DEVICE)
    one, two = (
        client.Model(threads=threads)(x_0=tiny_inputs()[INPUT], plan="device-only")
        for threads in (1, 2)
    )
    np.testing.assert_array_equal(one, two)
    errors = importlib.import_module(f"{client.__package__}.runtime.errors")
    with pytest.raises(errors.InputError, match="the number of threads is -1"):
        client.Model(threads=-1)


def test_a_directory_that_is_no_bundle_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BundleError, match="is no bundle"):
        partc.load(tmp_path / "nowhere")
