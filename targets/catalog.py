"""Descriptions in TOML files: built-in ones found by name, a user's own by path."""

from __future__ import annotations

import difflib
import math
from collections.abc import Iterable
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Generic, TypeVar

import msgspec

from partc.errors import TargetError


class Description(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What every described thing has.

    Args:
        name: What ``partc`` calls it.
        description: One line for a listing.
        aliases: Other names for it.
        sources: Where each figure comes from, by field.

    Raises:
        ValueError: A name is empty, or a source is given for something that is no field.
    """

    name: str
    description: str
    aliases: tuple[str, ...] = ()
    sources: dict[str, str] = msgspec.field(default_factory=dict[str, str])

    def __post_init__(self) -> None:
        if not all((self.name, self.description, *self.aliases)):
            raise ValueError("name, description and aliases must not be empty")
        strays = self.sources.keys() - set(self.__struct_fields__)
        if strays:
            raise ValueError(f"sources names no fields: {', '.join(sorted(strays))}")


DescriptionT = TypeVar("DescriptionT", bound=Description)


@dataclass(frozen=True)
class Catalog(Generic[DescriptionT]):
    """The built-in descriptions of one kind, and the way to load others.

    Args:
        kind: ``target`` or ``link``; ``partc <kind>s`` lists the catalog.
        folder: Where in this package the built-in files are.
        type: What a file describes.
    """

    kind: str
    folder: str
    type: type[DescriptionT]

    def load(self, name_or_path: str) -> DescriptionT:
        """Look up a name or an alias; read a path that ends in ``.toml``.

        Raises:
            TargetError: No such name or file, or the file describes nothing valid.
        """
        if name_or_path.endswith(".toml"):
            return self._decode(self._read(name_or_path), name_or_path)
        return self._find(name_or_path)

    def builtins(self) -> tuple[DescriptionT, ...]:
        """Every built-in description, sorted by name."""
        files = resources.files("partc.targets").joinpath(self.folder).iterdir()
        described = (
            self._decode(file.read_bytes(), file.name)
            for file in files
            if file.name.endswith(".toml")
        )
        return tuple(sorted(described, key=lambda entry: entry.name))

    def _find(self, name: str) -> DescriptionT:
        by_name = {known: entry for entry in self.builtins() for known in _names(entry)}
        if name not in by_name:
            raise TargetError(
                f"no {self.kind} is called {name!r}{_did_you_mean(name, by_name)}; "
                f"`partc {self.kind}s` lists them, and a path to a file of your own ends in .toml"
            )
        return by_name[name]

    def _read(self, path: str) -> bytes:
        try:
            return Path(path).read_bytes()
        except FileNotFoundError as error:
            raise TargetError(
                f"there is no {self.kind} file {path!r}; "
                f"`partc {self.kind}s` lists those that need no file"
            ) from error
        except OSError as error:
            raise TargetError(
                f"the {self.kind} file {path!r} cannot be read: {error.strerror}"
            ) from error

    def _decode(self, text: bytes, path: str) -> DescriptionT:
        try:
            return msgspec.toml.decode(text, type=self.type)
        except msgspec.ValidationError as error:
            raise TargetError(f"{path!r} does not describe a {self.kind}: {error}") from error
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            raise TargetError(f"{path!r} is not valid TOML: {error}") from error


def require_positive(described: msgspec.Struct, *fields: str) -> None:
    """Refuse fields that are not finite numbers above zero.

    Raises:
        ValueError: Names the field.
    """
    for name in fields:
        value: float = getattr(described, name)
        if not (math.isfinite(value) and value > 0):
            raise ValueError(f"{name} must be a finite number above zero, not {value}")


def require_not_negative(described: msgspec.Struct, *fields: str) -> None:
    """Refuse fields that are not finite numbers of at least zero.

    Raises:
        ValueError: Names the field.
    """
    for name in fields:
        value: float = getattr(described, name)
        if not (math.isfinite(value) and value >= 0):
            raise ValueError(f"{name} must be a finite number of at least zero, not {value}")


def _names(entry: Description) -> tuple[str, ...]:
    return (entry.name, *entry.aliases)


def _did_you_mean(name: str, known: Iterable[str]) -> str:
    close = difflib.get_close_matches(name.lower(), sorted(known), n=1)
    return f", did you mean {close[0]!r}" if close else ""
