"""Pictures that come out the same every time."""
# Matplotlib declares its types only in part.
# pyright: reportUnknownMemberType=false

from __future__ import annotations

from pathlib import Path

import matplotlib as mpl
from matplotlib.figure import Figure

from partc.errors import PartcError


def save_figure(figure: Figure, path: Path) -> None:
    """Write a figure into a file, ``.svg``, ``.pdf`` or ``.png``.

    Raises:
        PartcError: The file cannot be written.
    """
    metadata = {"Date": None} if path.suffix == ".svg" else None
    try:
        with mpl.rc_context({"svg.hashsalt": "partc", "svg.fonttype": "none"}):
            figure.savefig(path, metadata=metadata)
    except (OSError, ValueError) as error:
        raise PartcError(f"the plot {path} cannot be written: {error}") from error
