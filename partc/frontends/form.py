"""What kind of model a name stands for; quick to ask, for no frontend is loaded."""

from __future__ import annotations

from enum import Enum
from pathlib import Path

from partc.errors import ModelError


class Form(Enum):
    """The forms that a model can be named in."""

    ONNX = "an .onnx file"
    ARCHIVE = "a .pt2 file from torch.export.save"
    CALLABLE = "package.module:callable"


_SUFFIXES = {
    ".onnx": Form.ONNX,
    ".pt2": Form.ARCHIVE,
    ".pt": Form.ARCHIVE,  # the frontend says what to do about a pickle
    ".pth": Form.ARCHIVE,
}
_FORMS = f"{Form.ONNX.value}, {Form.ARCHIVE.value}, or {Form.CALLABLE.value}"


def find_form(name: str) -> Form:
    """What a name stands for; a file is not opened.

    Raises:
        ModelError: There is no such file, or it can be no model.
    """
    path = Path(name)
    if path.is_dir():
        raise ModelError(f"{name} is a directory; a model is {_FORMS}")
    if path.exists():
        if path.suffix.lower() not in _SUFFIXES:
            raise ModelError(f"{name} is no model that partc knows; a model is {_FORMS}")
        return _SUFFIXES[path.suffix.lower()]
    if ":" in name and path.suffix.lower() not in _SUFFIXES:
        return Form.CALLABLE
    raise ModelError(f"there is no model file {name}; a model is {_FORMS}")
