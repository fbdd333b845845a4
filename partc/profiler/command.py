"""What ``partc profile`` does: measure a machine and describe it as a target."""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path

import numpy as np
from msgspec.structs import replace

from partc.codegen.build import runs_here
from partc.errors import PartcError
from partc.profiler.codec import measure_codec_slowdown
from partc.profiler.drawn import DrawnNetwork, compile_drawn, compilers
from partc.profiler.entry import ENTRY_NETWORKS, PAUSE_S, measure_entry
from partc.profiler.load import measure_load
from partc.profiler.rounds import measure
from partc.profiler.session import Report, Step, profile_machine
from partc.profiler.stopwatch import RUNS, Board, connect
from partc.targets.calibration import FIGURES, calibrate
from partc.targets.load import LoadCurve
from partc.targets.meter import Meter, find_meter
from partc.targets.profile import Profile, Sample
from partc.targets.target import Target, load_target, write_target

_CALIBRATION_NETWORKS = 3
_POWER_S = 2.0


@dataclass(frozen=True)
class Request:
    """What to profile.

    Args:
        target: Name or path of the target to begin with.
        threads: Threads to compute with; None for the target's.
        address: ``HOST:PORT`` of a board's TVM RPC server; None for this machine.
        budget_s: How long to measure.
        calibrate: Whether only to scale the target's figures.
        load: Whether to measure how much slower this machine is while it computes others.
        output: The ``.toml`` file to write.
    """

    target: str
    threads: int | None
    address: str | None
    budget_s: float
    calibrate: bool
    load: bool
    output: Path


def profile_target(request: Request, report: Report) -> str:
    """Measure a machine and write its description, and its profile beside it.

    Returns:
        What was measured, and how good the machine was to measure on.

    Raises:
        PartcError: The output is no .toml file that can be written, or nothing can be measured.
        TargetError: The target cannot be compiled for.
    """
    if request.output.suffix != ".toml":
        raise PartcError(f"--output names a .toml file to write, not {str(request.output)!r}")
    if not request.output.parent.is_dir():
        raise PartcError(f"{request.output} cannot be written: its directory does not exist")
    target = _target(request)
    if request.address is None and not runs_here(target):
        raise PartcError(
            f"code for {target.name} does not run here; start `python -m tvm.exec.rpc_server` on a "
            "board and give its address with --rpc HOST:PORT"
        )
    if request.load and request.address is not None:
        raise PartcError(
            "--load needs processes that compute on the machine itself, which --rpc cannot start; "
            "profile the board without --load"
        )
    board = connect(request.address, target.threads)
    if request.calibrate:
        described, told = _calibrate(target, board, report)
    else:
        path = request.output.with_suffix(".profile.json")
        described, told = _profile(target, board, path, request.budget_s, report)
    _write(described, request)  # so that nothing that fails from here on takes it away
    described, told_more = _with_rest(described, board, request, report)
    _write(described, request)
    told += told_more
    return f"{told}\nwrote {request.output}; next: partc plan MODEL --target {request.output}"


def _with_rest(
    target: Target, board: Board, request: Request, report: Report
) -> tuple[Target, str]:
    """The target with what more is asked for than its layers, and what to say of that."""
    report("Measuring what a request costs after a pause")
    target = _with_entry(target, board)
    told = f"; {describe_entry(target)}"
    if request.address is None:
        report("Measuring what encoding tensors takes")
        target = _with_codec(target, board)
        told += f"; {describe_codec(target)}"
    meter = find_meter() if request.address is None else None
    if meter:
        report("Measuring what the machine draws")
        target, shown = _with_power(target, board, meter)
        told += "" if shown else f"\n{meter.name} shows no power; watts are {request.target}'s"
    if request.load:
        report("Measuring how much slower a request is while others are computed")
        target = _with_load(target, board)
        told += f"\n{describe_load(target.load_curve)}"
    return target, told


def _write(target: Target, request: Request) -> None:
    write_target(replace(target, name=request.output.stem), request.output)


def _target(request: Request) -> Target:
    target = replace(load_target(request.target), aliases=())
    threads = request.threads or target.threads
    if threads == target.threads:
        return replace(target, profile=_seen_from(request.output.parent, target.profile))
    sources = {name: each for name, each in target.sources.items() if name != "load"} | {
        "threads": "chosen: --threads",
        "peak_gflops": f"{threads} / {target.threads} of {target.name}'s",
    }
    peak_gflops = target.peak_gflops * threads / target.threads
    changed = {"threads": threads, "peak_gflops": peak_gflops, "load": None, "profile": None}
    return replace(target, **changed, sources=sources)


def _seen_from(directory: Path, profile: str | None) -> str | None:
    """The path of a profile, from where a target's file will be."""
    if profile is None or Path(profile).is_absolute():
        return profile
    return os.path.relpath(profile, directory)


