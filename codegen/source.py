"""Values and names as Python source: nothing in a model's name or a tensor's can become code."""

from __future__ import annotations

import keyword
import re
from collections.abc import Iterator, Sequence
from dataclasses import fields, is_dataclass

_WIDTH = 88  # what formatters take for a line unless told otherwise


def source(prefix: str, value: object, indent: int = 0) -> str:
    """Python source that makes a value, on one line if it fits, else with an item on each.

    Args:
        prefix: What comes before the value on its line, and in the result.
        value: A string, a number, or a tuple or a frozen dataclass of such.
        indent: How far the line is indented.
    """
    flat = prefix + literal(value)
    items = list(_items(value))
    if not items or indent + len(flat) + len(",") <= _WIDTH:
        return flat
    margin = " " * (indent + 4)
    lines = "".join(f"{margin}{source(name, item, indent + 4)},\n" for name, item in items)
    return f"{prefix}{_class_name(value)}(\n{lines}{' ' * indent})"


def literal(value: object) -> str:
    """Python source that makes a value, on one line, strings with double quotes where it can be."""
    if isinstance(value, str):
        text = repr(value)
        return text if '"' in text else f'"{text[1:-1]}"'
    items = [name + literal(item) for name, item in _items(value)]
    if not items:
        return repr(value)
    comma = "," if len(items) == 1 and not _class_name(value) else ""
    return f"{_class_name(value)}({', '.join(items)}{comma})"


def prose(text: str) -> str:
    """Text as it may stand in a docstring: on one line, with nothing that ends the string."""
    return repr(text)[1:-1].replace("\\", "\\\\").replace('"', '\\"')


def identifiers(names: Sequence[str], reserved: frozenset[str]) -> Iterator[str]:
    """A distinct public Python identifier for each name, alike where it can be.

    Args:
        names: Any texts.
        reserved: Identifiers that mean something else where these are used.
    """
    taken: set[str] = set()
    for name in names:
        base = _identifier(name, reserved)
        identifier, count = base, 0
        while identifier in taken:
            count += 1
            identifier = f"{base}_{count}"
        taken.add(identifier)
        yield identifier


def _identifier(name: str, reserved: frozenset[str]) -> str:
    base = re.sub(r"\W", "_", name, flags=re.ASCII).strip("_") or "tensor"
    if base[0].isdigit():
        return f"tensor_{base}"
    return f"{base}_" if keyword.iskeyword(base) or base in reserved else base


def _items(value: object) -> Iterator[tuple[str, object]]:
    """What is between the brackets: for each item what comes before it, and the item."""
    if isinstance(value, tuple):
        yield from (("", item) for item in value)  # pyright: ignore[reportUnknownVariableType]  a tuple of anything
    elif is_dataclass(value):
        yield from ((f"{field.name}=", getattr(value, field.name)) for field in fields(value))


def _class_name(value: object) -> str:
    return "" if isinstance(value, tuple) else type(value).__name__
