"""The command line: one short function for each command."""

from __future__ import annotations

import functools
import shlex
import sys
import traceback
from collections.abc import Iterable
from importlib import metadata
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.markup import escape
from rich.table import Table

from partc.errors import BundleError, CompilerError, PartcError
from partc.frontends.form import find_form
from partc.goal import SERVER, make_goal
from partc.graph import PLAIN
from partc.options import (
    AsJson,
    BoardAddress,
    CalibrationFile,
    Model,
    PreprocessTexts,
    ServerName,
    ShapeTexts,
    by_name,
    takes_a_goal,
    takes_a_goal_or_tiers,
)
from partc.plan import Cut, Side
from partc.progress import show_budget, show_steps
from partc.question import Question

# What only some commands need is imported where they need it: the compiler takes seconds to load.

app = typer.Typer(
    name="partc",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)


def _show_help(context: typer.Context, directory: Path) -> Path:
    """Help for a command that leaves --help after DIR to the half of the bundle."""
    if str(directory) in ("-h", "--help"):
        typer.echo(context.get_help())
        raise typer.Exit
    return directory


BundleDirectory = Annotated[
    Path,
    typer.Argument(metavar="DIR", help="A bundle.", show_default=False, callback=_show_help),
]
# What follows DIR, --help included, is for the half.
_half_command = functools.partial(
    app.command,
    context_settings={"allow_extra_args": True, "ignore_unknown_options": True},
    add_help_option=False,
    no_args_is_help=True,
)


def main() -> None:
    """Run the command line; a user's mistake is one sentence and exit status 2."""
    try:
        app(prog_name="partc")
    except PartcError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
    except CompilerError as error:
        traceback.print_exc()
        print(f"error: this is a fault of partc, please report it: {error}", file=sys.stderr)
        sys.exit(1)


@app.command("compile", no_args_is_help=True)
@takes_a_goal
def compile_command(
    model: Model,
    goal: Any,
    shape: ShapeTexts = [],  # noqa: B006  typer copies it
    preprocess: PreprocessTexts = [],  # noqa: B006
    calibration: CalibrationFile = None,
    output: Annotated[
        Path, typer.Option("--output", "-o", metavar="DIR", help="The directory of the bundle.")
    ] = Path("out"),
) -> None:
    """Compile a model to a bundle: two artifacts and the glue between them."""
    from partc.report.terminal import print_decision, report_console

    said = _read_inputs(shape, preprocess, calibration)
    find_form(model)
    with show_steps() as progress:
        from partc.compiler import compile_model
        from partc.frontends.load import Inputs

        decisions = compile_model(model, goal, output, Inputs(**said), progress)
    console = report_console(sys.stdout)
    for decision in decisions:
        print_decision(decision, console)
        console.print()
    if goal.varies:
        _inspect_bundle(output, as_json=False)
    typer.echo(f"wrote {output}; next: partc serve {shlex.quote(str(output))}")


@app.command(no_args_is_help=True)
@takes_a_goal_or_tiers
def plan(
    model: Model,
    goal: Any,
    shape: ShapeTexts = [],  # noqa: B006
    preprocess: PreprocessTexts = [],  # noqa: B006
    calibration: CalibrationFile = None,
    as_json: AsJson = False,
    plot: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE", help="Draw which plan wins where, into an .svg, .pdf or .png."
        ),
    ] = None,
    pareto: Annotated[
        bool,
        typer.Option("--pareto", help="Show all plans between least latency and least energy."),
    ] = False,
    switches: Annotated[
        int,
        typer.Option(
            metavar="COUNT",
            min=1,
            help="How often layers may change between device and server; 2 lets the last ones, or "
            "all behind the first ones, be on the device again. Shown only: in a bundle no layer "
            "on the device reads what the server made.",
        ),
    ] = 1,
    overlap: Annotated[
        bool,
        typer.Option(
            "--overlap",
            help="Plan as if device, link and server worked at the same time. Shown only: in a "
            "bundle one step follows the other.",
        ),
    ] = False,
    compare: Annotated[
        bool, typer.Option("--compare", help="Show what other planners would choose.")
    ] = False,
) -> None:
    """Decide what runs where, and show what the decision rests on, without compiling.

    For a range of conditions, such as --uplink 0.5..50, show every plan that wins in it.
    """
    from partc.report.terminal import report_console

    said = _read_inputs(shape, preprocess, calibration)
    question = Question(pareto, compare, switches, overlap)
    question.check(goal, drawn=plot is not None, alone=as_json or plot is not None)
    find_form(model)
    with show_steps() as progress:
        from partc.answers import answer
        from partc.frontends.load import Inputs

        answers = answer(model, goal, question, Inputs(**said), progress)
    console = report_console(sys.stdout)
    for each in answers:
        if as_json:
            typer.echo(each.json(), nl=False)
        else:
            each.show(console)
            console.print()
    if plot and answers[0].plot:
        answers[0].plot(plot)
        typer.echo(f"wrote {plot}", err=as_json)


