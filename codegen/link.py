"""Link compiled objects to a shared library, for any Linux, without a system compiler."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from partc.errors import CompilerError

ARCHITECTURES = ("aarch64", "x86_64")

# What Debian 10, Ubuntu 18.10 and JetPack 5 and everything after them have.
_GLIBC = "2.28"


def link_library(inputs: Sequence[Path], architecture: str, library: Path) -> None:
    """Link objects and C files to a shared library that is the same bytes wherever it is made.

    Args:
        inputs: Object files and C files; the first one also gives the directory for
            intermediate files.
        architecture: One of ``ARCHITECTURES``.
        library: The file to write.

    Raises:
        CompilerError: The linker refused.
    """
    files = ["-o", str(library), *map(str, inputs), "-lm"]
    options = ["-shared", "-fPIC", "-std=c23", "-s", f"-Wl,-soname,{library.name}"]
    run_zig_cc([*options, *files], architecture, cache=inputs[0].parent)


def run_zig_cc(arguments: Sequence[str], architecture: str, cache: Path) -> None:
    """Run the C compiler of the ``ziglang`` package for a Linux with glibc 2.28 or later.

    Args:
        arguments: The compiler's arguments.
        architecture: One of ``ARCHITECTURES``.
        cache: Where intermediate files go. (The C library's stubs stay in the user's cache.)

    Raises:
        CompilerError: The compiler failed; the message holds what it printed.
    """
    target = f"{architecture}-linux-gnu.{_GLIBC}"
    done = subprocess.run(
        [sys.executable, "-m", "ziglang", "cc", "-target", target, *arguments],
        env={**os.environ, "ZIG_LOCAL_CACHE_DIR": str(cache)},
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode != 0:
        raise CompilerError(f"zig cc failed to link for {target}: {done.stderr.strip()}")
