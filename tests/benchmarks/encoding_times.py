"""Measure what encoding and decoding tensors takes, and fit ``targets/encodings.py`` to it.

Steps are timed on drawn activations and on those that EfficientNet-Lite0 makes of a photo; how well
what is fitted predicts is then shown on those of another photo. Run it on a quiet machine.
"""

from __future__ import annotations

import io
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from rich.console import Console
from rich.table import Table
from scipy.optimize import nnls
from sklearn.datasets import load_sample_image
from torch import nn
from torch_models import efficientnet_lite0

from partc.profiler.codec import draw_activations, least_ms, time_steps
from partc.runtime.encodings import decode
from partc.runtime.spec import TensorSpec
from partc.targets.encodings import StepTime, step_terms

Array = NDArray[Any]

_DRAWN = ((32, 8), (96, 14), (48, 28), (64, 56), (32, 112))
_ZEROS = (0.0, 0.3, 0.6, 0.9)
_FITTED_PHOTO, _HELD_OUT_PHOTO = "china.jpg", "flower.jpg"
_PHOTO_SIDES = (64, 128, 224, 416)
_LEAST_COUNT = 2000
"""Elements of the smallest activation that is timed."""

_PASSES = 3
_REWEIGHTINGS = 20


@dataclass(frozen=True)
class Timed:
    """One run of a step: which, its direction, the bytes read and written, and milliseconds."""

    step: str
    direction: str
    read: float
    written: float
    ms: float


def main() -> None:
    """Print the constants, and what they predict beside what was measured."""
    torch.set_num_threads(1)
    drawn = [draw_activations(*shape, zeros, 0) for shape in _DRAWN for zeros in _ZEROS]
    fitted = _fastest([*drawn, *_activations(_FITTED_PHOTO)], _FITTED_PHOTO)
    held_out = _fastest(list(_activations(_HELD_OUT_PHOTO)), _HELD_OUT_PHOTO)
    keys = list(dict.fromkeys((each.direction, each.step) for each in fitted))
    table = Table(
        "direction", "step", "runs", "measured ms", "predicted / measured", "10 %", "90 %"
    )
    for column in table.columns[2:]:
        column.justify = "right"
    console = Console(highlight=False)
    for key in keys:
        step = fit([each for each in fitted if (each.direction, each.step) == key])
        console.print(f"{key[0]} {key[1]}: {_constants(step)}")
        table.add_row(*key, *_compare(step, [e for e in held_out if (e.direction, e.step) == key]))
    console.print(table)


def _fastest(arrays: Sequence[Array], photo: str) -> list[Timed]:
    """Each step on each array and on the photo, in its fastest pass."""
    passes = [[*_time_arrays(arrays), *_time_images(photo)] for _ in range(_PASSES)]
    return [min(runs, key=lambda each: each.ms) for runs in zip(*passes, strict=True)]


def _time_arrays(arrays: Sequence[Array]) -> Iterator[Timed]:
    for trial in time_steps(arrays):
        plain, sent = trial.plain_nbytes, trial.sent_nbytes
        step = trial.encoding.rpartition("+")[2]
        yield Timed(step, "encode", plain, sent, trial.encode_ms)
        yield Timed(step, "decode", sent, plain, trial.decode_ms)


def _time_images(photo: str) -> Iterator[Timed]:
    """Decode a photo of several sizes, as JPEG and as PNG."""
    image = _square(photo)
    for side in _PHOTO_SIDES:
        spec = TensorSpec("image", "uint8", (1, side, side, 3))
        resized = image.resize((side, side))
        for options in ({"format": "JPEG"}, {"format": "JPEG", "quality": 92}, {"format": "PNG"}):
            file = io.BytesIO()
            resized.save(file, **options)
            content = np.frombuffer(file.getvalue(), np.uint8)
            ms = least_ms(lambda content=content, spec=spec: decode("image", spec, (content,)))
            yield Timed("image", "decode", content.nbytes, 3 * side * side, ms)


def _square(photo: str) -> Image.Image:
    pixels = load_sample_image(photo)
    side = min(pixels.shape[:2])
    return Image.fromarray(pixels[:side, :side])


@torch.inference_mode()
def _activations(photo: str) -> list[Array]:
    """What every layer that cuts may fall behind makes of a photo, float32 [1, C, H, W]."""
    made: list[Array] = []

    def keep(_module: nn.Module, _inputs: object, output: torch.Tensor) -> None:
        if output.ndim == 4 and output.numel() >= _LEAST_COUNT:
            made.append(output.numpy().copy())

    model = efficientnet_lite0()
    layers = [each for each in model.modules() if isinstance(each, (nn.BatchNorm2d, nn.ReLU6))]
    hooks = [layer.register_forward_hook(keep) for layer in layers]
    pixels = np.asarray(_square(photo).resize((224, 224)), np.float32)
    model(torch.from_numpy((pixels.transpose(2, 0, 1)[None] - 127) / 128))
    for hook in hooks:
        hook.remove()
    return made[::4]


def fit(runs: Sequence[Timed]) -> StepTime:
    """The constants of a step: least squares of relative errors, none below zero.

    Errors are relative to the geometric mean of what is measured and what is predicted, so that
    half of the time counts as much as twice the time; the weights come from the fit before.
    """
    terms = np.array([(1.0, *step_terms(each.read, each.written)) for each in runs])
    if runs[0].step not in ("lz4", "zstd"):
        terms = terms[:, :3]  # both sizes are in proportion, but for images
    measured = np.array([each.ms for each in runs])
    predicted = measured
    found = np.zeros(terms.shape[1])
    for _ in range(_REWEIGHTINGS):
        weights = 1 / np.sqrt(measured * predicted)
        found, _residual = nnls(terms * weights[:, None], measured * weights)
        predicted = terms @ found
    return StepTime(*(float(f"{value:.3g}") for value in found))


def _constants(step: StepTime) -> str:
    return f"StepTime({', '.join(str(getattr(step, each.name)) for each in fields(step))})"


def _compare(step: StepTime, runs: Sequence[Timed]) -> Iterable[str]:
    measured = np.array([each.ms for each in runs])
    ratios = np.array([step.predict_ms(each.read, each.written) for each in runs]) / measured
    low, middle, high = np.percentile(ratios, (10, 50, 90))
    return (
        str(len(runs)),
        f"{measured.min():.3f} .. {measured.max():.3f}",
        *(f"{each:.2f}" for each in (middle, low, high)),
    )


if __name__ == "__main__":
    main()
