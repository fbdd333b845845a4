from __future__ import annotations

import re
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from partc.errors import PartcError
from partc.frontends.calibration import Calibration, read_calibration
from partc.graph import Tensor, TensorType

IMAGE = Tensor("image", TensorType("float32", (1, 3, 4)))
TOKENS = Tensor("tokens", TensorType("int64", (5,)))
BOTH = (IMAGE, TOKENS)


def save(path: Path, **arrays: Any) -> Path:
    np.savez(path, **arrays)
    return path


def read_samples(given: Calibration, *inputs: Tensor) -> list[dict[str, Any]]:
    return read_calibration(given).samples(inputs)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "samples.npz"


def test_one_sample_of_the_inputs_own_shape(path: Path) -> None:
    image, tokens = np.ones((1, 3, 4), "float32"), np.arange(5)
    (sample,) = read_samples(save(path, image=image, tokens=tokens), IMAGE, TOKENS)
    assert list(sample) == ["image", "tokens"]
    np.testing.assert_array_equal(sample["image"], image)
    np.testing.assert_array_equal(sample["tokens"], tokens)


@given(st.integers(1, 4), st.lists(st.integers(1, 3), max_size=3))
def test_a_leading_axis_is_that_of_the_samples(
    tmp_path_factory: pytest.TempPathFactory, count: int, shape: list[int]
) -> None:
    """Whatever the extents are: an axis of one may be the input's own."""
    path = tmp_path_factory.mktemp("samples") / "samples.npz"
    x = np.random.default_rng(0).standard_normal((count, *shape))
    tensor = Tensor("x", TensorType("float64", tuple(shape)))
    samples = read_samples(save(path, x=x), tensor)
    np.testing.assert_array_equal([sample["x"] for sample in samples], x)


@given(st.integers(1, 4), st.lists(st.integers(1, 3), max_size=3))
def test_a_first_extent_of_one_may_be_that_of_the_samples(count: int, shape: list[int]) -> None:
    x = np.random.default_rng(0).standard_normal((count, *shape))
    samples = read_samples({"x": x}, Tensor("x", TensorType("float64", (1, *shape))))
    assert [sample["x"].shape for sample in samples] == [(1, *shape)] * count
    np.testing.assert_array_equal([sample["x"][0] for sample in samples], x)


def test_a_first_extent_of_more_than_one_is_no_axis_of_samples() -> None:
    with pytest.raises(PartcError, match=r"is float32\[4, 5\], expected float32\[N, 2, 5\] for N"):
        read_samples({"x": np.zeros((4, 5), "f")}, Tensor("x", TensorType("float32", (2, 5))))


def test_a_number_has_no_axis_of_samples() -> None:
    with pytest.raises(
        PartcError, match=r"is float32\[\], expected float32\[N\] for N samples; give"
    ):
        read_samples({"x": np.float32(1)}, Tensor("x", TensorType("float32", (1,))))
    (sample,) = read_samples({"x": np.float32(1)}, Tensor("x", TensorType("float32", ())))
    assert sample["x"].shape == ()


def test_arrays_may_be_given_by_name() -> None:
    images = torch.arange(24, dtype=torch.float32).reshape(2, 3, 4)
    first, second = read_samples({"image": images, "tokens": np.zeros((2, 5), "int64")}, *BOTH)
    np.testing.assert_array_equal(first["image"], images[:1].numpy())
    np.testing.assert_array_equal(second["image"], images[1:].numpy())


def test_samples_of_all_inputs_belong_together(path: Path) -> None:
    image, tokens = np.zeros((2, 1, 3, 4), "float32"), np.arange(10).reshape(2, 5)
    image[1] = 1
    first, second = read_samples(save(path, image=image, tokens=tokens), *BOTH)
    assert (first["image"].max(), first["tokens"][0]) == (0, 0)
    assert (second["image"].min(), second["tokens"][0]) == (1, 5)


IMAGE_ARRAY = np.zeros((1, 3, 4), "float32")


