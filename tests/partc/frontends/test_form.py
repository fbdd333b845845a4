from __future__ import annotations

from pathlib import Path

import pytest

from partc.errors import ModelError
from partc.frontends.form import Form, find_form


@pytest.mark.parametrize(
    ("name", "form"),
    [
        ("a.onnx", Form.ONNX),
        ("A.ONNX", Form.ONNX),
        ("a.pt2", Form.ARCHIVE),
        ("a.pt", Form.ARCHIVE),
        ("a.pth", Form.ARCHIVE),
        ("12:30.onnx", Form.ONNX),
    ],
)
def test_a_file_is_known_by_its_suffix(tmp_path: Path, name: str, form: Form) -> None:
    (tmp_path / name).touch()
    assert find_form(str(tmp_path / name)) is form


@pytest.mark.parametrize("name", ["package.module:make", "module:Model.small", "m:f"])
def test_a_callable_is_known_by_its_colon(name: str) -> None:
    assert find_form(name) is Form.CALLABLE


@pytest.mark.parametrize("name", ["missing.onnx", "C:\\missing.onnx", "missing", "missing.pt2", ""])
def test_a_missing_file_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.chdir(tmp_path)
    expected = "is a directory; a model is" if name == "" else "there is no model file"
    with pytest.raises(ModelError, match=expected):
        find_form(name)


def test_a_directory_is_refused(tmp_path: Path) -> None:
    (tmp_path / "saved.onnx").mkdir()
    with pytest.raises(ModelError, match=r"saved\.onnx is a directory; a model is an \.onnx file"):
        find_form(str(tmp_path / "saved.onnx"))


@pytest.mark.parametrize("name", ["notes.txt", "onnx", "model.h5", "a:b"])
def test_another_file_is_refused(tmp_path: Path, name: str) -> None:
    (tmp_path / name).touch()
    with pytest.raises(ModelError, match=r"is no model that partc knows; a model is an \.onnx"):
        find_form(str(tmp_path / name))
