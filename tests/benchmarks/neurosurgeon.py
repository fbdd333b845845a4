"""The evaluation of Neurosurgeon (Kang et al., ASPLOS 2017), for partc's plans and for theirs.

Eight applications, three networks and two devices, the CPU and the GPU of a Jetson TK1, with a
Tesla K40 as the server. Nothing is run: times come from rooflines, or with --profiles from what was
measured on this machine. Prints figures of the paper beside ours; docs/evaluation.md explains them.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from functools import cache, partial
from itertools import product

import numpy as np
from applications import APPLICATIONS
from cases import (
    LINKS,
    Case,
    Machines,
    as_slow_as_measured,
    by_device,
    data_sheets,
    lower_application,
    make_cases,
    measured,
)
from datacenter import CONFIDENCE, PRECISION, Array, Check, Datacenter, check_queues, percentile_ms
from plan_tables import (
    headline_table,
    on_server,
    optimum_table,
    plan_table,
    point_table,
    titled_table,
)
from rich.console import Console
from rich.table import Table
from varying import STEP_S, Course, bandwidth_course, follow, load_course

from partc.cost import LATENCY
from partc.graph import LayerGraph
from partc.report.terminal import report_console

_SERVERS = 4
_IN_TIME = 0.95
_LATE = 1.5  # times the longest service that cloud-only needs
_SHOWN_S = 20
_PUBLISHED_THROUGHPUT = {"wifi": 1.04, "lte": 1.43, "3g": 2.36}
_PROGRESS = Console(stderr=True, highlight=False)


# Over time ---------------------------------------------------------------------------------------


def course_table(cases: Sequence[Case], course: Course) -> tuple[Table, int]:
    """Mean latencies where more than one plan is the best at some time; and how many others."""
    names = ("cloud-only", "fixed split", "Neurosurgeon", "partc", "oracle")
    table = titled_table(
        "app", "device", *(f"{name} ms" for name in names), "best plans", "partc / oracle"
    )
    others = 0
    for case in cases:
        if case.link.name != course.link:
            continue
        followed = follow(case, course)
        others += followed.best_plans == 1
        if followed.best_plans > 1:
            means = [float(followed.latencies_ms[name].mean()) for name in names]
            cells = [f"{mean:,.1f}" for mean in means]
            ratio = f"{means[-2] / means[-1]:.3f}"
            title = case.application.name, case.device.name
            table.add_row(*title, *cells, str(followed.best_plans), ratio)
    return table, others


def timeline_table(case: Case, course: Course) -> Table:
    """How planners follow a course: every so often, latencies and layers on the server."""
    followed = follow(case, course)
    table = titled_table(
        "s", "Mbit/s up", "load", *(f"{name} ms" for name in followed.plans), "partc's plan"
    )
    for step in range(0, len(course.actual), _SHOWN_S // STEP_S):
        actual = course.actual[step]
        table.add_row(
            str(step * STEP_S),
            f"{actual.uplink_mbps:.1f}",
            f"{actual.load:.1f}",
            *(f"{times[step]:,.1f}" for times in followed.latencies_ms.values()),
            on_server(followed.plans["partc"][step]),
        )
    return table


# Throughput --------------------------------------------------------------------------------------


def throughput_table(cases: Sequence[Case]) -> Table:
    """Queries a second that a datacenter can answer, relative to cloud-only.

    Of those that keep the limit, and of those that would keep all servers at work all the time.
    """
    devices = by_device(cases)
    titles = ("device", "paper", "applications asking", "queries/s", "ratio", "ratio at full use")
    table = titled_table("link", *titles)
    cloud = _services_ms(next(iter(devices.values())), LINKS[0], cloud_only=True)
    limit_ms = _LATE * max(cloud)
    most_hz = _capacity_hz(cloud, limit_ms)
    for link, name in product(LINKS, devices):
        _PROGRESS.print(f"Simulating a datacenter: {name}, {link}")
        split = _services_ms(devices[name], link)
        row = ["any number", "", ""]
        if any(split):
            found_hz = _capacity_hz(split, limit_ms)
            work = sum(cloud) / sum(split)
            row = [f"{found_hz:,.0f}", f"{found_hz / most_hz:.2f}x", f"{work:.2f}x"]
        table.add_row(link, name, f"{_PUBLISHED_THROUGHPUT[link]}x", _asking(split), *row)
    table.add_section()
    table.add_row("cloud-only", "", "", _asking(cloud), f"{most_hz:,.0f}", "1.00x", "1.00x")
    return table


def _services_ms(
    cases: Sequence[Case], link: str, *, cloud_only: bool = False
) -> tuple[float, ...]:
    """What the server computes for each application behind a link."""
    behind = [case for case in cases if case.link.name == link]
    plans = [case.cloud_only if cloud_only else case.best(LATENCY) for case in behind]
    return tuple(plan.server_ms for plan in plans)


def _asking(services_ms: Sequence[float]) -> str:
    return f"{sum(each > 0 for each in services_ms)} of {len(services_ms)}"


@cache
def _capacity_hz(services_ms: tuple[float, ...], limit_ms: float) -> float:
    """Queries a second, spread evenly over the applications, of which 95 % are answered in time.

    Those that the device answers alone never get to the datacenter, and count as in time.
    """
    served = np.array([each for each in services_ms if each > 0])
    share = len(served) / len(services_ms)
    late_ms = partial(percentile_ms, 1 - (1 - _IN_TIME) / share)
    datacenter = Datacenter(partial(_draw, served), _SERVERS)
    return 1e3 * datacenter.capacity(float(served.mean()), late_ms, limit_ms) / share


def _draw(services_ms: Array, random: np.random.Generator, count: int) -> Array:
    return random.choice(services_ms, count)


def check_table(checks: Sequence[Check]) -> Table:
    """The simulation where formulas are known."""
    table = titled_table("queue", "simulated ms", "formula ms", "agrees")
    for check in checks:
        agrees = "yes" if check.holds else "no"
        table.add_row(check.title, str(check.simulated), f"{check.expected_ms:.3f}", agrees)
    return table


# Report ------------------------------------------------------------------------------------------


def print_plans(console: Console, machines: Machines, cases: Sequence[Case]) -> None:
    """What every case comes to, and the figures of the paper's abstract."""
    console.rule(f"Times: {machines.title}")
    for name, own in by_device(cases).items():
        console.print(f"\n{name} and {machines.server.name}: a query's latency and energy")
        console.print(plan_table(own))
        _print_extrapolation(console, own)
    console.print("\nPlanners' choices: the best cost / that of the choice")
    console.print(optimum_table(cases))
    console.print(f"\nThe paper's figures beside ours, over {len(cases)} cases")
    console.print(headline_table(cases))


