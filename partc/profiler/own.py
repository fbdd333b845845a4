"""Predict a model's layers by timing them: what ``--measure`` does."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

import msgspec
import numpy as np
from numpy.typing import NDArray

from partc.codegen.build import runs_here
from partc.errors import PartcError
from partc.graph import Layer, LayerGraph
from partc.interruption import interruptible
from partc.profiler.drawn import random_inputs
from partc.profiler.stopwatch import Board, compile_timed, connect, settle
from partc.targets.predictor import Prediction
from partc.targets.surroundings import describe_kernel
from partc.targets.target import Target

_RUNS = 40
_VERSIONS = tuple(metadata.version(name) for name in ("partc", "apache-tvm"))

_Known = Mapping[str, tuple[float, float]]
"""Milliseconds of kernels, and their errors."""


@dataclass(frozen=True)
class OwnLayers:
    """Times a model's layers on the machine itself, unless it has timed layers like them before.

    That is remembered of this machine alone: a board's address may be another board's tomorrow.

    Args:
        graph: The model, with payloads.
        target: What to compile for.
        address: ``HOST:PORT`` of the board's TVM RPC server; None for this machine.

    Raises:
        PartcError: The target's code runs neither here nor on a board.
    """

    graph: LayerGraph
    target: Target
    address: str | None = None

    def __post_init__(self) -> None:
        if self.address is None and not runs_here(self.target):
            raise PartcError(
                f"code for {self.target.name} does not run here to be measured; start "
                "`python -m tvm.exec.rpc_server` on a board and give its address with --rpc, or "
                "leave --measure out"
            )

    def predict(self, layers: Sequence[Layer]) -> list[Prediction]:
        """What the layers took; they have to be the graph's."""
        board = connect(self.address, self.target.threads)
        keys = [_digest(describe_kernel(layer)) for layer in layers]
        known = self._measure(board, keys) if self.address else self._recall(board, keys)
        return [Prediction(*known[key]) for key in keys]

    def _recall(self, board: Board, keys: Sequence[str]) -> _Known:
        """What was measured here before, or else now."""
        path = _cache_folder() / f"{_digest(self._place(board))}.json"
        known = _read(path)
        if not known.keys() >= set(keys):
            known = {**known, **self._measure(board, keys)}
            _write(path, known)
        return known

    def _place(self, board: Board) -> object:
        """What the same layer's time depends on."""
        target = self.target
        caches = (target.l1_cache_kib, target.l2_cache_kib)
        return target.tvm, target.threads, caches, board.processor, _VERSIONS

    def _measure(self, board: Board, keys: Sequence[str]) -> _Known:
        """Milliseconds of each layer and how much they varied, on average of equal layers."""
        with interruptible() as check_interruption:
            network = compile_timed(self.graph, self.target)
            (times_ms,) = settle([board.load(network, random_inputs(self.graph))], _RUNS)
            check_interruption()
        alike: dict[str, list[NDArray[np.float64]]] = {}
        for key, layer_ms in zip(keys, times_ms.T, strict=True):
            alike.setdefault(key, []).append(layer_ms)
        means_ms = {key: np.mean(each, axis=0) for key, each in alike.items()}
        return {
            key: (float(low), float(high / max(low, 1e-6) - 1))
            for key, (low, high) in means_ms.items()
        }


def _digest(description: object) -> str:
    return hashlib.sha256(msgspec.json.encode(description)).hexdigest()[:32]


def _cache_folder() -> Path:
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "partc" / "layers"


def _read(path: Path) -> _Known:
    """What was measured before; nothing if the file is not there or not whole."""
    try:
        return msgspec.json.decode(path.read_bytes(), type=dict[str, tuple[float, float]])
    except (OSError, msgspec.MsgspecError):
        return {}


def _write(path: Path, known: _Known) -> None:
    """Remember what was measured; where nothing can be written, it is measured again next time."""
    partial = path.with_suffix(f".{os.getpid()}")
    with suppress(OSError):
        path.parent.mkdir(parents=True, exist_ok=True)
        partial.write_bytes(msgspec.json.encode(known))
        partial.replace(path)
