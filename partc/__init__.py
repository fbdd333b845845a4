"""Split a neural network between a device and a server, and compile both halves.

The command line's options have the same names here::

    bundle = partc.compile(model, target="jetson", link="wifi", output="out")
    decision = partc.plan(model, target="jetson", link="wifi")
    graph = partc.lower(model)
    client = partc.load("out").connect("host:8001")
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from partc.api import compile, lower, plan  # noqa: A004  the command's name
    from partc.bundle import load

__all__ = ["compile", "load", "lower", "plan"]

_HOMES = {"compile": "partc.api", "lower": "partc.api", "plan": "partc.api", "load": "partc.bundle"}

# The first import of the module partc.plan binds it here. Let that happen now, and undo it, or it
# would happen at some later time and the module would take the function's place.
importlib.import_module("partc.plan")
globals().pop("plan", None)


def __getattr__(name: str) -> Any:
    """Load the compiler, which takes seconds, when something of it is first asked for."""
    if name not in _HOMES:
        raise AttributeError(f"module 'partc' has no attribute {name!r}")
    return getattr(importlib.import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    """What there is, loaded or not."""
    return sorted({*globals(), *__all__})