@pytest.mark.parametrize(
    ("arrays", "problem"),
    [
        ({}, r"holds arrays none, expected one for each input of the model: 'image', 'tokens'$"),
        ({"image": IMAGE_ARRAY}, r"holds arrays 'image', expected one for each input"),
        (
            {"image": IMAGE_ARRAY, "tokens": np.arange(5), "label": np.zeros(1)},
            r"holds arrays 'image', 'label', 'tokens', expected one",
        ),
        (
            {"image": IMAGE_ARRAY.astype("float64"), "tokens": np.arange(5)},
            r"^input 'image' in .*npz is float64\[1, 3, 4\], expected float32\[N, 3, 4\] for N "
            r"samples; convert it with \.astype\(np\.float32\)$",
        ),
        (
            {"image": IMAGE_ARRAY[0], "tokens": np.arange(5)},
            r"^input 'image' in .* is float32\[3, 4\], expected float32\[N, 3, 4\] for N samples; "
            r"give it that shape$",
        ),
        (
            {"image": IMAGE_ARRAY.transpose(0, 2, 1).astype("int16"), "tokens": np.arange(5)},
            r"; convert it with \.astype\(np\.float32\) and give it that shape$",
        ),
        (
            {"image": IMAGE_ARRAY[None, None], "tokens": np.arange(5)},
            r"^input 'image' in .* is float32\[1, 1, 1, 3, 4\], expected",
        ),
        (
            {"image": IMAGE_ARRAY, "tokens": np.array(["a"] * 5)},
            r"^input 'tokens' in .* is <U1\[5\], expected int64\[N, 5\] for N samples; "
            r"give it as int64$",
        ),
        (
            {"image": IMAGE_ARRAY, "tokens": np.array([0.1] * 5)},
            r"^input 'tokens' in .* is float64\[5\], .*; give it as int64$",
        ),
        (
            {"image": IMAGE_ARRAY, "tokens": np.zeros((2, 5), "int64")},
            r"holds 1 of 'image', 2 of 'tokens'; give as many samples of every input$",
        ),
        (
            {"image": IMAGE_ARRAY[:0], "tokens": np.zeros((0, 5), "int64")},
            r"holds no sample; give at least one$",
        ),
    ],
)
def test_what_does_not_fit_the_inputs(path: Path, arrays: dict[str, Any], problem: str) -> None:
    with pytest.raises(PartcError, match=problem) as raised:
        read_samples(save(path, **arrays), *BOTH)
    assert str(path) in str(raised.value)


@pytest.mark.parametrize("number", [np.nan, np.inf, -np.inf])
def test_what_hides_what_encodings_do(path: Path, number: float) -> None:
    images = np.zeros((4, 1, 3, 4), "float32")
    images[2:, 0, 1, 2] = number
    with pytest.raises(PartcError) as raised:
        read_samples(save(path, image=images), IMAGE)
    assert str(raised.value) == (
        f"input 'image' in {path} has NaN or infinite values in sample 3; leave such samples out"
    )


@pytest.mark.parametrize(
    ("given", "problem"),
    [
        (np.zeros((1, 3, 4)), "^calibration is an .npz file, or arrays by input name, not a ndarr"),
        ({"x": [[1], [2, 3]]}, "^calibration is arrays by input name, but 'x' is a list that NumP"),
        ({"x": torch.zeros(2, requires_grad=True)}, "'x' is a Tensor that NumPy cannot read: .*de"),
    ],
)
def test_what_is_neither_a_file_nor_arrays(given: Any, problem: str) -> None:
    with pytest.raises(PartcError, match=problem):
        read_calibration(given)


def test_arrays_are_called_calibration_in_errors() -> None:
    with pytest.raises(PartcError, match=r"^calibration holds arrays 'x', expected one for each"):
        read_samples({"x": IMAGE_ARRAY}, IMAGE)


class Planted:
    """Something that unpickling would run."""

    def __reduce__(self) -> Any:
        return pytest.fail, ("a pickle was loaded",)


def write_pickle(path: Path) -> None:
    np.savez(path, image=np.array([Planted()], object))


def write_text_in_archive(path: Path) -> None:
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("image.npy", "no array")


def write_damaged(path: Path) -> None:
    np.savez_compressed(path, image=np.zeros((100, 1, 3, 4), "float32"))
    content = bytearray(path.read_bytes())
    content[60] ^= 0xFF
    path.write_bytes(content)


def write_bare_array(path: Path) -> None:
    with path.open("wb") as file:
        np.save(file, IMAGE_ARRAY)


@pytest.mark.parametrize(
    "write",
    [
        write_pickle,
        write_text_in_archive,
        write_damaged,
        write_bare_array,
        lambda path: path.write_bytes(b""),
        lambda path: path.write_bytes(b"no archive"),
    ],
)
def test_what_is_no_archive_of_arrays(path: Path, write: Any) -> None:
    write(path)
    message = f"{path} is no .npz archive of arrays without pickles; write it with numpy.savez"
    with pytest.raises(PartcError, match=f"^{re.escape(message)}$"):
        read_calibration(path)


def test_a_file_that_cannot_be_read(path: Path) -> None:
    with pytest.raises(PartcError, match=r"samples\.npz cannot be read: No such file or directory"):
        read_calibration(str(path))


def test_what_was_read_already_stays_as_it_is(path: Path) -> None:
    arrays = read_calibration(save(path, image=IMAGE_ARRAY))
    path.unlink()
    assert read_calibration(arrays) is arrays
