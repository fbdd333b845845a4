"""CUDA kernels to machine code for a GPU that need not be here, with NVRTC from pip.

Without a CUDA driver on this machine, TVM leaves the kernels' *source* in the library, for the
device to compile when it loads it. A device has no compiler, so machine code takes its place.
"""

from __future__ import annotations

import importlib
import io
import struct
from typing import Any

from partc.errors import CompilerError, TargetError

_CUDA = b"cuda"
_LIBRARY_ITSELF = b"_lib"


def compile_kernels(source: str, arch: str) -> bytes:
    """Compile CUDA C++ to a cubin.

    Arithmetic follows IEEE 754, without the fast approximations that TVM asks for by itself:
    what is emitted has to compute what the model computes.

    Args:
        source: The kernels.
        arch: The GPU's architecture, such as ``sm_87``.

    Returns:
        An ELF file for the GPU.

    Raises:
        TargetError: NVRTC or CUDA's headers are not installed.
        CompilerError: NVRTC refused the source.
    """
    nvrtc = _load_nvrtc()
    options = [f"--gpu-architecture={arch}", "-w", *(f"-I{path}" for path in _header_directories())]
    return _compile(nvrtc, source, [option.encode() for option in options])


def replace_source(imports: bytes, source: str, cubin: bytes) -> bytes:
    """Put machine code in the place of CUDA source in TVM's serialised modules.

    The layout is that of ``ProcessLibraryBin`` in tvm-ffi: the number of bytes, two vectors that
    describe the import tree, then the modules, each a kind and, unless it stands for the library
    itself, a payload. A CUDA module's payload is the format, the table of kernels and the code.

    Args:
        imports: The modules, as ``runtime.ModulePackImportsToTensor`` returns them.
        source: The source in the CUDA module.
        cubin: What the source was compiled to.

    Returns:
        The same modules with the cubin in place of the source.

    Raises:
        CompilerError: A CUDA module does not hold that source.
    """
    reader = io.BytesIO(imports)
    _read_integer(reader)
    parts = [_integers(_read_vector(reader)), _integers(_read_vector(reader))]
    while kind := _read_bytes(reader):
        parts.append(_sized(kind))
        if kind != _LIBRARY_ITSELF:
            payload = _read_bytes(reader)
            parts.append(_sized(_with_cubin(payload, source, cubin) if kind == _CUDA else payload))
    return _sized(b"".join(parts))


def _with_cubin(payload: bytes, source: str, cubin: bytes) -> bytes:
    head, tail = _sized(_CUDA), _sized(source.encode())
    if not (payload.startswith(head) and payload.endswith(tail)):
        raise CompilerError("TVM serialised a CUDA module in a layout that partc does not know")
    return _sized(b"cubin") + payload[len(head) : -len(tail)] + _sized(cubin)


def _integers(values: tuple[int, ...]) -> bytes:
    return struct.pack(f"<{len(values) + 1}Q", len(values), *values)


def _sized(content: bytes) -> bytes:
    return struct.pack("<Q", len(content)) + content


def _read_integer(reader: io.BytesIO) -> int:
    return int.from_bytes(reader.read(8), "little")


def _read_vector(reader: io.BytesIO) -> tuple[int, ...]:
    count = _read_integer(reader)
    return struct.unpack(f"<{count}Q", reader.read(8 * count))


def _read_bytes(reader: io.BytesIO) -> bytes:
    return reader.read(_read_integer(reader))


def _load_nvrtc() -> Any:
    try:
        nvrtc = importlib.import_module("cuda.bindings.nvrtc")
        nvrtc.nvrtcVersion()  # the first call is what looks for the library
    except (ImportError, RuntimeError) as error:
        raise _not_installed("NVRTC") from error
    return nvrtc


def _header_directories() -> list[str]:
    pathfinder: Any = importlib.import_module("cuda.pathfinder")
    paths = [pathfinder.find_nvidia_header_directory(name) for name in ("cudart", "cccl")]
    if None in paths:
        raise _not_installed("CUDA's headers")
    return paths


def _not_installed(what: str) -> TargetError:
    return TargetError(
        f"compiling for CUDA needs {what}, not installed here; run: pip install 'partc[cuda]'"
    )


def _compile(nvrtc: Any, source: str, options: list[bytes]) -> bytes:
    program = _checked(nvrtc.nvrtcCreateProgram(source.encode(), b"kernels.cu", 0, None, None))
    try:
        (status,) = nvrtc.nvrtcCompileProgram(program, len(options), options)
        if status:
            log = bytearray(_checked(nvrtc.nvrtcGetProgramLogSize(program)))
            _checked(nvrtc.nvrtcGetProgramLog(program, log))
            raise CompilerError(f"NVRTC refused the kernels that TVM wrote: {log.decode()}")
        cubin = bytearray(_checked(nvrtc.nvrtcGetCUBINSize(program)))
        _checked(nvrtc.nvrtcGetCUBIN(program, cubin))
        return bytes(cubin)
    finally:
        nvrtc.nvrtcDestroyProgram(program)


def _checked(result: tuple[Any, ...]) -> Any:
    """Return the value of an NVRTC call, which comes after a status that is 0 for success."""
    status, *values = result
    if status:
        raise CompilerError(f"NVRTC failed: {status.name}")
    return values[0] if values else None
