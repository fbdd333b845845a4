"""How a model normalises images, in a user's words."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import cast

from partc.errors import PartcError


@dataclass(frozen=True)
class Normalisation:
    """What a model subtracts from an image and divides it by, black being 0 and white 1.

    Args:
        mean: Subtracted first; one number, or one for each channel.
        std: Divided by then, likewise.

    Raises:
        PartcError: No pixel could be the mean, or dividing makes no finite numbers.
    """

    mean: tuple[float, ...]
    std: tuple[float, ...]

    def __post_init__(self) -> None:
        if not self.mean or not all(0 <= number <= 1 for number in self.mean):
            raise PartcError(
                f"a mean is from 0, black, to 1, white, not {_join(self.mean)}; divide one of "
                "pixels from 0 to 255 by 255, and its standard deviation, too"
            )
        if not self.std or not all(0 < number < math.inf for number in self.std):
            raise PartcError(f"a standard deviation is greater than 0, not {_join(self.std)}")


_NAMED: Mapping[str, Normalisation] = {
    "imagenet": Normalisation((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
    "unit": Normalisation((0.0,), (1.0,)),
    "signed": Normalisation((0.5,), (0.5,)),
}


def parse_preprocessing(texts: Mapping[str, str]) -> dict[str, Normalisation]:
    """How inputs are normalised, which takes no model.

    Args:
        texts: By the input's name, ``imagenet``, ``unit`` (0 to 1), ``signed`` (-1 to 1), or means
            and standard deviations of pixels from 0 to 1: ``0.485,0.456,0.406/0.229,0.224,0.225``.

    Raises:
        PartcError: A text is nothing of this, or there are no texts by name.
    """
    if not isinstance(cast("object", texts), Mapping):
        raise PartcError(
            "preprocess has a normalisation for each input that is to be an image, as in "
            f"{{'image': 'imagenet'}}, but is {texts!r}"
        )
    return {name: _parse(name, text) for name, text in texts.items()}


def _parse(name: str, text: str) -> Normalisation:
    if not isinstance(cast("object", text), str):
        raise PartcError(
            f"preprocess[{name!r}] is a text such as 'imagenet' or "
            f"'0.485,0.456,0.406/0.229,0.224,0.225', not {text!r}"
        )
    try:
        found = _NAMED.get(text) or _parse_numbers(text)
    except PartcError as error:
        raise PartcError(f"--preprocess {name}={text}: {error}") from error
    if found is None:
        raise PartcError(
            f"--preprocess is INPUT={'|'.join(_NAMED)}, or INPUT=MEAN,…/STD,… of pixels from 0 to "
            f"1, such as image=0.485,0.456,0.406/0.229,0.224,0.225, not '{name}={text}'"
        )
    return found


def _parse_numbers(text: str) -> Normalisation | None:
    try:
        mean, std = ([float(number) for number in part.split(",")] for part in text.split("/"))
    except ValueError:
        return None
    return Normalisation(tuple(mean), tuple(std))


def _join(numbers: tuple[float, ...]) -> str:
    return ", ".join(f"{number:g}" for number in numbers) or "none"
