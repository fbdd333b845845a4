from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest

from partc.targets import neurosurgeon
from partc.targets.families import BY_FAMILY
from partc.targets.features import Workload
from partc.targets.neurosurgeon import Neurosurgeon

Law = Callable[[float, float], float]


def workload(family: str, **counts: float) -> Workload:
    return Workload(family, family, {name: math.log(count) for name, count in counts.items()})


def products(sizes: list[tuple[int, int]]) -> list[Workload]:
    return [workload("matrix product", read=read, written=written) for read, written in sizes]


SIZES = [(1000, 10), (4000, 90), (250, 400), (9000, 1000), (600, 3000), (7000, 20)]
OTHERS = [(2000, 500), (5000, 2000)]


def linear_ms(read: float, written: float) -> float:
    return 2e-3 * read + 5e-3 * written + 1.5


def logarithmic_ms(read: float, written: float) -> float:
    return 0.3 * math.log(read) + 0.7 * math.log(written) + 2


@pytest.mark.parametrize("law", [linear_ms, logarithmic_ms])
def test_a_law_is_recovered(law: Law):
    predictor = Neurosurgeon(products(SIZES), [law(*size) for size in SIZES])
    predicted_ms = [predictor.latency_ms(each) for each in products(OTHERS)]
    assert predicted_ms == pytest.approx([law(*size) for size in OTHERS], rel=1e-6)


@pytest.mark.parametrize("law", [linear_ms, logarithmic_ms])
def test_the_better_of_two_laws_is_chosen_in_spite_of_noise(law: Law):
    noise = np.random.default_rng(0).uniform(0.98, 1.02, len(SIZES))
    measured_ms = [factor * law(*size) for factor, size in zip(noise, SIZES, strict=True)]
    predictor = Neurosurgeon(products(SIZES), measured_ms)
    predicted_ms = [predictor.latency_ms(each) for each in products(OTHERS)]
    assert predicted_ms == pytest.approx([law(*size) for size in OTHERS], rel=0.05)


def test_nothing_takes_less_than_the_least_of_its_type():
    sizes = [(1000, 10), (2000, 20), (3000, 40)]
    predictor = Neurosurgeon(products(sizes), [1.0, 2.0, 3.0])
    (tiny,) = products([(1, 1)])
    assert predictor.latency_ms(tiny) == 1.0


def test_a_convolution_counts_channels_and_its_kernel():
    """In the paper: the channels read, and (kernel / stride) squared times the channels made."""
    shapes = [(3, 9, 1, 64), (64, 9, 4, 128), (32, 25, 1, 32), (16, 1, 1, 96), (8, 49, 4, 24)]

    def layer(channels: int, kernel: int, stride: int, made: int) -> Workload:
        numbers = {"channels in": channels, "kernel": kernel, "stride": stride}
        return workload("convolution", **numbers, **{"channels out": made})

    def law_ms(channels: int, kernel: int, stride: int, made: int) -> float:
        return 0.01 * channels + 0.02 * kernel / stride * made

    predictor = Neurosurgeon([layer(*each) for each in shapes], [law_ms(*each) for each in shapes])
    assert predictor.latency_ms(layer(40, 9, 1, 50)) == pytest.approx(law_ms(40, 9, 1, 50))


def test_groups_do_not_hide_channels():
    """A depthwise convolution of 8 channels reads as many as a dense one."""
    dense = workload("convolution", **{"channels in": 8, "channels out": 8})
    others = [workload("convolution", **{"channels in": n, "channels out": n}) for n in (2, 4, 16)]
    depthwise = workload(
        "depthwise convolution", **{"channels in": 1, "groups": 8, "channels out": 8}
    )
    predictor = Neurosurgeon([dense, *others], [8.0, 2.0, 4.0, 16.0])
    assert predictor.latency_ms(depthwise) == pytest.approx(8.0)


def test_other_layers_are_regressed_on_what_they_make():
    layers = [workload("softmax", written=written) for written in (10, 20, 40)]
    predictor = Neurosurgeon(layers, [1.0, 2.0, 4.0])
    assert predictor.latency_ms(workload("softmax", written=30, read=999)) == pytest.approx(3.0)


def test_types_have_lines_of_their_own():
    layers = [workload(kind, written=n) for kind in ("softmax", "concat") for n in (10, 20, 40)]
    predictor = Neurosurgeon(layers, [1.0, 2.0, 4.0, 10.0, 20.0, 40.0])
    assert predictor.latency_ms(workload("softmax", written=30)) == pytest.approx(3.0)
    assert predictor.latency_ms(workload("concat", written=30)) == pytest.approx(30.0)


def test_a_type_that_was_not_measured_is_unknown():
    predictor = Neurosurgeon(products(SIZES), [linear_ms(*size) for size in SIZES])
    assert predictor.latency_ms(workload("softmax", written=3)) is None


def test_every_family_with_a_type_is_one():
    assert BY_FAMILY.keys() >= neurosurgeon._TYPES.keys()
    of_convolutions = {name for name in BY_FAMILY if name.endswith("convolution")}
    assert {neurosurgeon._TYPES[name] for name in of_convolutions} == {"convolution"}