def _profile(
    target: Target, board: Board, path: Path, budget_s: float, report: Report
) -> tuple[Target, str]:
    profile = profile_machine(target, board, path, budget_s, report)
    fitted = _calibrated(target, board, profile.samples)
    return replace(fitted, profile=path.name), describe_profile(profile)


def _calibrate(target: Target, board: Board, report: Report) -> tuple[Target, str]:
    started = time.monotonic()
    drawn: list[DrawnNetwork] = []
    with compilers(target) as compile_networks:
        for network in compile_networks(range(1, 1 + _CALIBRATION_NETWORKS)):
            drawn.append(network)
            spent_s = time.monotonic() - started
            layers = sum(len(each.workloads) for each in drawn)
            expected_s = spent_s * _CALIBRATION_NETWORKS / len(drawn)
            report(Step(len(drawn), layers, spent_s, expected_s))
    report("Measuring")
    samples = list(chain(*measure(drawn, board)))
    fitted = _calibrated(target, board, samples)
    figures = ", ".join(f"{name} {getattr(fitted, name):.3g}" for name in FIGURES)
    return fitted, f"{len(samples)} layers: {figures}"


def _calibrated(target: Target, board: Board, samples: Sequence[Sample]) -> Target:
    """The target with figures that fit what was measured, and where they are from."""
    workloads = [sample.workload for sample in samples]
    fitted = calibrate(target, workloads, [sample.latency_ms for sample in samples])
    source = f"fitted to {len(samples)} layers that were measured on {board.processor}"
    return replace(fitted, sources=target.sources | dict.fromkeys(FIGURES, source))


def describe_profile(profile: Profile) -> str:
    """One line: how much was measured, and how good the machine was to measure on."""
    spread = float(np.median([sample.spread for sample in profile.samples]))
    networks = "1 network" if profile.networks == 1 else f"{profile.networks} networks"
    told = (
        f"{len(profile.samples)} layers in {networks} on {profile.processor}; "
        f"between runs a layer differed by {spread:.1%}"
    )
    if len(profile.references_ms) < 2:
        return told
    return f"{told}, and a whole network between rounds by {profile.drift:.1%}"


def _with_entry(target: Target, board: Board) -> Target:
    """The target with what a request costs it that comes after a pause."""
    with compilers(target) as compile_networks:
        drawn = list(compile_networks(ENTRY_NETWORKS))
    entry = measure_entry(drawn, board)
    source = (
        f"fitted to {len(drawn)} networks that ran after waiting for {1e3 * PAUSE_S:.0f} ms "
        f"on {board.processor}"
    )
    return replace(
        target,
        entry_ms=entry.entry_ms,
        cold_share=entry.cold_share,
        sources=target.sources | dict.fromkeys(("entry_ms", "cold_share"), source),
    )


def describe_entry(target: Target) -> str:
    """How much longer than its layers a request takes."""
    return (
        f"after a pause a request takes {target.entry_ms:.2f} ms and {target.cold_share:.1%} more "
        "than its layers"
    )


def _with_codec(target: Target, board: Board) -> Target:
    """The target with how slow this machine is at encoding tensors."""
    slowdown = round(measure_codec_slowdown(target), 2)
    sources = target.sources | {"codec_slowdown": f"measured on one core of {board.processor}"}
    return replace(target, codec_slowdown=slowdown, sources=sources)


def describe_codec(target: Target) -> str:
    """How long encoding takes, beside the machine that the times of steps were measured on."""
    return (
        f"encoding tensors takes {target.codec_slowdown:.2f} times as long as partc's figures say"
    )


# Power -------------------------------------------------------------------------------------------


def _with_power(target: Target, board: Board, meter: Meter) -> tuple[Target, bool]:
    """The target with the power that a meter shows, waiting and computing, and if it shows any."""
    drawn = compile_drawn(1, target)
    network = board.load(drawn.network, drawn.inputs)
    with meter.record() as idle:
        time.sleep(_POWER_S)
    with meter.record() as busy:
        started = time.monotonic()
        while time.monotonic() - started < _POWER_S:
            network.time_layers(RUNS)
    if busy.watts <= 0:
        return target, False
    watts = {"idle_watts": idle.watts, "busy_watts": max(idle.watts, busy.watts)}
    source = f"measured by {meter.name}"
    return replace(target, **watts, sources=target.sources | dict.fromkeys(watts, source)), True


# Load --------------------------------------------------------------------------------------------


def _with_load(target: Target, board: Board) -> Target:
    """The target with what computing others at the same time costs a request here."""
    source = f"measured on {board.processor} with processes that compute the same network"
    return replace(target, load=measure_load(target), sources=target.sources | {"load": source})


def describe_load(curve: LoadCurve) -> str:
    """One line: how many times longer a request takes, by how many others there are."""
    points = zip(curve.busy[1:], curve.slowdown[1:], strict=True)
    told = ", ".join(f"{slowdown:.2f} times beside {busy:g}" for busy, slowdown in points)
    return f"how much longer a request takes while others are computed: {told}"
