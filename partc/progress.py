"""What a terminal shows while something takes its time; lines of text where there is none."""

from __future__ import annotations

import sys
from collections.abc import Callable, Generator
from contextlib import contextmanager
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, Progress, TimeRemainingColumn


@contextmanager
def show_steps() -> Generator[Callable[[str], None]]:
    """Show which step runs: a spinner on a terminal, a line for each step elsewhere."""
    console = Console(stderr=True)
    if not console.is_terminal:
        yield lambda step: print(step, file=sys.stderr, flush=True)
        return
    with console.status("Loading the compiler") as status:

        def show(step: str) -> None:
            status.update(escape(step))
            console.print(escape(step), style="dim")

        yield show


@contextmanager
def show_budget() -> Generator[Callable[[Any], None]]:
    """Show how much of a profile's time is spent: a bar on a terminal, a line a step elsewhere."""
    console = Console(stderr=True)
    if not console.is_terminal:
        yield lambda step: print(_describe_step(step), file=sys.stderr, flush=True)
        return
    columns = ("{task.description}", BarColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console) as bar:
        task = bar.add_task("Compiling", total=None)

        def show(step: Any) -> None:
            if isinstance(step, str):
                bar.update(task, description=escape(step))
                return
            told = f"{step.layers} layers in {_count_networks(step)}"
            spent_s = min(step.spent_s, step.budget_s)
            bar.update(task, description=told, completed=spent_s, total=step.budget_s)

        yield show


def _describe_step(step: Any) -> str:
    if isinstance(step, str):
        return step
    spent = f"{step.spent_s:.0f} of {step.budget_s:.0f} s"
    return f"{_count_networks(step)}, {step.layers} layers, {spent}"


def _count_networks(step: Any) -> str:
    return "1 network" if step.networks == 1 else f"{step.networks} networks"
