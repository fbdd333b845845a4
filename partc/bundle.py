"""Use a bundle: check it, then load one of its halves."""

from __future__ import annotations

import hashlib
import importlib
import importlib.util
import sys
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

from partc.errors import BundleError
from partc.manifest import MANIFEST_NAME, Manifest, read_manifest
from partc.plan import Side


@dataclass(frozen=True)
class Bundle:
    """A directory that ``partc compile`` wrote, every file of which has been checked."""

    path: Path
    manifest: Manifest

    def half(self, side: Side) -> ModuleType:
        """The generated module of a half: ``client`` of the device, ``server`` of the server."""
        package = self._package_name(side)
        if package not in sys.modules:
            _import_package(package, self.path / side.value)
        program = "client" if side is Side.DEVICE else "server"
        return importlib.import_module(f"{package}.{program}")

    def _package_name(self, side: Side) -> str:
        """A name that no other half has, nor this one once it has been compiled again."""
        digests = (
            digest
            for name, digest in self.manifest.files.items()
            if name.startswith(f"{side.value}/")
        )
        identity = "\n".join((str(self.path.resolve()), *digests))
        return f"partc_{side.value}_{hashlib.sha256(identity.encode()).hexdigest()[:16]}"


def open_bundle(path: str | Path) -> Bundle:
    """Check a bundle. One of its halves stands for the whole.

    Raises:
        BundleError: There is no bundle, or a file of it is missing or has changed.
    """
    path = Path(path)
    if path.name in {side.value for side in Side} and (path.parent / MANIFEST_NAME).exists():
        path = path.parent
    return Bundle(path, read_manifest(path))


def load(path: str | Path) -> Any:
    """Load the device's half of a bundle.

    Returns:
        The generated client: call it with the model's inputs as keyword arguments, or
        ``connect("HOST:PORT")`` it to the server's half first.

    Raises:
        BundleError: There is no bundle, or a file of it is missing or has changed.
    """
    return open_bundle(path).half(Side.DEVICE).Model()


def _import_package(name: str, directory: Path) -> None:
    """Import a directory as a package under a name of its own."""
    init = directory / "__init__.py"
    spec = importlib.util.spec_from_file_location(
        name, init, submodule_search_locations=[str(directory)]
    )
    if spec is None or spec.loader is None:
        raise BundleError(f"{init} cannot be imported")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
