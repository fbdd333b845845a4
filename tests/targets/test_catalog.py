"""What targets and links share: looking up, reading and refusing files."""

from __future__ import annotations

import sys
from collections.abc import Callable
from importlib import resources
from pathlib import Path

import pytest
from msgspec import toml

from partc.errors import TargetError
from partc.targets.catalog import Description
from partc.targets.link import Link, builtin_links, load_link
from partc.targets.target import builtin_targets, load_target

BUILTINS = (*builtin_targets(), *builtin_links())
FILES = [
    file
    for folder in ("boards", "links")
    for file in sorted(Path(str(resources.files("partc.targets"))).joinpath(folder).glob("*.toml"))
]

LINK = 'name = "mine"\ndescription = "d"\nuplink_mbps = 1\ndownlink_mbps = 1\nround_trip_ms = 1\n'


@pytest.fixture
def link_file(tmp_path: Path) -> Callable[[str], str]:
    def write(text: str) -> str:
        path = tmp_path / "mine.toml"
        path.write_text(text)
        return str(path)

    return write


def test_there_is_a_description_in_every_file():
    assert len(FILES) == len(BUILTINS)


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_a_file_is_named_after_what_it_describes(file: Path):
    assert toml.decode(file.read_bytes())["name"] == file.stem


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_every_figure_has_a_source(file: Path):
    fields = toml.decode(file.read_bytes())
    figures = {
        name for name, value in fields.items() if name == "radio" or isinstance(value, (int, float))
    }
    assert figures == fields["sources"].keys()
    assert all(fields["sources"].values())


@pytest.mark.parametrize("builtins", [builtin_targets, builtin_links])
def test_names_and_aliases_are_unique_and_sorted(builtins: Callable[[], tuple[Description, ...]]):
    entries = builtins()
    names = [name for entry in entries for name in (entry.name, *entry.aliases)]
    assert len(set(names)) == len(names)
    assert [entry.name for entry in entries] == sorted(entry.name for entry in entries)


def test_a_name_and_an_alias_find_the_same():
    assert load_target("jetson") == load_target("jetson-agx-orin")
    assert load_link("4g") == load_link("lte")


def test_a_path_is_read(link_file: Callable[[str], str]):
    assert load_link(link_file(LINK)) == Link(
        name="mine", description="d", uplink_mbps=1, downlink_mbps=1, round_trip_ms=1
    )


def test_an_unknown_name_suggests_a_close_one():
    with pytest.raises(TargetError) as raised:
        load_target("JETSON-ORIN-NAN")
    assert str(raised.value) == (
        "no target is called 'JETSON-ORIN-NAN', did you mean 'jetson-orin-nano'; "
        "`partc targets` lists them, and a path to a file of your own ends in .toml"
    )


def test_an_unknown_name_close_to_nothing():
    with pytest.raises(TargetError, match=r"^no link is called 'zzzzzz'; `partc links` lists them"):
        load_link("zzzzzz")


def test_a_missing_file():
    with pytest.raises(TargetError) as raised:
        load_target("nowhere/board.toml")
    assert str(raised.value) == (
        "there is no target file 'nowhere/board.toml'; "
        "`partc targets` lists those that need no file"
    )


@pytest.mark.skipif(sys.platform == "win32", reason="reading a folder fails otherwise there")
def test_a_file_that_cannot_be_read(tmp_path: Path):
    folder = tmp_path / "folder.toml"
    folder.mkdir()
    with pytest.raises(TargetError, match=r"folder\.toml' cannot be read: Is a directory$"):
        load_link(str(folder))


def test_a_file_that_is_no_toml(link_file: Callable[[str], str]):
    with pytest.raises(TargetError, match=r"mine\.toml' is not valid TOML: Invalid value"):
        load_link(link_file("name = "))


def test_a_file_that_is_no_text(tmp_path: Path):
    path = tmp_path / "binary.toml"
    path.write_bytes(b"\xff")
    with pytest.raises(TargetError, match=r"binary\.toml' is not valid TOML: 'utf-8' codec"):
        load_link(str(path))


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        (LINK.replace("uplink_mbps = 1\n", ""), r"missing required field `uplink_mbps`"),
        (LINK + "speed = 3\n", r"unknown field `speed`"),
        (LINK.replace("downlink_mbps = 1", 'downlink_mbps = "1"'), r"at `\$\.downlink_mbps`"),
        (LINK.replace('"mine"', '""'), r"name, description and aliases must not be empty"),
        (LINK + 'aliases = [""]\n', r"name, description and aliases must not be empty"),
        (LINK + '[sources]\nupling_mbps = "x"\n', r"sources names no fields: upling_mbps"),
        (LINK + "[radio]\nbeta_mw = 1\n", r"missing required field .* at `\$\.radio`"),
    ],
)
def test_a_wrong_description(link_file: Callable[[str], str], text: str, problem: str):
    with pytest.raises(TargetError, match=rf"mine\.toml' does not describe a link: .*{problem}"):
        load_link(link_file(text))