def _print_extrapolation(console: Console, cases: Sequence[Case]) -> None:
    layers = [layer for case in cases for layer in case.graph.layers]
    unlike = sum(layer.annotated_cost.extrapolated for layer in layers)
    if unlike:
        console.print(f"{unlike / len(layers):.0%} of the layers are unlike all that was measured")


def print_courses(console: Console, cases: Sequence[Case]) -> None:
    for course in (bandwidth_course(), load_course()):
        table, others = course_table(cases, course)
        console.print(f"\n{course.title}: mean latency over {len(course.actual) * STEP_S} s")
        if table.row_count:
            console.print(table)
        console.print(f"{others} other applications and devices have one best plan throughout")


def print_timeline(
    console: Console, cases: Sequence[Case], course: Course, application: str, device: str
) -> None:
    wanted = (application, device, course.link)
    (case,) = (
        case
        for case in cases
        if (case.application.name, case.device.name, case.link.name) == wanted
    )
    console.print(f"\n{application} on {device}; {course.title}")
    console.print(timeline_table(case, course))


def print_throughput(console: Console, cases: Sequence[Case]) -> None:
    console.print(
        f"\nThroughput of {_SERVERS} servers, first come, first served; Poisson arrivals, spread "
        f"evenly over the applications: as many queries as leave\n{_IN_TIME:.0%} of all, or their "
        f"remainders, answered by the datacenter within {_LATE} times cloud-only's longest service "
        f"(that ± {PRECISION:.0%}, at {CONFIDENCE:.0%} confidence)"
    )
    console.print(throughput_table(cases))


