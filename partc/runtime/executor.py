# pyright: reportUnknownMemberType=false
# tvm_ffi's types are incomplete.
"""Runs the segments of one half's compiled library, without the compiler.

``import tvm`` would load the compiler, a hundred times the size of the runtime; the package is
only asked where its runtime library lies.
"""

from __future__ import annotations

import ctypes
import hashlib
import importlib.util
import os
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import numpy as np
import tvm_ffi

from .encodings import ImageFile, Value
from .errors import ArtifactError, ExecutionError, InputError, IntegrityError
from .spec import ArtifactSpec, SegmentSpec
from .tensors import Array

RUNTIME_LIBRARIES: Mapping[str, tuple[str, ...]] = {
    "cpu": ("libtvm_runtime.so",),
    "cuda": ("libtvm_runtime.so", "libtvm_runtime_cuda.so"),
}
"""The libraries that each kind of device needs."""

_POOLED_ALLOCATOR = 2
# TVM's affinity modes: each worker on the listed CPU of its number, or any on any that is listed.
_ONE_CORE_EACH = -2
_SHARE_ALL_CORES = -3


class Executor:
    """One half's library, its weights on the device, and a thread that runs segments.

    Any number of threads may use it. Segments run one at a time, all of them in one thread of the
    executor's own, because TVM keeps a pool of workers for *each* thread that calls it.

    Args:
        directory: Where the half's files lie.
        artifact: Which files, and what they must hash to.

    Raises:
        IntegrityError: A file is missing or differs; nothing has been loaded then.
        ArtifactError: TVM's runtime is not installed, or a file does not hold what it should.
        InputError: The number of threads is negative.
    """

    def __init__(self, directory: Path, artifact: ArtifactSpec) -> None:
        check_sha256(directory / artifact.library, artifact.library_sha256)
        check_sha256(directory / artifact.params, artifact.params_sha256)
        threads = _thread_count(artifact.threads)
        load_runtime(artifact.device)
        self._device = tvm_ffi.device(artifact.device, 0)
        functions = _functions_of(artifact)
        self._functions = _load_functions(directory / artifact.library, functions, self._device)
        self._segments = {segment.name: segment for segment in artifact.segments}
        self._sequences = {sequence.segments: sequence for sequence in artifact.sequences}
        self._blocked = {spec.tensor: spec for spec in artifact.blocked}
        self._copies = _TensorCopies(self._device)
        self._params = self._load_params(directory / artifact.params, functions)
        self._params_of = {
            function.name: [self._params[name] for name in function.params]
            for function in functions
        }
        self._thread = ThreadPoolExecutor(1, "segments", configure_workers, (threads,))

    def request(self, inputs: Mapping[str, Value]) -> Request:
        """Start a request from what a caller or the wire gave."""
        return Request(self, inputs)

    def upload(self, name: str, array: Array) -> tvm_ffi.Tensor:
        """Copy an array to the device, in the layout in which segments read this tensor."""
        tensor = self._copies.upload(array)
        if name in self._blocked:
            tensor = self._convert(self._blocked[name].to_blocked, tensor)
        return tensor

    def download(self, name: str, tensor: tvm_ffi.Tensor) -> Array:
        """Copy a tensor from the device, once everything that computes it is done."""
        if name in self._blocked:
            tensor = self._convert(self._blocked[name].to_plain, tensor)
        return self._copies.download(tensor)

    def _convert(self, function: SegmentSpec, tensor: tvm_ffi.Tensor) -> tvm_ffi.Tensor:
        (name,) = function.outputs
        return self.call([function], {name: tensor})[name]

    def find_calls(self, names: Sequence[str]) -> Sequence[SegmentSpec]:
        """What to call to run segments in this order.

        Raises:
            ArtifactError: This half has no such segment.
        """
        sequence = self._sequences.get(tuple(names))
        return [sequence] if sequence else [self._find_segment(name) for name in names]

    def _find_segment(self, name: str) -> SegmentSpec:
        if name not in self._segments:
            raise ArtifactError(f"this half of the bundle has no segment {name!r}")
        return self._segments[name]

    def call(
        self, calls: Sequence[SegmentSpec], tensors: dict[str, tvm_ffi.Tensor]
    ) -> dict[str, tvm_ffi.Tensor]:
        """Run segments one after the other and add the tensors that they make to ``tensors``.

        Raises:
            ExecutionError: A segment failed.
        """
        return self._thread.submit(self._call_all, calls, tensors).result()

    def _call_all(
        self, calls: Sequence[SegmentSpec], tensors: dict[str, tvm_ffi.Tensor]
    ) -> dict[str, tvm_ffi.Tensor]:
        for segment in calls:
            tensors.update(self._call(segment, tensors))
        return tensors

    def _call(
        self, segment: SegmentSpec, tensors: Mapping[str, tvm_ffi.Tensor]
    ) -> dict[str, tvm_ffi.Tensor]:
        inputs = [tensors[name] for name in segment.inputs]
        try:
            made = self._functions[segment.name](*inputs, *self._params_of[segment.name])
            return dict(zip(segment.outputs, made, strict=True))
        except Exception as error:  # TVM raises whatever class its C++ code names
            raise ExecutionError(
                f"segment {segment.name!r} failed: {_first_line(error)}"
            ) from error

    def _load_params(
        self, path: Path, segments: Sequence[SegmentSpec]
    ) -> dict[str, tvm_ffi.Tensor]:
        names = dict.fromkeys(name for segment in segments for name in segment.params)
        try:
            with np.load(path, allow_pickle=False) as archive:
                return {name: self._copies.upload(archive[name]) for name in names}
        except KeyError as error:
            raise ArtifactError(f"{path} lacks a weight that a segment reads: {error}") from error
        except (OSError, ValueError, BadZipFile) as error:
            raise ArtifactError(f"{path} is no archive of arrays: {error}") from error