@app.command(no_args_is_help=True)
def inspect(
    model: Annotated[
        str,
        typer.Argument(
            metavar="MODEL|DIR",
            help="A model, as for compile, or a bundle's directory.",
            show_default=False,
        ),
    ],
    target: Annotated[
        str | None,
        typer.Option("--target", metavar="NAME", help="Predict times on this device, too."),
    ] = None,
    server: ServerName = SERVER,
    link: Annotated[
        str,
        typer.Option("--link", metavar="NAME", help="A name from `partc links`, or a .toml file."),
    ] = "wifi",
    shape: ShapeTexts = [],  # noqa: B006
    preprocess: PreprocessTexts = [],  # noqa: B006
    as_json: AsJson = False,
    as_text: Annotated[bool, typer.Option("--text", help="Print the textual form.")] = False,
    as_dot: Annotated[bool, typer.Option("--dot", help="Print Graphviz.")] = False,
    html: Annotated[
        Path | None,
        typer.Option("--html", metavar="FILE", help="Write a page to this file; needs --target."),
    ] = None,
) -> None:
    """Show a model's layer graph, or what is in a bundle."""
    if sum((as_json, as_text, as_dot, html is not None)) > 1:
        raise PartcError("give one of --json, --text, --dot and --html")
    if Path(model).is_dir():
        if as_text or as_dot or html:
            raise PartcError(f"{model} is a bundle, which is shown as a table or with --json")
        _inspect_bundle(Path(model), as_json)
        return
    if html and not target:
        raise PartcError("--html shows times, so it needs --target; `partc targets` lists them")
    goal = make_goal(target=target, server=server, link=link) if target else None
    said = _read_inputs(shape, preprocess)
    find_form(model)
    with show_steps() as progress:
        from partc.compiler import lower_model
        from partc.frontends.load import Inputs
        from partc.planner import decide, predict_costs

        graph = lower_model(model, Inputs(**said), progress)
        decision = decide(predict_costs(graph, goal), goal)[0] if goal else None
    graph = decision.graph if decision else graph
    cut = decision.plan.cut if decision else None
    if html:
        _write_html(html, decision)
    elif as_json or as_text or as_dot:
        typer.echo(_graph_text(graph, cut, as_json=as_json, as_text=as_text), nl=False)
    else:
        from partc.report.terminal import layer_table, report_console

        report_console(sys.stdout).print(layer_table(graph, cut))


@_half_command()
def serve(context: typer.Context, directory: BundleDirectory) -> None:
    """Run the server's half of a bundle; `partc serve DIR --help` lists its options."""
    from partc.bundle import open_bundle

    sys.exit(open_bundle(directory).half(Side.SERVER).main(context.args))


@_half_command()
def run(context: typer.Context, directory: BundleDirectory) -> None:
    """Run the model once on arrays from files; `partc run DIR --help` lists the options."""
    from partc.bundle import open_bundle

    sys.exit(open_bundle(directory).half(Side.DEVICE).main(context.args))


@app.command("emulate-link")
def emulate_link(
    link: Annotated[
        str, typer.Option(metavar="NAME", help="A name from `partc links`, or a .toml file.")
    ],
    listen: Annotated[
        str, typer.Option(metavar="HOST:PORT", help="What clients connect to; port 0: any.")
    ],
    to: Annotated[str, typer.Option(metavar="HOST:PORT", help="The server.")],
    outage: Annotated[
        list[str],
        typer.Option(metavar="START:SECONDS", help="Hold everything for so long; may be repeated."),
    ] = [],  # noqa: B006
) -> None:
    """Relay TCP with the rates and the delay of a link, until interrupted."""
    from partc.emulator import parse_address, run_emulator
    from partc.targets.link import load_link

    described = load_link(link)
    run_emulator(
        parse_address(listen),
        parse_address(to),
        described.conditions,
        lambda line: print(line, flush=True),
        name=described.name,
        outages=[_outage(text) for text in outage],
    )


@app.command()
def profile(
    target: Annotated[
        str,
        typer.Option(
            "--target", metavar="NAME", help="What to compile for, a name or a .toml file."
        ),
    ] = "native",
    threads: Annotated[
        int | None,
        typer.Option(metavar="COUNT", help="Threads to compute with; else the target's.", min=1),
    ] = None,
    rpc: BoardAddress = None,
    budget: Annotated[
        float,
        typer.Option(
            metavar="MINUTES",
            help="How long to measure layers. What a request costs takes half a minute more, and "
            "--load about half a minute.",
            min=0.1,
        ),
    ] = 10.0,
    calibrate: Annotated[
        bool,
        typer.Option("--calibrate", help="Only scale the target's figures, in under a minute."),
    ] = False,
    load: Annotated[
        bool,
        typer.Option(
            "--load",
            help="For a server: measure also how much slower it is while it computes others.",
        ),
    ] = False,
    output: Annotated[
        Path,
        typer.Option("--output", "-o", metavar="FILE.toml", help="The target to write."),
    ] = Path("profiled.toml"),
) -> None:
    """Measure a machine, to predict any model on it; an interrupted profile goes on from there."""
    from partc.profiler.command import Request, profile_target

    request = Request(target, threads, rpc, 60 * budget, calibrate, load, output)
    with show_budget() as report:
        told = profile_target(request, report)
    typer.echo(told)


