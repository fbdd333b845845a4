from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import pytest

from partc.targets import regression
from partc.targets.features import Workload
from partc.targets.predictor import Prediction
from partc.targets.regression import FEWEST, Fit, Regression

FAMILY = "matrix product"


def product(rows: float, inner: float, columns: float, family: str = FAMILY) -> Workload:
    """A dense layer; its numbers need not be whole."""
    counts = {
        "rows": rows,
        "inner": inner,
        "columns": columns,
        "elements out": rows * columns,
        **{f"flops, {lanes} lanes": 2 * rows * inner * columns for lanes in (4, 8, 16)},
        "read": 4 * rows * inner,
        "weights": 4 * inner * columns,
        "written": 4 * rows * columns,
        "read, 256 kB": 4 * rows * inner,
        "weights, 16 MB": 4 * inner * columns,
        "call, 16 MB": 1000,
    }
    return Workload("matmul", family, {name: math.log(count) for name, count in counts.items()})


def law_ms(workload: Workload) -> float:
    """At 20 GFLOP/s and 10 GB/s with 3 us a call; narrow products take up to twice as long."""
    count = {name: math.exp(log) for name, log in workload.features.items()}
    moved = count["read"] + count["weights"] + count["written"]
    sum_ms = 5e-8 * count["flops, 4 lanes"] + 1e-7 * moved + 3e-3
    return sum_ms * (1 + 1 / (1 + count["columns"] / 50))


def products(count: int, seed: int, low: float = 1.0, high: float = 3.0) -> list[Workload]:
    """Extents of 10 to 1000."""
    logs = np.random.default_rng(seed).uniform(low, high, (count, 3))
    return [product(*(10.0**log)) for log in logs]


def times_ms(workloads: list[Workload], noise: float = 0.0) -> list[float]:
    factors = np.exp(noise * np.random.default_rng(3).standard_normal(len(workloads)))
    return [float(f * law_ms(each)) for f, each in zip(factors, workloads, strict=True)]


def known(regression: Regression, workloads: list[Workload]) -> list[Prediction]:
    predictions = regression.predict(workloads)
    assert all(predictions)
    return [prediction for prediction in predictions if prediction]


@pytest.fixture(scope="module")
def samples() -> list[Workload]:
    return products(120, seed=0)


@pytest.fixture(scope="module")
def learned(samples: list[Workload]) -> Regression:
    return Regression(samples, times_ms(samples), {})


def test_a_law_is_learned(learned: Regression):
    others = products(60, seed=1)
    predicted_ms = np.array([each.latency_ms for each in known(learned, others)])
    errors = np.abs(predicted_ms / times_ms(others) - 1)
    assert np.mean(errors) < 0.03
    assert np.max(errors) < 0.15


def test_noise_is_not_learned(samples: list[Workload]):
    """And the error that is told is about that of the measurements."""
    others = products(60, seed=1)
    predictions = known(Regression(samples, times_ms(samples, noise=0.1), {}), others)
    errors = [
        abs(each.latency_ms / law_ms(other) - 1)
        for each, other in zip(predictions, others, strict=True)
    ]
    assert np.mean(errors) < 0.08
    assert 0.05 < np.median([each.error for each in predictions]) < 0.25


def test_what_is_no_law_is_not_believed(samples: list[Workload]):
    """Efficiencies that differ by network, and by nothing that is known of layers."""
    networks = np.repeat(np.random.default_rng(4).uniform(-0.5, 0.5, 12), 10)
    times = [float(np.exp(n)) * ms for n, ms in zip(networks, times_ms(samples), strict=True)]
    lawful = Regression(samples, times_ms(samples), {}).fits[FAMILY].share
    assert Regression(samples, times, {}).fits[FAMILY].share < 0.8 < lawful


def test_far_from_all_samples_it_is_less_sure(learned: Regression, samples: list[Workload]):
    path = [product(100 * 4.0**step, 100 / 4.0**step, 100 * 4.0**step) for step in range(6)]
    errors = [each.error for each in known(learned, path)]
    assert errors[-1] > 2 * errors[0]
    assert errors[-1] == max(errors)
    assert all(math.isfinite(error) and error > 0 for error in errors)
    assert np.median([each.error for each in known(learned, samples)]) < errors[-1] / 2


def test_beyond_what_was_measured_is_extrapolated(learned: Regression):
    inside, outside = products(40, 2, 1.1, 2.9), [product(100, 100, 5000), product(1, 100, 100)]
    assert [each.extrapolated for each in known(learned, [*inside, *outside])] == [
        *(False for _ in inside),
        *(True for _ in outside),
    ]


def test_the_samples_themselves_are_not_extrapolated(learned: Regression, samples: list[Workload]):
    assert not any(each.extrapolated for each in known(learned, samples))


def test_an_extent_that_no_sample_had_is_extrapolated(samples: list[Workload]):
    """Even one that is the same in all samples: nothing is known of what it does."""
    regression = Regression(samples, times_ms(samples), {})
    (plain,) = products(1, 5, 1.5, 2.5)
    fused = Workload(plain.kind, plain.family, {**plain.features, "makes blocks": math.log(2)})
    assert [each.extrapolated for each in known(regression, [plain, fused])] == [False, True]


def with_operators(workload: Workload, *operators: str) -> Workload:
    return Workload(workload.kind, workload.family, workload.features, operators)


