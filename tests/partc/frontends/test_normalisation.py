from __future__ import annotations

from typing import Any

import pytest

from partc.errors import PartcError
from partc.frontends.normalisation import Normalisation, parse_preprocessing

IMAGENET = Normalisation((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
UNIT = Normalisation((0.0,), (1.0,))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("imagenet", IMAGENET),
        ("unit", UNIT),
        ("signed", Normalisation((0.5,), (0.5,))),
        ("0.485,0.456,0.406/0.229,0.224,0.225", IMAGENET),
        ("0.1307/0.3081", Normalisation((0.1307,), (0.3081,))),
        ("0.1, 0.2, 0.3 / 1", Normalisation((0.1, 0.2, 0.3), (1.0,))),
    ],
)
def test_what_is_accepted(text: str, expected: Normalisation) -> None:
    assert parse_preprocessing({"y": "unit", "x": text}) == {"y": UNIT, "x": expected}


@pytest.mark.parametrize("text", ["", "Unit", "0.5", "a/b", "0.5/", "0.5/1/1", "y=unit"])
def test_what_is_not(text: str) -> None:
    with pytest.raises(PartcError) as caught:
        parse_preprocessing({"x": text})
    assert str(caught.value) == (
        "--preprocess is INPUT=imagenet|unit|signed, or INPUT=MEAN,…/STD,… of pixels from 0 "
        f"to 1, such as image=0.485,0.456,0.406/0.229,0.224,0.225, not 'x={text}'"
    )


@pytest.mark.parametrize("value", [None, 0.5, ((0.5,), (0.5,)), Normalisation((0.5,), (0.5,))])
def test_what_is_no_text(value: Any) -> None:
    with pytest.raises(PartcError) as caught:
        parse_preprocessing({"x": value})
    assert str(caught.value) == (
        "preprocess['x'] is a text such as 'imagenet' or "
        f"'0.485,0.456,0.406/0.229,0.224,0.225', not {value!r}"
    )


@pytest.mark.parametrize("given", ["imagenet", ["x"], None])
def test_what_names_no_inputs(given: Any) -> None:
    with pytest.raises(PartcError, match="preprocess has a normalisation for each input that"):
        parse_preprocessing(given)


@pytest.mark.parametrize("mean", ["123.7,116.3,103.5", "-0.5", "nan"])
def test_means_are_of_pixels_from_0_to_1(mean: str) -> None:
    with pytest.raises(PartcError, match=r"--preprocess x=.*: a mean is from 0, black, to 1"):
        parse_preprocessing({"x": f"{mean}/0.5"})


@pytest.mark.parametrize("std", ["0", "0.5,0,0.5", "-1", "nan", "inf"])
def test_nothing_is_divided_by_zero(std: str) -> None:
    with pytest.raises(PartcError, match="standard deviation is greater than 0"):
        parse_preprocessing({"x": f"0.5/{std}"})


def test_a_normalisation_has_numbers() -> None:
    for mean, std in (((), (1.0,)), ((0.0,), ())):
        with pytest.raises(PartcError, match="not none"):
            Normalisation(mean, std)
