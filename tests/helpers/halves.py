"""Running the halves of a bundle, and judging what they answer."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
from numpy.typing import NDArray

from partc.bundle import Bundle

Array = NDArray[np.float32]


@contextmanager
def running_server(python: str, bundle: Bundle) -> Iterator[str]:
    """The server half as a process; yields its address."""
    command = [python, "-m", "server", "--host", "127.0.0.1", "--port", "0"]
    with subprocess.Popen(command, cwd=bundle.path, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            yield process.stdout.readline().split()[-1]
        finally:
            process.terminate()


def assert_close(found: Array, expected: Array) -> None:
    assert np.abs(found - expected).max() < 1e-4 * np.abs(expected).max()
