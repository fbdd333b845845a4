from __future__ import annotations

import pytest
from command_line import Run, program


@pytest.fixture
def run(capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Run:
    """Runs the program in this process, with what it prints."""
    return program(capfd, monkeypatch)
