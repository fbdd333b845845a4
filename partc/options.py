"""Options that several commands have."""

from __future__ import annotations

from typing import Annotated

import typer

from partc.plan import Objective

Model = Annotated[
    str,
    typer.Argument(
        metavar="MODEL",
        help="An .onnx file, a .pt2 file, or package.module:callable.",
        show_default=False,
    ),
]
TargetName = Annotated[
    str,
    typer.Option(
        "--target", metavar="NAME", help="The device: a name from `partc targets`, or a .toml file."
    ),
]
ServerName = Annotated[
    str,
    typer.Option(
        "--server", metavar="NAME", help="The server: a name from `partc targets`, or a .toml file."
    ),
]
LinkNames = Annotated[
    list[str],
    typer.Option(
        "--link",
        metavar="NAME",
        help="A name from `partc links`, or a .toml file; may be repeated.",
    ),
]
ObjectiveName = Annotated[Objective, typer.Option("--objective", help="What to minimise.")]
ShapeTexts = Annotated[
    list[str],
    typer.Option("--shape", metavar="NAME=1,3,224,224", help="The shape of an ONNX model's input."),
]
PinTexts = Annotated[
    list[str],
    typer.Option(
        "--pin",
        metavar="PATTERN=device|server",
        help="Keep layers whose name matches on one side, for example --pin 'stem*=device'.",
    ),
]
ServerBusy = Annotated[
    float,
    typer.Option(
        "--server-busy",
        metavar="COUNT",
        help="How many other requests the server computes at once, on average.",
    ),
]
Measure = Annotated[
    bool,
    typer.Option(
        "--measure", help="Time the model's layers on the target and the server, if they run here."
    ),
]
BoardAddress = Annotated[
    str | None,
    typer.Option(
        "--rpc",
        metavar="HOST:PORT",
        help="Measure on a board on which `python -m tvm.exec.rpc_server` runs.",
    ),
]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]
