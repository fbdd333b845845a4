"""Tables of what planners choose, and of what that costs."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
from cases import Case
from measuring import geometric_mean
from rich.table import Table

from partc.cost import LATENCY, Cost, energy
from partc.passes.baselines import PLANNERS, published
from partc.plan import DevicePower, Plan


def titled_table(*columns: str) -> Table:
    """Numbers in all columns but the first."""
    table = Table(*columns)
    for column in table.columns[1:]:
        column.justify = "right"
    return table


def plan_table(cases: Sequence[Case]) -> Table:
    """Latency and energy of every case of a device."""
    table = titled_table(
        *("app", "link", "cloud ms", "device ms", "partc ms", "on server", "x cloud", "x device"),
        *("cloud mJ", "device mJ", "partc mJ", "on server", "saved"),
    )
    for case in cases:
        fast, frugal = case.best(LATENCY), case.best(energy(case.power))
        sides = (case.cloud_only, case.device_only)
        times = [plan.latency_ms(case.conditions) for plan in (*sides, fast)]
        energies = [plan.energy_mj(case.conditions, case.power) for plan in (*sides, frugal)]
        table.add_row(
            case.application.name,
            case.link.name,
            *(f"{each:,.1f}" for each in times),
            on_server(fast),
            *(f"{each / times[-1]:,.2f}" for each in times[:2]),
            *(f"{each:,.0f}" for each in energies),
            on_server(frugal),
            f"{1 - energies[-1] / energies[0]:.1%}",
        )
    return table


def on_server(plan: Plan) -> str:
    """How many layers are on the server, of how many."""
    count = len(plan.server_layers)
    return f"{count} of {count + len(plan.device_layers)}"


def optimum_table(cases: Sequence[Case]) -> Table:
    """What share of the best each planner reaches: the best cost over that of its choice."""
    titles = ("latency, mean", "least", "worst case", "energy, mean", "least", "cannot be run")
    table = titled_table("planner", *titles)
    for name in PLANNERS:
        fast = [(share_of_best(case, name, LATENCY), case) for case in cases]
        frugal = [(share_of_best(case, name, energy(case.power)), case) for case in cases]
        known, known_frugal = _known(fast), _known(frugal)
        least, worst = min(known, key=lambda pair: pair[0])
        names = worst.application.name, worst.device.name, worst.link.name
        failed = len(fast + frugal) - len(known + known_frugal)
        table.add_row(
            name,
            f"{np.mean([share for share, _ in known]):.1%}",
            f"{least:.1%}",
            " ".join(names) if least < 1 - 1e-6 else "",
            f"{np.mean([share for share, _ in known_frugal]):.1%}",
            f"{min(share for share, _ in known_frugal):.1%}",
            f"{failed} of {2 * len(cases)}" if failed else "",
        )
    return table


def share_of_best(case: Case, planner: str, cost: Cost) -> float | None:
    chosen = case.choose(planner, cost)
    if chosen is None:
        return None
    return cost.of(case.best(cost), case.conditions) / cost.of(chosen, case.conditions)


def _known(shares: Iterable[tuple[float | None, Case]]) -> list[tuple[float, Case]]:
    return [(share, case) for share, case in shares if share is not None]


def headline_table(cases: Sequence[Case]) -> Table:
    """The figures of the paper's abstract beside ours."""
    table = titled_table("over cloud-only", "paper", "partc")
    speedups, larger = (
        np.array([1 / _relative(case, LATENCY) for case in group])
        for group in (cases, _larger(cases))
    )
    small = "without POS, CHK, NER"
    table.add_row("latency, mean", "3.1x", f"{speedups.mean():,.1f}x")
    table.add_row("latency, geometric mean", "", f"{geometric_mean(speedups.tolist()):,.1f}x")
    mean = geometric_mean(larger.tolist())
    table.add_row(f"latency, geometric mean, {small}", "", f"{mean:,.1f}x")
    table.add_row(f"latency, most, {small}", "", f"{larger.max():,.1f}x")
    table.add_row("latency, most", "40.7x", f"{speedups.max():,.1f}x")
    table.add_row("latency, least", "", f"{speedups.min():,.2f}x")
    for title, counted in (("all of it", energy), ("as the paper counts", _published_energy)):
        savings = np.array([1 - _relative(case, counted(case.power)) for case in cases])
        table.add_row(f"energy saved, {title}: mean", "59.5%", f"{savings.mean():.1%}")
        table.add_row(f"energy saved, {title}: most", "94.7%", f"{savings.max():.1%}")
    shares = [share_of_best(case, "neurosurgeon", LATENCY) or 0.0 for case in cases]
    table.add_row("Neurosurgeon's share of the best", "98.5%", f"{np.mean(shares):.1%}")
    return table


def _larger(cases: Sequence[Case]) -> list[Case]:
    return [case for case in cases if case.application.title != "SENNA"]


def _published_energy(power: DevicePower) -> Cost:
    return published(energy(power))


def _relative(case: Case, cost: Cost) -> float:
    """The best plan's cost over that of cloud-only."""
    return cost.of(case.best(cost), case.conditions) / cost.of(case.cloud_only, case.conditions)


def point_table(cases: Sequence[Case]) -> Table:
    """AlexNet, of which the paper's text tells more."""
    found = {
        (case.device.name, case.link.name): case for case in cases if case.application.name == "IMC"
    }
    cpu, gpu = found["jetson-tk1-cpu", "3g"], found["jetson-tk1", "wifi"]
    cloud, fast, whole = gpu.cloud_only, gpu.best(LATENCY), energy(gpu.power)
    sending_ms = cpu.cloud_only.upload_ms(cpu.conditions)
    speedup, saved = 1 / _relative(gpu, LATENCY), 1 - _relative(gpu, whole)
    table = titled_table("AlexNet", "paper", "partc")
    ratio = f"{sending_ms / cpu.device_only.device_ms:.1f}"
    table.add_row("sending the image over 3G / computing on the CPU", "2.3", ratio)
    share = f"{cloud.server_ms / cloud.latency_ms(gpu.conditions):.0%}"
    table.add_row("computing, of cloud-only over Wi-Fi", "6%", share)
    first = fast.server_layers[0] if fast.server_layers else "none"
    table.add_row("GPU, Wi-Fi: the first layer on the server", "fc6, 16.matmul", first)
    table.add_row("GPU, Wi-Fi: latency over cloud-only", "2.0x", f"{speedup:.1f}x")
    table.add_row("GPU, Wi-Fi: energy saved", "18%", f"{saved:.0%}")
    return table
