from __future__ import annotations

import contextlib
import io
import json
import pickle
import re
import warnings
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch_sources import (
    IMAGE,
    Residual,
    Small,
    export,
)

from partc.errors import ModelError
from partc.frontends.torch import import_torch


class Evil:
    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> Any:
        return Path.touch, (self.marker,)


@pytest.fixture(scope="module")
def saved() -> bytes:
    buffer = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.export.save(export(Residual().eval(), IMAGE), buffer)
    return buffer.getvalue()


class TestArchives:
    """Every archive here would create a file if torch.export.load got it."""

    @pytest.fixture
    def archive(self, tmp_path: Path, saved: bytes) -> Path:
        path = tmp_path / "model.pt2"
        path.write_bytes(saved)
        return path

    @pytest.fixture
    def rewrite(self, archive: Path) -> Callable[..., Path]:
        def rewrite(record: str, change: Callable[[bytes], bytes]) -> Path:
            path = archive.with_name("changed.pt2")
            with zipfile.ZipFile(archive) as old, zipfile.ZipFile(path, "w") as new:
                records = {info.filename: old.read(info) for info in old.infolist()}
                name = f"{next(iter(records)).split('/')[0]}/{record}"
                records[name] = change(records.get(name, b""))
                for name, content in records.items():
                    new.writestr(name, content)
            return path

        return rewrite

    def test_sample_inputs(self, tmp_path: Path, rewrite: Callable[..., Path]) -> None:
        marker = tmp_path / "executed"
        evil = io.BytesIO()
        torch.save(({"x": Evil(marker)}, {}), evil)
        path = rewrite("data/sample_inputs/model.pt", lambda _: evil.getvalue())
        with pytest.raises(ModelError) as caught:
            import_torch(path)
        assert str(caught.value) == (
            f"refusing to load {path}: its sample inputs hold pickled code; export the model again "
            "with fixed shapes and plain tensors as inputs, weights and constants"
        )
        assert not marker.exists()
        # torch's own warning about what it then does has too few arguments.
        with warnings.catch_warnings(), contextlib.suppress(TypeError):
            warnings.simplefilter("ignore")
            torch.export.load(path)
        assert marker.exists(), "the test's archive is not dangerous, so it shows nothing"

    @pytest.mark.parametrize("kind", ["weights", "constants"])
    def test_pickled_payload(self, kind: str, rewrite: Callable[..., Path]) -> None:
        def pickled(_: bytes) -> bytes:
            payload = {"path_name": "opaque_obj_0", "use_pickle": True, "is_param": False}
            return json.dumps({"config": {"w": payload}}).encode()

        path = rewrite(f"data/{kind}/model_{kind}_config.json", pickled)
        with pytest.raises(ModelError, match="its tensor 'w' is pickled"):
            import_torch(path)

    @pytest.mark.parametrize(
        "record",
        [
            "data/constants/opaque_obj_0",
            "data/constants/custom_obj_0",
            "data/weights/model.pt",
            "data/aotinductor/model/model.so",
        ],
    )
    def test_records_that_hold_code(
        self, record: str, tmp_path: Path, rewrite: Callable[..., Path]
    ) -> None:
        evil = pickle.dumps(Evil(tmp_path / "executed"))
        path = rewrite(record, lambda _: evil)
        with pytest.raises(ModelError, match=f"its record '{record}' may hold code"):
            import_torch(path)
        assert not (tmp_path / "executed").exists()

    @pytest.mark.parametrize(
        ("old", "new", "message"),
        [
            (
                '"guards_code": []',
                '"guards_code": ["print(1)"]',
                "its guards or symbolic shapes are evaluated as code",
            ),
            (
                '"sizes": [{"as_int": 1}',
                '"sizes": [{"as_expr": {"expr_str": "print(1)", "hint": null}}',
                "its as_expr is evaluated as code",
            ),
            (
                "torch.ops.aten.conv2d.default",
                "torch.hub.load",
                "it calls 'torch.hub.load'",
            ),
            (
                '{"name": "image"}',
                '{"name": "image=print(1)"}',
                "its name 'image=print(1)' would become code",
            ),
            ("builtins.tuple", "os.path", "its inputs or outputs are in containers other than"),
        ],
    )
    def test_strings_that_would_be_evaluated(
        self, old: str, new: str, message: str, rewrite: Callable[..., Path]
    ) -> None:
        def change(content: bytes) -> bytes:
            assert old.encode() in content
            return content.replace(old.encode(), new.encode())

        with pytest.raises(ModelError, match=re.escape(message)):
            import_torch(rewrite("models/model.json", change))

    def test_old_format(self, tmp_path: Path) -> None:
        path = tmp_path / "old.pt2"
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("version", "8.20")
            archive.writestr("serialized_state_dict.pt", pickle.dumps(Evil(tmp_path / "executed")))
        with pytest.raises(ModelError, match=r"not a \.pt2 archive that torch"):
            import_torch(path)
        assert not (tmp_path / "executed").exists()

    def test_broken_archive(self, archive: Path) -> None:
        archive.write_bytes(archive.read_bytes()[:1000])
        with pytest.raises(ModelError) as caught:
            import_torch(archive)
        assert str(caught.value) == (
            f"{archive} is not a .pt2 archive that torch {torch.__version__} can read; "
            "write it again with torch.export.save of this version"
        )

    def test_the_suffix_may_be_in_capitals(self, archive: Path) -> None:
        assert import_torch(archive.rename(archive.with_suffix(".PT2"))).outputs

    def test_missing_file(self) -> None:
        with pytest.raises(ModelError) as caught:
            import_torch(Path("nowhere.pt2"))
        assert str(caught.value) == "cannot read the model nowhere.pt2: No such file or directory"

    @pytest.mark.parametrize("suffix", [".pt", ".pth"])
    def test_pickled_module(self, suffix: str, tmp_path: Path) -> None:
        path = tmp_path / f"model{suffix}"
        torch.save(Small(), path)
        with pytest.raises(ModelError) as caught:
            import_torch(path)
        assert str(caught.value) == (
            f"expected a .pt2 archive, but {path} is a {suffix} file, which may hold pickled code "
            "that partc does not run; load the model in Python, export it with "
            "torch.export.export(model.eval(), example_inputs) and save it with "
            "torch.export.save(program, 'model.pt2')"
        )