def test_an_operator_that_no_sample_had_is_extrapolated(samples: list[Workload]):
    """However usual its extents are; what other families have measured says nothing of it."""
    own = [with_operators(each, "matmul") for each in samples[:80]]
    own += [with_operators(each, "matmul", "sin") for each in samples[80:]]
    others = [product(*[10 * n] * 3, family="softmax") for n in range(1, 11)]
    others = [with_operators(each, "tan") for each in others]
    regression = Regression([*own, *others], times_ms([*own, *others]), {})
    (plain,) = products(1, 5, 1.5, 2.5)
    asked = [(), ("matmul",), ("sin",), ("matmul", "sin"), ("matmul", "tan"), ("einsum",)]
    found = known(regression, [with_operators(plain, *operators) for operators in asked])
    assert [each.extrapolated for each in found] == [False] * 4 + [True] * 2
    assert [each.latency_ms for each in found] == pytest.approx([found[0].latency_ms] * 6)


def test_far_off_it_still_follows_the_rates(learned: Regression):
    (huge,) = known(learned, [product(10_000, 10_000, 10_000)])
    assert huge.extrapolated
    assert huge.latency_ms == pytest.approx(law_ms(product(10_000, 10_000, 10_000)), rel=1)


def test_families_that_were_not_measured_are_unknown(learned: Regression):
    known_one, other = product(30, 30, 30), product(30, 30, 30, family="softmax")
    predictions = learned.predict([other, known_one, other])
    assert [prediction is None for prediction in predictions] == [True, False, True]
    assert learned.predict([other]) == [None]
    assert learned.predict([]) == []


@pytest.mark.parametrize(("count", "is_known"), [(FEWEST - 1, False), (FEWEST, True)])
def test_a_family_needs_some_samples(count: int, is_known: bool):
    few = products(count, seed=7)
    regression = Regression(few, times_ms(few), {})
    assert (regression.predict(few[:1]) != [None]) == is_known
    assert (FAMILY in regression.fits) == is_known


def test_families_do_not_mix(learned: Regression, samples: list[Workload]):
    moved = [Workload("softmax", "softmax", each.features) for each in samples[:40]]
    slower_ms = [4 * law_ms(each) for each in moved]
    both = Regression([*moved, *samples], slower_ms + times_ms(samples), learned.fits)
    others = products(20, seed=8)
    assert both.predict(others) == learned.predict(others)
    (slower,) = known(both, moved[:1])
    assert slower.latency_ms == pytest.approx(slower_ms[0], rel=0.2)


def test_what_was_found_makes_the_same_predictions(learned: Regression, samples: list[Workload]):
    again = Regression(samples, times_ms(samples), learned.fits)
    others = products(60, seed=1)
    assert again.fits == learned.fits
    assert again.predict(others) == learned.predict(others)


def test_what_was_found_is_not_searched_for_again(learned: Regression, samples: list[Workload]):
    fit = learned.fits[FAMILY]
    rates = {name: rate + 1 for name, rate in fit.rates.items()}
    slower = Fit(rates, fit.names, tuple(scale / 2 for scale in fit.scales), 0.5)
    given = Regression(samples, times_ms(samples), {FAMILY: slower})
    assert given.fits == {FAMILY: slower}
    assert given.predict(samples[:1]) != learned.predict(samples[:1])


def test_what_was_found_for_other_features_is_searched_for_again(
    learned: Regression, samples: list[Workload]
):
    fit = learned.fits[FAMILY]
    older = [
        Fit(fit.rates, (*fit.names, "gone"), (*fit.scales, 0.0), fit.share),
        Fit({**fit.rates, "gone": 0.0}, fit.names, fit.scales, fit.share),
    ]
    for each in older:
        assert Regression(samples, times_ms(samples), {FAMILY: each}).fits == learned.fits


@pytest.mark.parametrize(
    "scales", [(), (0.0,), (math.nan,) * 9, (1e300,) * 9, (-1e300,) * 9], ids=str
)
def test_what_cannot_have_been_found_is_searched_for_again(
    learned: Regression, samples: list[Workload], scales: tuple[float, ...]
):
    fit = learned.fits[FAMILY]
    assert len(fit.scales) == 9
    broken = Fit(fit.rates, fit.names, scales, fit.share)
    assert Regression(samples, times_ms(samples), {FAMILY: broken}).fits == learned.fits


def test_no_process_is_made_before_its_family_is_asked_for(
    learned: Regression, samples: list[Workload], monkeypatch: pytest.MonkeyPatch
):
    made: list[object] = []

    def make(scales: Sequence[float]) -> object:
        made.append(scales)
        return make_process(scales)

    make_process = regression._make_process
    monkeypatch.setattr(regression, "_make_process", make)
    read = Regression(samples, times_ms(samples), learned.fits)
    assert read.predict([product(30, 30, 30, family="softmax")]) == [None]
    assert made == []
    for _ in range(2):
        read.predict(samples[:1])
    assert made == [learned.fits[FAMILY].scales]


def test_the_search_is_deterministic(learned: Regression, samples: list[Workload]):
    assert Regression(samples, times_ms(samples), {}).fits == learned.fits


def test_layers_are_predicted_on_their_own(learned: Regression):
    """Whatever else is asked at the same time."""
    others = products(20, seed=9)
    each_ms = [known(learned, [other])[0].latency_ms for other in others]
    together = [each.latency_ms for each in known(learned, others)]
    assert together == pytest.approx(each_ms, rel=1e-9)


def test_samples_that_are_all_alike_are_no_error():
    alike = [product(10, 10, 10)] * FEWEST
    (prediction,) = known(Regression(alike, [2.0] * FEWEST, {}), alike[:1])
    assert prediction.latency_ms == pytest.approx(2, rel=0.05)
