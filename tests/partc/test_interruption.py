from __future__ import annotations

import os
import signal
import threading
from pathlib import Path

import pytest

from partc.compiler import compile_model
from partc.goal import make_goal
from partc.interruption import interruptible


def interrupt_unseen() -> None:
    """Press Ctrl-C in a function whose caller takes no notice of exceptions."""
    try:
        os.kill(os.getpid(), signal.SIGINT)
        threading.Event().wait(5)
    except KeyboardInterrupt:
        pass


def test_what_nobody_saw_is_raised_when_results_are_to_be_kept() -> None:
    with interruptible() as check:
        check()
        interrupt_unseen()
        with pytest.raises(KeyboardInterrupt):
            check()


def fail_for_an_interruption() -> None:
    interrupt_unseen()
    raise RuntimeError("a callback failed")


def test_what_became_another_error_is_an_interruption() -> None:
    with pytest.raises(KeyboardInterrupt), interruptible():
        fail_for_an_interruption()


def test_errors_of_their_own_stay_what_they_are() -> None:
    with pytest.raises(RuntimeError, match="broken"), interruptible():
        raise RuntimeError("broken")


def test_the_handler_of_before_is_back() -> None:
    before = signal.getsignal(signal.SIGINT)
    with interruptible():
        assert signal.getsignal(signal.SIGINT) is not before
    assert signal.getsignal(signal.SIGINT) is before


def test_other_threads_leave_signals_alone() -> None:
    before = signal.getsignal(signal.SIGINT)
    seen: list[object] = []

    def work() -> None:
        with interruptible() as check:
            check()
            seen.append(signal.getsignal(signal.SIGINT))

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert seen == [before]


@pytest.mark.parametrize("step", ["Importing", "Compiling the server", "Verifying"])
def test_a_compilation_that_did_not_notice_leaves_nothing(
    tiny_model: Path, tmp_path: Path, step: str
) -> None:
    def progress(message: str) -> None:
        if message.startswith(step):
            interrupt_unseen()

    with pytest.raises(KeyboardInterrupt):
        compile_model(
            tiny_model, make_goal("native", "native"), tmp_path / "out", progress=progress
        )
    assert list(tmp_path.iterdir()) == []
