"""Compare what was compiled with the model that it was compiled from."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from partc.codegen.deviation import largest_difference
from partc.errors import CompilerError, VerificationError
from partc.frontends.source import SourceModel
from partc.graph import PLAIN, TensorType
from partc.runtime.encodings import decode_all, encode_all, is_lossless
from partc.runtime.errors import HalfError
from partc.runtime.executor import Executor, Request
from partc.runtime.spec import ModelSpec, PlanSpec
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

# What was measured layer by layer on this machine is rounded otherwise than what a bundle computes.
_LOSS_SLACK = 1.01
_ROUNDING = 1e-6


@dataclass(frozen=True)
class Sample:
    """Inputs to compare on, and where they came from.

    Args:
        origin: Where from, in words.
        inputs: Arrays by name.
        calibration: Whether they are like what the model will get, as far as is known: what
            encodings do to the outputs is measured on such.
    """

    origin: str
    inputs: Mapping[str, Array]
    calibration: bool = False


def verify(
    model: ModelSpec,
    device: Executor,
    server: Executor,
    reference: Reference,
    samples: Sequence[Sample],
    max_error: float = 0.0,
) -> None:
    """Run every plan, split as it will be, and compare with the source model.

    First, all tensors are sent as they are. A plan of sequences runs twice so: in those, and
    segment by segment, as a request goes on that came without its server's answer. Then tensors are
    sent as the plan sends them. What that loses may make outputs deviate from those just computed,
    but by no more than what was asked for, on the samples that are for calibration.

    Args:
        model: The signature and the plans.
        device: Holds the device's segments.
        server: Holds the server's segments.
        reference: The source model.
        samples: What to run on.
        max_error: By how much floating-point outputs may deviate for how tensors are sent, relative
            to the largest value in each.

    Raises:
        VerificationError: Names the first plan and output that differ, and by how much.
        CompilerError: A plan does not run.
    """
    for sample in samples:
        expected = reference(sample.inputs)
        plain: dict[tuple[tuple[str, ...], ...], Mapping[str, Array]] = {}
        for plan in model.plans:
            trial = _Trial(model, plan, device, server, sample)
            if trial.segments not in plain:
                plain[trial.segments] = trial.run()
                trial.check_source(plain[trial.segments], expected)
                if max(map(len, trial.segments)) > 1:
                    trial.check_source(trial.run(one_by_one=True), expected)
            if trial.is_lossy and sample.calibration:
                trial.check_loss(trial.run(encoded=True), plain[trial.segments], max_error)
            elif trial.is_encoded and not trial.is_lossy:
                trial.check_source(trial.run(encoded=True), expected)


@dataclass(frozen=True)
class _Trial:
    """A plan to run on a sample."""

    model: ModelSpec
    plan: PlanSpec
    device: Executor
    server: Executor
    sample: Sample

    @property
    def segments(self) -> tuple[tuple[str, ...], ...]:
        """What plans that differ in nothing else compute alike."""
        return self.plan.device_segments, self.plan.server_segments

    @property
    def is_encoded(self) -> bool:
        return any(sent.encoding != PLAIN for sent in self.plan.upload)

    @property
    def is_lossy(self) -> bool:
        return not all(is_lossless(sent.encoding) for sent in self.plan.upload)

    def run(self, one_by_one: bool = False, encoded: bool = False) -> dict[str, Array]:
        """The outputs.

        Raises:
            CompilerError: The plan does not run.
        """
        halves = (self.device, self.server)
        try:
            return run_split(
                self.model, self.plan, *halves, self.sample.inputs, one_by_one, encoded
            )
        except HalfError as error:
            raise CompilerError(f"verify: plan {self.plan.name!r} does not run: {error}") from error

    def check_source(self, outputs: Mapping[str, Array], expected: Mapping[str, Array]) -> None:
        """Compare with what the source model makes."""
        for found in self._problems(outputs, expected, None):
            raise VerificationError(
                f"the compiled model differs from its source: {found}; nothing was written. "
                "An importer or a kernel of partc is wrong"
            )

    def check_loss(
        self, outputs: Mapping[str, Array], plain: Mapping[str, Array], max_error: float
    ) -> None:
        """Compare with what comes out if nothing is encoded."""
        sent = ", ".join(f"{each.name!r} as {each.encoding}" for each in self.plan.upload)
        for found in self._problems(outputs, plain, max_error):
            raise VerificationError(
                f"--max-error {max_error:g} is not kept: {found}, when the device sends {sent}; "
                "nothing was written. Give a smaller --max-error, or --calibration inputs that are "
                "more like those of the model"
            )

    def _problems(
        self,
        outputs: Mapping[str, Array],
        expected: Mapping[str, Array],
        max_error: float | None,
    ) -> Iterator[str]:
        for spec in self.model.outputs:
            problem = _difference(outputs[spec.name], expected[spec.name], max_error)
            if problem:
                yield (
                    f"output {spec.name!r} of plan {self.plan.name!r} {problem} on "
                    f"{self.sample.origin}"
                )


def run_split(
    model: ModelSpec,
    plan: PlanSpec,
    device: Executor,
    server: Executor,
    inputs: Mapping[str, Array],
    one_by_one: bool = False,
    encoded: bool = False,
) -> dict[str, Array]:
    """Run a plan with only its own tensors passing between the halves."""
    near = device.request(inputs)
    _run(near, plan.device_segments, one_by_one)
    sent = {spec.name: near.array(spec.name) for spec in plan.upload}
    far = server.request(
        decode_all(plan.upload, encode_all(plan.upload, sent)) if encoded else sent
    )
    _run(far, plan.server_segments, one_by_one)
    received = {spec.name for spec in plan.download}
    return {
        spec.name: (far if spec.name in received else near).array(spec.name)
        for spec in model.outputs
    }


def _run(request: Request, segments: tuple[str, ...], one_by_one: bool) -> None:
    for part in [(name,) for name in segments] if one_by_one else [segments]:
        request.run(part)


def make_samples(source: SourceModel) -> Iterator[Sample]:
    """The user's own inputs, if any, and random ones, the same every time.

    Those for calibration are what the user gave for it, else the examples, else the random ones.
    """
    examples, calibration = source.examples, source.calibration
    for number, inputs in enumerate(calibration, 1):
        yield Sample(f"calibration inputs {number}", inputs, calibration=True)
    if examples is not None:
        yield Sample("the example inputs", examples, calibration=not calibration)
    known = examples or (calibration[0] if calibration else {})
    for seed in range(_RANDOM_SAMPLES):
        random = np.random.default_rng(seed)
        yield Sample(
            f"random inputs of seed {seed}",
            {
                tensor.name: _random_array(random, tensor.type, known.get(tensor.name))
                for tensor in source.inputs
            },
            calibration=not known,
        )


def _random_array(random: np.random.Generator, type_: TensorType, example: Array | None) -> Array:
    """Normal numbers, or integers in the example's range: an index may not leave its table.

    Where that is a single number, or there is no example, it is 0 and 1, too, which are valid as an
    index, a mask or a token; only what can be an image is one.
    """
    dtype = np.dtype(type_.dtype)
    if np.issubdtype(dtype, np.floating):
        return np.asarray(random.standard_normal(type_.shape)).astype(dtype)
    low, high = 0, 255 if dtype == np.uint8 and len(type_.shape) > 2 else 1
    if example is not None and example.size:
        least, most = int(np.min(example)), int(np.max(example))
        low, high = (least, most) if least < most else (min(0, least), max(1, most))
    return np.asarray(random.integers(low, high, type_.shape, dtype, endpoint=True))


def _difference(found: Array, expected: Array, max_error: float | None) -> str | None:
    """What is wrong with an output, or None; no error is allowed for where it is None."""
    if found.shape != expected.shape or found.dtype != expected.dtype:
        types = (describe(array.dtype, array.shape) for array in (found, expected))
        return "is {}, not {},".format(*types)
    if not np.issubdtype(expected.dtype, np.floating):
        wrong = int(np.count_nonzero(found != expected))
        return f"differs in {wrong} of {expected.size} elements" if wrong else None
    deviation, scale = largest_difference(found, expected)
    if deviation == np.inf:
        return "has infinities or NaNs where the source has none, or the other way round,"
    if max_error is None:
        allowed = _tolerance(expected.dtype) * scale + FLOOR
    else:
        allowed = (_LOSS_SLACK * max_error + _ROUNDING) * scale
    if deviation <= allowed:
        return None
    return f"deviates by {deviation:.3g}, where {allowed:.3g} is allowed for values to {scale:.3g},"


def _tolerance(dtype: np.dtype[Any]) -> float:
    """``TOLERANCE``, or more where the numbers themselves are coarse."""
    return max(TOLERANCE, _COARSEST_STEPS * float(np.finfo(dtype).eps))
