from __future__ import annotations

import re
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from partc.errors import PartcError
from partc.frontends.calibration import load_calibration
from partc.graph import Tensor, TensorType

IMAGE = Tensor("image", TensorType("float32", (1, 3, 4)))
TOKENS = Tensor("tokens", TensorType("int64", (5,)))


def save(path: Path, **arrays: Any) -> Path:
    np.savez(path, **arrays)
    return path


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "samples.npz"


def test_one_sample_of_the_inputs_own_shape(path: Path) -> None:
    image, tokens = np.ones((1, 3, 4), "float32"), np.arange(5)
    (sample,) = load_calibration(save(path, image=image, tokens=tokens), [IMAGE, TOKENS])
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
    inputs = [Tensor("x", TensorType("float64", tuple(shape)))]
    samples = load_calibration(save(path, x=x), inputs)
    np.testing.assert_array_equal([sample["x"] for sample in samples], x)


def test_samples_of_all_inputs_belong_together(path: Path) -> None:
    image, tokens = np.zeros((2, 1, 3, 4), "float32"), np.arange(10).reshape(2, 5)
    image[1] = 1
    first, second = load_calibration(save(path, image=image, tokens=tokens), [IMAGE, TOKENS])
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
            r"^input 'image' in .*npz is float64\[1, 3, 4\], expected float32\[1, 3, 4\] or that "
            r"with one more leading axis, the samples$",
        ),
        (
            {"image": IMAGE_ARRAY[0], "tokens": np.arange(5)},
            r"^input 'image' in .* is float32\[3, 4\], expected",
        ),
        (
            {"image": IMAGE_ARRAY[None, None], "tokens": np.arange(5)},
            r"^input 'image' in .* is float32\[1, 1, 1, 3, 4\], expected",
        ),
        (
            {"image": IMAGE_ARRAY, "tokens": np.array(["a"] * 5)},
            r"^input 'tokens' in .* is <U1\[5\], expected int64\[5\] or",
        ),
        (
            {"image": IMAGE_ARRAY, "tokens": np.zeros((2, 5), "int64")},
            r"holds 1 of 'image', 2 of 'tokens'; give as many samples of every input$",
        ),
        (
            {"image": IMAGE_ARRAY[:0].reshape(0, 1, 3, 4), "tokens": np.zeros((0, 5), "int64")},
            r"holds no sample; give at least one$",
        ),
    ],
)
def test_what_does_not_fit_the_inputs(path: Path, arrays: dict[str, Any], problem: str) -> None:
    with pytest.raises(PartcError, match=problem) as raised:
        load_calibration(save(path, **arrays), [IMAGE, TOKENS])
    assert str(path) in str(raised.value)


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
        load_calibration(path, [IMAGE])


def test_a_file_that_cannot_be_read(path: Path) -> None:
    with pytest.raises(PartcError, match=r"samples\.npz cannot be read: No such file or directory"):
        load_calibration(path, [IMAGE])
