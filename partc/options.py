"""Options that several commands have."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Mapping
from functools import wraps
from pathlib import Path
from typing import Annotated, Any, TypeVar, get_type_hints

import typer

from partc.errors import PartcError
from partc.goal import SERVER, make_goal
from partc.plan import Objective
from partc.quantities import parse_interval, parse_nbytes

T = TypeVar("T")

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
        "--server",
        metavar="NAME",
        help="The server: a name from `partc targets`, or a .toml file.",
        show_default=SERVER,
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
TierNames = Annotated[
    str | None,
    typer.Option(
        "--tiers",
        metavar="NAME,NAME,…",
        help="Instead of --target and --server: machines in a row, the device first, with a --link "
        "between each two. Shown only: a bundle is for a device and one server.",
        show_default=False,
    ),
]
ShapeTexts = Annotated[
    list[str],
    typer.Option("--shape", metavar="NAME=1,3,224,224", help="The shape of an ONNX model's input."),
]
PreprocessTexts = Annotated[
    list[str],
    typer.Option(
        "--preprocess",
        metavar="NAME=imagenet",
        help="Let an input be images as decoders give them, uint8[N, H, W, C], and normalise these "
        "in the model: imagenet, unit (0 to 1), signed (-1 to 1), or MEAN,…/STD,….",
    ),
]
CalibrationFile = Annotated[
    Path | None,
    typer.Option(
        "--calibration",
        metavar="FILE.npz",
        help="Inputs like those that the model will get, for --max-error: an array for each, with "
        "the samples along the first axis.",
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


def by_name(option: str, pairs: Iterable[tuple[str, T]]) -> dict[str, T]:
    """Options that give each name one value.

    Raises:
        PartcError: A name was given twice.
    """
    found: dict[str, T] = {}
    for name, value in pairs:
        if name in found:
            raise PartcError(f"{option} was given twice for {name!r}; give it once")
        found[name] = value
    return found


def takes_a_goal(command: Callable[..., None]) -> Callable[..., None]:
    """Give a command the options that a goal is made of, in place of its parameter ``goal``."""
    return _with_options(command, _read_goal, inspect.signature(_read_goal).parameters)


def takes_a_goal_or_tiers(command: Callable[..., None]) -> Callable[..., None]:
    """The same, with ``--tiers`` in place of the device and the server if it is given."""
    parameters = dict(inspect.signature(_read_goal).parameters)
    for name in ("target", "server"):
        parameters[name] = parameters[name].replace(default=None)
    tiers = inspect.Parameter("tiers", inspect.Parameter.KEYWORD_ONLY, default=None)
    return _with_options(command, _read_goal_or_tiers, {**parameters, "tiers": tiers})


def _with_options(
    command: Callable[..., None],
    read: Callable[..., Any],
    wanted: Mapping[str, inspect.Parameter],
) -> Callable[..., None]:
    hints = {"tiers": TierNames, **get_type_hints(_read_goal, include_extras=True)}
    hints |= get_type_hints(command, include_extras=True)

    @wraps(command)
    def with_options(**given: Any) -> None:
        goal = read(**{name: given.pop(name) for name in wanted})
        command(goal=goal, **given)

    own = inspect.signature(command).parameters
    model, *others = (each for name, each in own.items() if name != "goal")
    parameters = [model, *wanted.values(), *others]
    with_options.__signature__ = inspect.Signature(  # type: ignore[attr-defined]
        [each.replace(kind=each.KEYWORD_ONLY, annotation=hints[each.name]) for each in parameters]
    )
    with_options.__annotations__ = {each.name: hints[each.name] for each in parameters}
    return with_options


def _read_goal_or_tiers(
    target: str | None, tiers: str | None, server: str | None, link: list[str], **options: Any
) -> Any:
    names = tiers.split(",") if tiers else []
    if bool(target) == bool(names):
        came = "both" if target else "neither"
        raise PartcError(
            f"a plan needs either --target NAME, the device, or --tiers NAME,NAME,…; {came} came"
        )
    if target:
        return _read_goal(target, server=server or SERVER, link=link, **options)
    if server:
        raise PartcError(f"--tiers names all machines; leave out --server {server}")
    from partc.tiering import make_tier_goal

    return make_tier_goal(names, link, _read_goal(names[0], names[-1], link, **options))


def _read_goal(
    target: TargetName,
    server: ServerName = SERVER,
    link: LinkNames = ["wifi"],  # noqa: B006  typer copies it
    objective: Annotated[
        Objective,
        typer.Option(
            "--objective",
            help="What to minimise; for throughput, the slowest of device, transfer and server.",
        ),
    ] = Objective.LATENCY,
    ms_per_mj: Annotated[
        float,
        typer.Option(
            "--ms-per-mj",
            metavar="ms",
            help="What a mJ is worth, for --objective weighted.",
            show_default=False,
        ),
    ] = 0.0,
    rate: Annotated[
        float,
        typer.Option(
            metavar="PER_SECOND",
            help="Requests a second; maximise throughput if the fastest plan cannot keep up.",
            show_default=False,
        ),
    ] = 0.0,
    pin: Annotated[
        list[str],
        typer.Option(
            "--pin",
            metavar="PATTERN=device|server",
            help="Keep layers whose name matches on one side, for example --pin 'stem*=device'; "
            "'kind:softmax=device' is about the kinds of layers.",
        ),
    ] = [],  # noqa: B006
    forbid: Annotated[
        list[str],
        typer.Option(
            "--forbid", metavar="PATTERN=device|server", help="Keep layers away from a side."
        ),
    ] = [],  # noqa: B006
    private_until: Annotated[
        list[str],
        typer.Option(
            "--private-until",
            metavar="LAYER",
            help="Nothing upstream of the layer leaves the device.",
        ),
    ] = [],  # noqa: B006
    deadline: Annotated[
        float | None, typer.Option(metavar="ms", help="The most a request may take.")
    ] = None,
    max_energy: Annotated[
        float | None,
        typer.Option(metavar="mJ", help="The most a request may draw from the device."),
    ] = None,
    max_server_time: Annotated[
        float | None,
        typer.Option(metavar="ms", help="The most a request may compute on the server."),
    ] = None,
    max_upload: Annotated[
        str | None,
        typer.Option(
            metavar="SIZE",
            help="The most a request may send, as in 150kB; on average, if it is compressed.",
        ),
    ] = None,
    device_memory: Annotated[
        str | None,
        typer.Option(metavar="SIZE", help="What weights and activations may take there."),
    ] = None,
    split: Annotated[
        bool | None,
        typer.Option(
            "--must-split/--no-split",
            help="Whether both sides have to compute, or only one may.",
            show_default=False,
        ),
    ] = None,
    max_error: Annotated[
        float | None,
        typer.Option(
            metavar="SHARE",
            help="Send tensors as float16 or uint8, or compressed, if that is better and outputs "
            "deviate by no more, relative to the largest value of each; 0: only compressed.",
        ),
    ] = None,
    input_nbytes: Annotated[
        list[str],
        typer.Option(
            "--input-nbytes",
            metavar="NAME=SIZE",
            help="An input comes as a JPEG or PNG file of such a size, as in image=152kB, which "
            "only whoever computes on it decodes.",
        ),
    ] = [],  # noqa: B006
    uplink: Annotated[
        str | None,
        typer.Option(
            metavar="Mbps",
            help="The rate to the server, if not the link's; for a range such as 0.5..50, every "
            "plan is found that is the best one somewhere in it.",
        ),
    ] = None,
    downlink: Annotated[
        str | None, typer.Option(metavar="Mbps", help="The rate back; also a range.")
    ] = None,
    round_trip: Annotated[
        str | None, typer.Option(metavar="ms", help="Of an empty message; also a range.")
    ] = None,
    server_busy: Annotated[
        str,
        typer.Option(
            "--server-busy",
            metavar="COUNT",
            help="How many other requests the server computes at once, on average; also a range.",
        ),
    ] = "0",
    measure: Annotated[
        bool,
        typer.Option(
            "--measure",
            help="Time the model's layers on the target and the server, if they run here.",
        ),
    ] = False,
    rpc: BoardAddress = None,
) -> Any:
    return make_goal(
        target=target,
        server=server,
        link=link,
        objective=objective.value,
        ms_per_mj=ms_per_mj,
        rate_hz=rate,
        pins=by_name("--pin", (_pin("--pin", text) for text in pin)),
        forbid=by_name("--forbid", (_pin("--forbid", text) for text in forbid)),
        private_until=private_until,
        deadline_ms=deadline,
        max_energy_mj=max_energy,
        max_server_ms=max_server_time,
        max_upload_nbytes=_size("--max-upload", max_upload),
        device_memory_nbytes=_size("--device-memory", device_memory),
        split=split,
        max_error=max_error,
        input_nbytes=by_name("--input-nbytes", map(_input_nbytes, input_nbytes)),
        uplink_mbps=_interval("--uplink", uplink),
        downlink_mbps=_interval("--downlink", downlink),
        round_trip_ms=_interval("--round-trip", round_trip),
        server_busy=parse_interval("--server-busy", server_busy),
        measure=measure,
        rpc=rpc,
    )


def _pin(option: str, text: str) -> tuple[str, str]:
    pattern, _, side = text.rpartition("=")
    if not pattern:
        raise PartcError(f"expected {option} PATTERN=device or PATTERN=server, got {text!r}")
    return pattern, side


def _input_nbytes(text: str) -> tuple[str, int]:
    name, _, size = text.rpartition("=")
    if not name:
        raise PartcError(f"expected --input-nbytes NAME=SIZE such as image=152kB, got {text!r}")
    return name, parse_nbytes(f"--input-nbytes {name}", size)


def _size(option: str, text: str | None) -> int | None:
    return None if text is None else parse_nbytes(option, text)


def _interval(option: str, text: str | None) -> tuple[float, float] | None:
    return None if text is None else parse_interval(option, text)
