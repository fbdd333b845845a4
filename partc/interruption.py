"""Ctrl-C where C++ calls back into Python, and would take it for an error or for nothing."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Generator
from contextlib import contextmanager
from typing import Any


@contextmanager
def interruptible() -> Generator[Callable[[], None]]:
    """Have an interruption end what is done inside, wherever it comes.

    An exception that is raised in a function that C++ calls may come out as another one, or not at
    all. So an interruption is remembered.

    Yields:
        Raises KeyboardInterrupt if there was an interruption; to call before results are kept.
    """
    interrupted = threading.Event()

    def check() -> None:
        if interrupted.is_set():
            raise KeyboardInterrupt

    if threading.current_thread() is not threading.main_thread():
        yield check
        return

    def interrupt(*_: Any) -> None:
        interrupted.set()
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGINT, interrupt)
    try:
        yield check
    except Exception:
        check()
        raise
    finally:
        signal.signal(signal.SIGINT, before)
