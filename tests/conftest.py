from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import settings
from tiny import save_tiny_model

import partc
from partc.bundle import Bundle

GOLDEN = Path(__file__).parent / "golden"

# What draws networks goes on for minutes: pytest --hypothesis-profile=nightly
settings.register_profile("nightly", max_examples=4000, print_blob=True)


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--update-golden",
        action="store_true",
        help="write what the tests made to tests/golden; read the difference before you commit it",
    )


@pytest.fixture
def golden(request: pytest.FixtureRequest) -> Callable[[str, str], None]:
    """Compares a text with the file of that name in tests/golden."""
    update = request.config.getoption("--update-golden")

    def compare(name: str, text: str) -> None:
        path = GOLDEN / name
        if update:
            path.write_text(text, encoding="utf-8", newline="\n")
        if not path.exists():
            pytest.fail(f"tests/golden/{name} is missing; pytest --update-golden writes it")
        assert text == path.read_text(encoding="utf-8"), (
            f"tests/golden/{name} differs; if that is right, run pytest --update-golden"
        )

    return compare


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two convolutions as an ONNX file; see tests/helpers/tiny.py."""
    return save_tiny_model(tmp_path_factory.mktemp("model") / "tiny.onnx")


@pytest.fixture(scope="session")
def tiny_bundle(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """The tiny model compiled for this machine, cut between its layers by default."""
    return partc.compile(
        tiny_model,
        target="native",
        server="native",
        pins={"stem": "device", "head": "server"},
        output=tmp_path_factory.mktemp("bundle") / "tiny",
    )