@app.command()
def targets() -> None:
    """List the machines that come with partc."""
    from partc.targets.target import builtin_targets

    _print_table(
        ("name", "also", "peak GFLOP/s", "memory GB/s", "busy W", "compiles", "description"),
        (
            (
                target.name,
                ", ".join(target.aliases),
                f"{target.peak_gflops:g}",
                f"{target.memory_bandwidth_gb_s:g}",
                f"{target.busy_watts:g}",
                "plan only" if target.uncompilable else "yes",
                target.description,
            )
            for target in builtin_targets()
        ),
    )


@app.command()
def links() -> None:
    """List the links that come with partc."""
    from partc.targets.link import builtin_links

    _print_table(
        ("name", "also", "up Mbit/s", "down Mbit/s", "round trip ms", "description"),
        (
            (
                link.name,
                ", ".join(link.aliases),
                f"{link.uplink_mbps:g}",
                f"{link.downlink_mbps:g}",
                f"{link.round_trip_ms:g}",
                link.description,
            )
            for link in builtin_links()
        ),
    )


@app.callback(invoke_without_command=True)
def root(
    version: Annotated[bool, typer.Option("--version", help="Print the version.")] = False,
) -> None:
    """Split a neural network between a device and a server, and compile both halves."""
    if version:
        print(f"partc {metadata.version('partc')}")
        raise typer.Exit


def _read_inputs(
    shapes: Iterable[str], preprocess: Iterable[str], calibration: Path | None = None
) -> dict[str, Any]:
    """What is said of a model's inputs, as keyword arguments of ``Inputs``."""
    from partc.frontends.calibration import read_calibration
    from partc.frontends.normalisation import parse_preprocessing

    texts = by_name("--preprocess", map(_normalisation, preprocess))
    parse_preprocessing(texts)
    return {
        "shapes": by_name("--shape", map(_shape, shapes)),
        "preprocess": texts,
        "calibration": calibration and read_calibration(calibration),
    }


def _normalisation(text: str) -> tuple[str, str]:
    name, _, wanted = text.rpartition("=")
    if not name:
        raise PartcError(f"expected --preprocess NAME=imagenet, for example, got {text!r}")
    return name, wanted


def _shape(text: str) -> tuple[str, tuple[int, ...]]:
    name, separator, extents = text.rpartition("=")
    parts = [extent.strip() for extent in extents.split(",")] if extents.strip() else []
    if not (separator and name and all(extent.isdecimal() for extent in parts)):
        raise PartcError(f"expected --shape NAME=1,3,224,224, got {text!r}")
    return name, tuple(map(int, parts))


def _outage(text: str) -> Any:
    from partc.emulator import Outage

    start, _, duration = text.partition(":")
    try:
        return Outage(float(start), float(duration))
    except ValueError as error:
        raise PartcError(f"expected --outage START:SECONDS such as 2:0.5, got {text!r}") from error


def _inspect_bundle(directory: Path, as_json: bool) -> None:
    from partc.bundle import open_bundle
    from partc.manifest import manifest_json

    manifest = open_bundle(directory).manifest
    if as_json:
        typer.echo(manifest_json(manifest), nl=False)
        return
    _print_table(
        (
            *("plan", "version", "device ms", "server ms", "sent"),
            *("upload bytes", "download bytes", "best on"),
        ),
        (
            (
                plan.name,
                str(plan.version),
                f"{plan.device_ms:.2f}",
                f"{plan.server_ms:.2f}",
                ", ".join(map(_describe_sent, plan.upload)),
                str(plan.upload_nbytes),
                str(plan.download_nbytes),
                ", ".join(link.name for link in manifest.links if link.plan == plan.name),
            )
            for plan in manifest.plans
        ),
        title=f"{manifest.model}: {manifest.target} and {manifest.server}",
    )


def _describe_sent(sent: Any) -> str:
    return sent.name if sent.encoding == PLAIN else f"{sent.name} as {sent.encoding}"


def _write_html(path: Path, decision: Any) -> None:
    from partc.report.html import report_html

    try:
        path.write_text(report_html(decision), encoding="utf-8")
    except OSError as error:
        raise BundleError(f"{path} cannot be written: {error.strerror}") from error
    typer.echo(f"wrote {path}")


def _graph_text(graph: Any, cut: Cut | None, *, as_json: bool, as_text: bool) -> str:
    from partc.report.dot import graph_to_dot
    from partc.report.json import graph_to_json
    from partc.report.text import print_graph

    if as_json:
        return graph_to_json(graph)
    return print_graph(graph) if as_text else graph_to_dot(graph, cut)


def _print_table(
    columns: Iterable[str], rows: Iterable[tuple[str, ...]], title: str | None = None
) -> None:
    from partc.report.terminal import report_console

    table = Table(*columns, title=title)
    for row in rows:
        table.add_row(*map(escape, row))
    report_console(sys.stdout).print(table)
