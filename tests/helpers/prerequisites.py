"""What tests need from the machine, beyond Python packages."""

from __future__ import annotations

import os

import pytest


def require(available: bool, what: str) -> None:
    """Skip the test where something is missing; fail in CI, which must not lose tests unseen."""
    if available:
        return
    if os.environ.get("CI") == "true":
        pytest.fail(f"CI must have {what}")
    pytest.skip(f"needs {what}")
