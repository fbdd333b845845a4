"""The program, run in this process, and what it prints."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable
from dataclasses import dataclass

import pytest

from partc import cli


@dataclass(frozen=True)
class Result:
    status: int
    out: str
    err: str


Run = Callable[..., Result]


def program(capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Run:
    """Runs the program with arguments."""

    def run(*arguments: object) -> Result:
        capfd.readouterr()
        monkeypatch.setattr(sys, "argv", ["partc", *map(str, arguments)])
        with pytest.raises(SystemExit) as exited:
            cli.main()
        printed = capfd.readouterr()
        return Result(int(exited.value.code or 0), printed.out, printed.err)

    return run


def assert_refused(result: Result, message: str) -> None:
    """One sentence that starts with ``error:``, exit status 2, nothing else printed."""
    assert result.status == 2
    assert result.out == ""
    steps, _, sentence = result.err.rpartition("error: ")
    assert "Traceback" not in steps
    assert len(sentence.strip().splitlines()) == 1
    assert re.search(message, sentence), sentence
