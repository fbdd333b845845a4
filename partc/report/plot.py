"""A range of conditions as a picture: which plan wins where, and what it costs."""
# Matplotlib declares its types only in part.
# pyright: reportUnknownMemberType=false

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import BoundaryNorm, ListedColormap
from matplotlib.figure import Figure

from partc.errors import PartcError
from partc.passes.price import Array
from partc.plan import CONDITION_NAMES, Conditions, Objective, Plan
from partc.report.figure import save_figure
from partc.report.survey import TITLES, Survey, describe_interval

_POINTS = 300
_POINTS_OF_AREAS = 120
_WIDTH, _HEIGHT = 7.0, 4.0  # in inches
_COSTS = {
    Objective.LATENCY: "latency, ms",
    Objective.ENERGY: "energy, mJ",
    Objective.WEIGHTED: "latency and energy, ms",
}
_RATES = ("uplink_mbps", "downlink_mbps")


def save_plot(survey: Survey, path: Path) -> None:
    """Draw a survey into a file, ``.svg``, ``.pdf`` or ``.png``.

    With one varying condition every plan's cost is a line; with more, the first two are the
    axes, and the plans that win are areas, others being at the better end of their ranges.

    Raises:
        PartcError: Nothing varies, or the file cannot be written.
    """
    if not survey.varying:
        raise PartcError("--plot draws a range of conditions; give one, such as --uplink 0.5..50")
    figure = Figure(figsize=(_WIDTH, _HEIGHT), layout="constrained")
    axes: Axes = figure.add_subplot()
    if len(survey.varying) == 1:
        _draw_lines(survey, axes)
    else:
        _draw_areas(survey, axes, figure)
    axes.set_title(f"{survey.graph.name} on {survey.target} and {survey.server}")
    save_figure(figure, path)


def _draw_lines(survey: Survey, axes: Axes) -> None:
    (name,) = survey.varying
    places = _places(survey, name, _POINTS)
    for title, winner in survey.winners.items():
        costs = np.array([_cost(survey, winner.plan, {name: place}) for place in places])
        (line,) = axes.plot(places, costs, linewidth=1, label=title)
        low, high = winner.interval(name)
        wins = (places >= low) & (places <= high)
        axes.plot(places[wins], costs[wins], linewidth=3, color=line.get_color())
    axes.set(
        xlabel=TITLES[name], ylabel=_COSTS[survey.objective], yscale="log", xscale=_scale(name)
    )
    axes.legend(title="bold where it wins")


def _draw_areas(survey: Survey, axes: Axes, figure: Figure) -> None:
    across, up, *others = survey.varying
    columns, rows = (_places(survey, name, _POINTS_OF_AREAS) for name in (across, up))
    winners = survey.winners
    costs = np.array(
        [
            [[_cost(survey, each.plan, {across: x, up: y}) for x in columns] for y in rows]
            for each in winners.values()
        ]
    )
    best = costs.argmin(axis=0)
    colors = ListedColormap(mpl.colormaps["tab20"](np.arange(len(winners)) % 20))
    norm = BoundaryNorm(np.arange(len(winners) + 1) - 0.5, len(winners))
    mesh = axes.pcolormesh(columns, rows, best, cmap=colors, norm=norm, rasterized=True)
    bar = figure.colorbar(mesh, ticks=range(len(winners)))
    bar.ax.set_yticklabels(list(winners))
    axes.set(xlabel=TITLES[across], ylabel=TITLES[up], xscale=_scale(across), yscale=_scale(up))
    ranges = dict(zip(CONDITION_NAMES, survey.range.intervals, strict=True))
    if others:
        axes.set_xlabel(
            f"{TITLES[across]}\n"
            + ", ".join(f"{TITLES[name]}: {describe_interval(ranges[name])}" for name in others)
        )


def _places(survey: Survey, name: str, count: int) -> Array:
    """Values of a condition, evenly spread as they are drawn."""
    low, high = survey.range.intervals[CONDITION_NAMES.index(name)]
    if _scale(name) == "log":
        return np.geomspace(low, high, count)
    return np.linspace(low, high, count)


def _scale(name: str) -> str:
    return "log" if name in _RATES else "linear"


def _cost(survey: Survey, plan: Plan, known: Mapping[str, float]) -> float:
    """What a plan costs if some conditions are known and the others at their better ends."""
    intervals = zip(CONDITION_NAMES, survey.range.intervals, strict=True)
    better = {name: high if name in _RATES else low for name, (low, high) in intervals}
    at = Conditions(**{**better, **known})
    return survey.envelope.cost_at(at).of(plan, at)
