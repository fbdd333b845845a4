"""Compare what was compiled with the model that it was compiled from."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from partc.errors import CompilerError, VerificationError
from partc.runtime.errors import HalfError
from partc.runtime.executor import Executor, Request
from partc.runtime.spec import ModelSpec, PlanSpec, TensorSpec
from partc.runtime.tensors import describe

Array = NDArray[np.generic]
Reference = Callable[[Mapping[str, Array]], dict[str, Array]]

TOLERANCE = 1e-4
"""Largest deviation of a floating-point output, relative to the largest value in it."""

FLOOR = 1e-6
"""Deviation that is always allowed: a sigmoid of ONNX Runtime is itself off by 1e-7, however small
its largest value is."""

_COARSEST_STEPS = 16  # for float16, whose steps are wider than the tolerance
_RANDOM_SAMPLES = 2


@dataclass(frozen=True)
class Sample:
    """Inputs to compare on, and where they came from."""

    origin: str
    inputs: Mapping[str, Array]


def verify(
    model: ModelSpec,
    device: Executor,
    server: Executor,
    reference: Reference,
    samples: Sequence[Sample],
) -> None:
    """Run every plan, split as it will be, and compare with the source model.

    A plan of sequences runs twice: in those, and segment by segment, as a request goes on that came
    without its server's answer.

    Raises:
        VerificationError: Names the first plan and output that differ, and by how much.
        CompilerError: A plan does not run.
    """
    for sample in samples:
        expected = reference(sample.inputs)
        for plan in model.plans:
            for one_by_one in (False, True) if _has_sequences(plan) else (False,):
                try:
                    outputs = run_split(model, plan, device, server, sample.inputs, one_by_one)
                except HalfError as error:
                    raise CompilerError(
                        f"verify: plan {plan.name!r} does not run: {error}"
                    ) from error
                _compare(model, plan, outputs, expected, sample)


def _has_sequences(plan: PlanSpec) -> bool:
    return max(len(plan.device_segments), len(plan.server_segments)) > 1


def _compare(
    model: ModelSpec,
    plan: PlanSpec,
    outputs: Mapping[str, Array],
    expected: Mapping[str, Array],
    sample: Sample,
) -> None:
    for spec in model.outputs:
        problem = _difference(outputs[spec.name], expected[spec.name])
        if problem:
            raise VerificationError(
                f"the compiled model differs from its source: output {spec.name!r} of "
                f"plan {plan.name!r} {problem} on {sample.origin}; nothing was written. "
                "An importer or a kernel of partc is wrong"
            )


def run_split(
    model: ModelSpec,
    plan: PlanSpec,
    device: Executor,
    server: Executor,
    inputs: Mapping[str, Array],
    one_by_one: bool = False,
) -> dict[str, Array]:
    """Run a plan with only its own tensors passing between the halves."""
    near = device.request(inputs)
    _run(near, plan.device_segments, one_by_one)
    far = server.request({spec.name: near.array(spec.name) for spec in plan.upload})
    _run(far, plan.server_segments, one_by_one)
    received = {spec.name for spec in plan.download}
    return {
        spec.name: (far if spec.name in received else near).array(spec.name)
        for spec in model.outputs
    }


def _run(request: Request, segments: tuple[str, ...], one_by_one: bool) -> None:
    for part in [(name,) for name in segments] if one_by_one else [segments]:
        request.run(part)


def make_samples(model: ModelSpec, examples: Mapping[str, Array] | None) -> Iterator[Sample]:
    """The user's own inputs, if any, and random ones, the same every time."""
    if examples is not None:
        yield Sample("the example inputs", examples)
    for seed in range(_RANDOM_SAMPLES):
        random = np.random.default_rng(seed)
        yield Sample(
            f"random inputs of seed {seed}",
            {
                spec.name: _random_array(random, spec, (examples or {}).get(spec.name))
                for spec in model.inputs
            },
        )


def _random_array(random: np.random.Generator, spec: TensorSpec, example: Array | None) -> Array:
    """Normal numbers, or integers in the example's range: an index may not leave its table.

    Where that is a single number, or there is no example, it is 0 and 1, too, which are valid as an
    index, a mask or a token.
    """
    dtype = np.dtype(spec.dtype)
    if np.issubdtype(dtype, np.floating):
        return np.asarray(random.standard_normal(spec.shape)).astype(dtype)
    low, high = 0, 1
    if example is not None and example.size:
        least, most = int(np.min(example)), int(np.max(example))
        low, high = (least, most) if least < most else (min(0, least), max(1, most))
    return np.asarray(random.integers(low, high, spec.shape, dtype, endpoint=True))


def _difference(found: Array, expected: Array) -> str | None:
    """What is wrong with an output, or None."""
    if found.shape != expected.shape or found.dtype != expected.dtype:
        types = (describe(array.dtype, array.shape) for array in (found, expected))
        return "is {}, not {},".format(*types)
    if not np.issubdtype(expected.dtype, np.floating):
        wrong = int(np.count_nonzero(found != expected))
        return f"differs in {wrong} of {expected.size} elements" if wrong else None
    return _deviation(
        found.astype(np.float64), expected.astype(np.float64), _tolerance(expected.dtype)
    )


def _tolerance(dtype: np.dtype[Any]) -> float:
    """``TOLERANCE``, or more where the numbers themselves are coarse."""
    return max(TOLERANCE, _COARSEST_STEPS * float(np.finfo(dtype).eps))


def _deviation(
    found: NDArray[np.float64], expected: NDArray[np.float64], tolerance: float
) -> str | None:
    finite = np.isfinite(expected)
    if not np.array_equal(np.isfinite(found), finite) or not np.array_equal(
        found[~finite], expected[~finite], equal_nan=True
    ):
        return "has infinities or NaNs where the source has none, or the other way round,"
    scale = float(np.max(np.abs(expected[finite]), initial=0.0))
    deviation = float(np.max(np.abs(found[finite] - expected[finite]), initial=0.0))
    allowed = tolerance * scale + FLOOR
    if deviation <= allowed:
        return None
    return f"deviates by {deviation:.3g}, where {allowed:.3g} is allowed for values to {scale:.3g},"
