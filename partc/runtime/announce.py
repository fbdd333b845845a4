"""What a half's program says while its user waits."""

from __future__ import annotations

import sys
import threading
from collections.abc import Generator
from contextlib import contextmanager

_SILENCE_S = 1.0


@contextmanager
def announced(line: str) -> Generator[None]:
    """Say on standard error what is being done, unless it is done at once."""
    timer = threading.Timer(_SILENCE_S, print, (line,), {"file": sys.stderr, "flush": True})
    timer.start()
    try:
        yield
    finally:
        timer.cancel()
        timer.join()
