from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
from msgspec import structs

from partc.profiler import codec
from partc.profiler.codec import (
    Trial,
    draw_activations,
    least_ms,
    measure_codec_slowdown,
    time_encoding,
    time_steps,
)
from partc.targets.encodings import DECODING, ENCODING
from partc.targets.target import Target, load_target

NATIVE = load_target("native")
SMALL = draw_activations(8, 14, 0.5, 0)


def test_activations_are_what_was_asked_for() -> None:
    dense, sparse = draw_activations(4, 32, 0.0, 1), draw_activations(4, 32, 0.75, 1)
    assert (sparse.dtype, sparse.shape) == (np.float32, (1, 4, 32, 32))
    assert np.mean(sparse == 0) == pytest.approx(0.75, abs=1e-3)
    assert sparse.min() == 0
    assert dense.all()
    assert dense.min() < 0
    again = draw_activations(4, 32, 0.75, 1)
    np.testing.assert_array_equal(again, sparse)


def test_every_step_of_the_model_is_timed_but_images() -> None:
    trials = list(time_steps([SMALL]))
    steps = {trial.encoding.rpartition("+")[2] for trial in trials}
    assert steps == ENCODING.keys() == DECODING.keys() - {"image"}
    compressed = [trial for trial in trials if trial.encoding == "plain+zstd"]
    assert [trial.item_nbytes for trial in compressed] == [4, 2, 1]


def test_a_trial_says_what_was_encoded() -> None:
    trial = time_encoding("plain+zstd", SMALL)
    assert (trial.plain_nbytes, trial.item_nbytes) == (SMALL.nbytes, 4)
    assert 0 < trial.sent_nbytes < SMALL.nbytes
    assert trial.encode_ms > 0
    assert trial.decode_ms > 0


def test_the_fastest_call_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    now_s = 0.0
    takes_s = iter([0.003, 0.001, 0.005, 0.004, 0.0001])

    def call() -> None:
        nonlocal now_s
        now_s += next(takes_s)

    monkeypatch.setattr(codec, "time", SimpleNamespace(perf_counter=lambda: now_s))
    assert least_ms(call) == pytest.approx(1)
    assert len(list(takes_s)) == 1, "a turn ends once 10 ms are over"


def pretend(monkeypatch: pytest.MonkeyPatch, passes: Sequence[tuple[float, float]]) -> None:
    """Encoding and decoding take so many times longer than in the model, pass by pass."""
    slower = iter(passes)
    trial = Trial("float16", 1_000_000, 4, 500_000, 0, 0)
    encode_ms, decode_ms = trial.predict_ms(NATIVE)

    def time_steps(_: object) -> list[Trial]:
        encode, decode = next(slower)
        return [replace(trial, encode_ms=encode * encode_ms, decode_ms=decode * decode_ms)]

    monkeypatch.setattr(codec, "time_steps", time_steps)


@pytest.mark.parametrize("target", [NATIVE, structs.replace(NATIVE, codec_slowdown=7)])
def test_the_slowdown_is_relative_to_the_model_and_not_to_the_target(
    monkeypatch: pytest.MonkeyPatch, target: Target
) -> None:
    pretend(monkeypatch, [(2, 8)] * 3)
    assert measure_codec_slowdown(target) == pytest.approx(4)


def test_a_step_counts_in_its_fastest_pass(monkeypatch: pytest.MonkeyPatch) -> None:
    pretend(monkeypatch, [(9, 4), (1, 9), (5, 5)])
    assert measure_codec_slowdown(NATIVE) == pytest.approx(2)


def test_this_machine_is_no_other(monkeypatch: pytest.MonkeyPatch) -> None:
    """Within a factor that holds for any core that the tests may run on."""
    monkeypatch.setattr(codec, "ARRAYS", ((16, 28, 0.6),))
    monkeypatch.setattr(codec, "_PASSES", 1)
    assert 0.2 < measure_codec_slowdown(NATIVE) < 20