class Request:
    """The tensors of one request: arrays from outside and what segments made of them.

    Tensors stay on the device and can be read at any time, but for those that only the segments of
    one sequence read. So a request can go on, here, from whatever it holds: that is how a device
    finishes alone when its server fails. One thread may use a request at a time.

    Args:
        executor: What runs the segments.
        inputs: Arrays by tensor name; they are copied to the device when a segment reads them, and
            images are decoded when somebody does.
    """

    def __init__(self, executor: Executor, inputs: Mapping[str, Value]) -> None:
        self._executor = executor
        self._arrays: dict[str, Array] = {}
        self._files: dict[str, ImageFile] = {}
        for name, value in inputs.items():
            if isinstance(value, ImageFile):
                self._files[name] = value
            else:
                self._arrays[name] = value
        self._tensors: dict[str, tvm_ffi.Tensor] = {}

    def run(self, segments: Iterable[str]) -> None:
        """Run segments in this order.

        Raises:
            ArtifactError: This half has no such segment.
            InputError: A segment reads a tensor that the request does not hold, or a damaged image.
            ExecutionError: A segment failed.
        """
        calls = self._executor.find_calls(tuple(segments))
        if not calls:
            return
        made: set[str] = set()
        for segment in calls:
            self._upload_inputs(segment, made)
            made.update(segment.outputs)
        self._tensors = self._executor.call(calls, self._tensors)

    def array(self, name: str) -> Array:
        """A tensor's value; for an input, the array that was given.

        Raises:
            InputError: The request does not hold the tensor, or it is a damaged image.
        """
        if name in self._arrays:
            return self._arrays[name]
        if name in self._files:
            return self._arrays.setdefault(name, self._files[name].decode())
        if name not in self._tensors:
            raise InputError(f"the request does not hold tensor {name!r}; run its segment first")
        return self._arrays.setdefault(name, self._executor.download(name, self._tensors[name]))

    def _upload_inputs(self, segment: SegmentSpec, made: set[str]) -> None:
        for name in segment.inputs:
            if name in made or name in self._tensors:
                continue
            if name not in self._arrays and name not in self._files:
                raise InputError(
                    f"segment {segment.name!r} reads tensor {name!r}, "
                    "which is no input and no earlier segment made"
                )
            self._tensors[name] = self._executor.upload(name, self.array(name))


class _TensorCopies:
    """Copies between NumPy arrays and tensors of TVM's runtime, the same way on every device."""

    def __init__(self, device: tvm_ffi.Device) -> None:
        self._device = device
        self._allocate: Any = tvm_ffi.get_global_func("runtime.TVMTensorAllocWithScope")
        self._from_bytes: Any = tvm_ffi.get_global_func("runtime.TVMTensorCopyFromBytes")
        self._to_bytes: Any = tvm_ffi.get_global_func("runtime.TVMTensorCopyToBytes")

    def upload(self, array: Array) -> tvm_ffi.Tensor:
        array = np.asarray(array, order="C")
        shape, dtype = tvm_ffi.Shape(array.shape), tvm_ffi.dtype(str(array.dtype))
        tensor = self._allocate(shape, dtype, self._device, None)
        self._from_bytes(tensor, array.ctypes.data_as(ctypes.c_void_p), array.nbytes)
        return tensor

    def download(self, tensor: tvm_ffi.Tensor) -> Array:
        array: Array = np.empty(tuple(tensor.shape), str(tensor.dtype))
        self._to_bytes(tensor, array.ctypes.data_as(ctypes.c_void_p), array.nbytes)
        return array