_NOTES = (
    "Rooflines say how fast a machine could be. AlexNet took several times as long on each of "
    "the three, so that with rooflines over data sheets the devices need their server for next "
    "to nothing. The second part scales each machine by one number, AlexNet's time in the paper "
    "(recalled, not re-read; it agrees with what summaries quote).",
    "Means of ratios are ruled by POS, CHK and NER, which compute for a fraction of a "
    "millisecond: whatever a network takes is gained. What a request cost the paper's software "
    "besides computing is not known; it bounds such gains.",
    "IMC's image is a JPEG of 152 kB, as in the paper: who computes on it decodes it, which takes "
    "time here and was free there, and normalises it, in a layer.",
    "All of a request's energy includes the radio's tail (LTE: 12.3 J), the device's idling and "
    "the download. The paper's formula counts computing and sending alone; the plans in its "
    "rows are the best by that formula. The TK1's watts are those of its CPU and GPU together, "
    "at most.",
    "All planners are given the times that plans are then charged with. So Neurosurgeon falls "
    "short of the best only by what its formula leaves out: the download (ASR's answer has 3.7 "
    "MB) and the round trip; for energy also the tail and idling. `make bench-predict` shows "
    "what its regressions add to that.",
    "DADS cannot run what it chooses where a device layer would read what the server made, "
    "which its network does not forbid.",
    "A locally connected layer of FACE is several layers to partc: windows are gathered, and "
    "then multiplied by the filters of each place.",
    "Rates and radio powers are JointDNN's. The paper's networks were others: 152 kB took 870 "
    "ms over 3G, 180 over LTE and 95 over Wi-Fi (recalled, not re-read), and take 1,105, 208 "
    "and 64 ms here.",
    "The paper's arrivals follow a trace of web searches that is not public, and its service "
    "times were measured. Ours are Poisson, and constant for each application. Where devices "
    "answer all applications alone, no number of queries is too many for the datacenter. At "
    "full use, the ratio is that of the servers' work.",
)

_HOW_TO_MEASURE = (
    "partc profile --target x86-64 -o device.toml",
    "partc profile --target native --threads 2 -o server.toml",
    "make bench-neurosurgeon ARGS='--profiles device.toml server.toml'",
)


def print_notes(console: Console) -> None:
    for note in _NOTES:
        console.print(f"\n- {note}")
    console.print("\nMeasured on this machine: skipped. These commands make two targets for it:")
    for line in _HOW_TO_MEASURE:
        console.print(f"  {line}")


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--profiles",
        nargs=2,
        metavar=("DEVICE.toml", "SERVER.toml"),
        help="plan for these instead, as `partc profile` has written them",
    )
    options = parser.parse_args(arguments)
    console = report_console(sys.stdout)
    graphs: dict[str, LayerGraph] = {}
    for application in APPLICATIONS:
        _PROGRESS.print(f"Importing {application.name}, {application.title}")
        graphs[application.name] = lower_application(application)
    if options.profiles:
        machines = measured(*options.profiles)
        print_plans(console, machines, make_cases(graphs, machines))
        return 0
    for machines in (data_sheets(), as_slow_as_measured(graphs)):
        cases = make_cases(graphs, machines)
        print_plans(console, machines, cases)
        console.print("\nWhat the paper says of AlexNet beside ours")
        console.print(point_table(cases))
        print_courses(console, cases)
        print_throughput(console, cases)
    print_timeline(console, cases, bandwidth_course(), "IMC", "jetson-tk1-cpu")
    print_timeline(console, cases, load_course(), "IMC", "jetson-tk1")
    console.print("\nThe queueing simulation, checked: the mean wait, at services of 1 ms")
    checks = list(check_queues())
    console.print(check_table(checks))
    print_notes(console)
    return 0 if all(check.holds for check in checks) else 1


if __name__ == "__main__":
    sys.exit(main())