def check_sha256(path: Path, expected: str) -> None:
    """Refuse a file that is not the one the compiler wrote.

    Raises:
        IntegrityError: The file is missing or its digest differs.
    """
    try:
        found = _sha256(path)
    except OSError as error:
        raise IntegrityError(f"{path} cannot be read: {error.strerror}") from error
    if found != expected:
        raise IntegrityError(
            f"{path} has changed since the bundle was written: "
            f"its SHA-256 is {found}, expected {expected}"
        )


def _sha256(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def load_runtime(device: str) -> None:
    """Load TVM's runtime libraries from the installed package, without importing it.

    Raises:
        ArtifactError: The device is unknown, or TVM is not installed or cannot be loaded.
    """
    if device not in RUNTIME_LIBRARIES:
        known = ", ".join(RUNTIME_LIBRARIES)
        raise ArtifactError(f"unknown device {device!r}; known are {known}")
    package = importlib.util.find_spec("tvm")
    if package is None or package.origin is None:
        raise ArtifactError("apache-tvm is not installed; install what requirements.txt lists")
    for name in RUNTIME_LIBRARIES[device]:
        path = Path(package.origin).parent / "lib" / name
        try:
            ctypes.CDLL(str(path), ctypes.RTLD_GLOBAL)
        except OSError as error:
            raise ArtifactError(f"{path} cannot be loaded: {error}") from error


def _functions_of(artifact: ArtifactSpec) -> list[SegmentSpec]:
    """The segments, in sequences, too, and what changes the layout of tensors."""
    conversions = ((spec.to_plain, spec.to_blocked) for spec in artifact.blocked)
    return [
        *artifact.segments,
        *artifact.sequences,
        *(spec for pair in conversions for spec in pair),
    ]


def _load_functions(
    library: Path, functions: Sequence[SegmentSpec], device: tvm_ffi.Device
) -> dict[str, tvm_ffi.Function]:
    """The library's functions by name, in a virtual machine on the device."""
    try:
        machine = tvm_ffi.load_module(library)["vm_load_executable"]()
        machine["vm_initialization"](*_memory_of(device))
        return {function.name: machine[function.name] for function in functions}
    except Exception as error:  # TVM raises whatever class its C++ code names
        raise ArtifactError(f"{library} cannot be loaded: {_first_line(error)}") from error


def _first_line(error: Exception) -> str:
    """What TVM says went wrong, without the C++ backtrace that may follow."""
    return str(error).partition("\n")[0]


def _memory_of(device: tvm_ffi.Device) -> tuple[int, ...]:
    """What the virtual machine allocates from: the device and, last, always the host."""
    kinds = dict.fromkeys((device.dlpack_device_type(), tvm_ffi.DLDeviceType.kDLCPU))
    return tuple(number for kind in kinds for number in (int(kind), 0, _POOLED_ALLOCATOR))


def _thread_count(threads: int) -> int:
    if threads < 0:
        raise InputError(f"the number of threads is {threads}; give 0 for one for each core")
    return threads or _count_cores()


def _count_cores() -> int:
    """Cores that this process may use; the hardware threads of a core share its arithmetic."""
    cpus = os.sched_getaffinity(0)
    topology = [Path(f"/sys/devices/system/cpu/cpu{cpu}/topology/core_cpus_list") for cpu in cpus]
    if not all(path.exists() for path in topology):
        return len(cpus)
    return len({path.read_text() for path in topology})


def configure_workers(threads: int) -> None:
    """Give the calling thread a pool of exactly so many workers, itself being one.

    Where there is a worker for each CPU, each keeps to its own: two on one CPU, which schedulers
    allow for seconds, take twice as long. Fewer workers may run on any CPU that the process may
    use: TVM's default pins them to the first ones, and so would pin the halves of two bundles on
    one machine to the same. A pool's size is fixed by the length of the first list of CPUs.
    """
    configure: Any = tvm_ffi.get_global_func("runtime.config_threadpool")
    cpus = sorted(os.sched_getaffinity(0))
    names = [str(cpu) for cpu in cpus]
    if threads == len(cpus):
        configure(_ONE_CORE_EACH, threads, names)
        os.sched_setaffinity(0, cpus[:1])
        return
    configure(_SHARE_ALL_CORES, threads, [names[index % len(cpus)] for index in range(threads)])
    configure(_SHARE_ALL_CORES, threads, names)
