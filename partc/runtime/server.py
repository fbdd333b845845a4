"""The server half: an Open Inference Protocol server over gRPC.

A plan that needs the server is a *version* of the model: its inputs are the tensors at the plan's
cut, encoded as the plan sends them. Version 0 is the plan ``server-only``, so any standard client
can use the whole model.
"""

from __future__ import annotations

import argparse
import functools
import logging
import os
import signal
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import grpc

from . import oip
from .announce import announced
from .encodings import all_wire_specs, decode_all
from .errors import HalfError, InputError, ProtocolError, ServerError
from .executor import Executor
from .protobuf import decode, encode
from .spec import ArtifactSpec, ModelSpec, PlanSpec, TensorSpec
from .tensors import pack, tensor_metadata, unpack

PLATFORM = "partc"
_GRACE_S = 5.0
_CHANNEL_OPTIONS = (
    ("grpc.max_receive_message_length", -1),
    ("grpc.max_send_message_length", -1),
    ("grpc.so_reuseport", 0),  # otherwise two servers could share a port unnoticed
)
_log = logging.getLogger(__name__)


class UnknownModelError(HalfError):
    """A request names a model or a version that is not here."""


@dataclass(frozen=True)
class InferenceService:
    """The calls of the protocol as functions from message to message.

    Args:
        model: The signature and the plans.
        executor: Holds the server's segments.
    """

    model: ModelSpec
    executor: Executor

    @functools.cached_property
    def versions(self) -> Mapping[str, PlanSpec]:
        """The plans that need the server, by the version under which they are offered."""
        return {str(plan.version): plan for plan in self.model.plans if plan.server_segments}

    def server_live(self, _request: oip.ServerLiveRequest) -> oip.ServerLiveResponse:
        return oip.ServerLiveResponse(live=True)

    def server_ready(self, _request: oip.ServerReadyRequest) -> oip.ServerReadyResponse:
        return oip.ServerReadyResponse(ready=True)

    def server_metadata(self, _request: oip.ServerMetadataRequest) -> oip.ServerMetadataResponse:
        return oip.ServerMetadataResponse(name=PLATFORM, version="2")

    def model_ready(self, request: oip.ModelReadyRequest) -> oip.ModelReadyResponse:
        is_here = request.name == self.model.name and (request.version or "0") in self.versions
        return oip.ModelReadyResponse(ready=is_here)

    def model_metadata(self, request: oip.ModelMetadataRequest) -> oip.ModelMetadataResponse:
        plan = self._find_plan(request.name, request.version)
        return oip.ModelMetadataResponse(
            name=self.model.name,
            versions=tuple(self.versions),
            platform=self.model.platform,
            inputs=tensor_metadata(all_wire_specs(plan.upload)),
            outputs=tensor_metadata(plan.download),
        )

    def model_infer(self, request: oip.ModelInferRequest) -> oip.ModelInferResponse:
        started = time.perf_counter()
        plan = self._find_plan(request.model_name, request.model_version)
        wanted = _requested(plan, request.outputs)
        wire = all_wire_specs(plan.upload)
        parts = unpack(wire, request.inputs, request.raw_input_contents)
        run = self.executor.request(decode_all(plan.upload, parts))
        run.run(plan.server_segments)
        tensors, raw = pack(wanted, {spec.name: run.array(spec.name) for spec in wanted})
        server_ms = (time.perf_counter() - started) * 1e3
        return oip.ModelInferResponse(
            model_name=self.model.name,
            model_version=str(plan.version),
            id=request.id,
            parameters=(
                oip.NamedParameter(oip.SERVER_MS, oip.InferParameter(double_param=server_ms)),
            ),
            outputs=tensors,
            raw_output_contents=raw,
        )

    def _find_plan(self, name: str, version: str) -> PlanSpec:
        if name != self.model.name:
            raise UnknownModelError(f"unknown model {name!r}; this server has {self.model.name!r}")
        plan = self.versions.get(version or "0")
        if plan is None:
            known = ", ".join(self.versions)
            raise UnknownModelError(
                f"model {name!r} has no version {version or '0'!r}; it has {known}"
            )
        return plan


def _requested(
    plan: PlanSpec, outputs: Sequence[oip.InferRequestedOutputTensor]
) -> tuple[TensorSpec, ...]:
    """The outputs that a request asks for, in its order; all if it names none."""
    by_name = {spec.name: spec for spec in plan.download}
    for output in outputs:
        if output.name not in by_name:
            known = ", ".join(map(repr, by_name))
            raise InputError(f"unknown output {output.name!r}; version {plan.version} has {known}")
    return tuple(by_name[output.name] for output in outputs) or plan.download


class InferenceServer:
    """A gRPC server for one half of a bundle.

    Args:
        model: The signature and the plans.
        executor: Holds the server's segments.
        host: Address to listen on.
        port: Port to listen on; 0 means any free one, see ``port`` afterwards.
        max_workers: How many requests are decoded and answered at the same time; segments run one
            at a time in any case.

    Raises:
        ServerError: The address is taken or not this machine's, or the port is none.
    """

    def __init__(
        self, model: ModelSpec, executor: Executor, host: str, port: int, max_workers: int = 8
    ) -> None:
        self._server = grpc.server(
            ThreadPoolExecutor(max_workers, "requests"), options=_CHANNEL_OPTIONS
        )
        self._server.add_generic_rpc_handlers((_handlers(InferenceService(model, executor)),))
        self.host = host
        self.port = self._bind(port)

    def start(self) -> InferenceServer:
        """Begin to answer."""
        self._server.start()
        return self

    def wait(self) -> None:
        """Block until the server has stopped."""
        self._server.wait_for_termination()

    def stop(self) -> None:
        """Refuse new requests, give those under way a few seconds, and free the port."""
        self._server.stop(_GRACE_S).wait()

    def _bind(self, port: int) -> int:
        if not 0 <= port <= 65535:  # gRPC would take the remainder
            raise ServerError(f"a port is a number from 0 to 65535, where 0 is any, not {port}")
        address = f"{self.host}:{port}"
        try:
            bound = self._server.add_insecure_port(address)
        except RuntimeError as error:
            raise ServerError(
                f"cannot listen on {address}: the address is taken or not this "
                "machine's; choose another port, or 0 for any"
            ) from error
        return bound


def _handlers(service: InferenceService) -> grpc.GenericRpcHandler:
    calls: dict[str, tuple[type, Callable[[Any], object]]] = {
        "ServerLive": (oip.ServerLiveRequest, service.server_live),
        "ServerReady": (oip.ServerReadyRequest, service.server_ready),
        "ServerMetadata": (oip.ServerMetadataRequest, service.server_metadata),
        "ModelReady": (oip.ModelReadyRequest, service.model_ready),
        "ModelMetadata": (oip.ModelMetadataRequest, service.model_metadata),
        "ModelInfer": (oip.ModelInferRequest, service.model_infer),
    }
    return grpc.method_handlers_generic_handler(
        oip.SERVICE,
        {
            name: grpc.unary_unary_rpc_method_handler(
                functools.partial(_answer, request_type, call)
            )
            for name, (request_type, call) in calls.items()
        },
    )


def _answer(
    request_type: type, call: Callable[[Any], object], data: bytes, context: grpc.ServicerContext
) -> bytes:
    """Decode, call, encode; the one place where errors become gRPC statuses.

    gRPC gets bytes in and out of here because its own hooks for (de)serialising answer every
    malformed message with an internal error.
    """
    try:
        return encode(call(decode(request_type, data)))
    except UnknownModelError as error:
        code, details = grpc.StatusCode.NOT_FOUND, str(error)
    except (InputError, ProtocolError) as error:
        code, details = grpc.StatusCode.INVALID_ARGUMENT, str(error)
    except Exception:
        _log.exception("a request failed")
        code, details = grpc.StatusCode.INTERNAL, "the request failed; the server's log says why"
    context.abort(code, details)
    raise AssertionError("abort raises")


def main(
    model: ModelSpec, artifact: ArtifactSpec, directory: Path, argv: Sequence[str] | None = None
) -> int:
    """The program of the server half: answer until SIGINT or SIGTERM.

    Args:
        model: The signature and the plans.
        artifact: The half's files.
        directory: Where they lie.
        argv: The options that ``partc serve DIR`` was given; None means those of this process.

    Returns:
        The exit status: 0, or 2 if the server could not start.
    """
    program = f"python -m {directory.name}" if argv is None else "partc serve DIR"
    options = _parse(program, model, artifact, argv)
    try:
        with announced(f"loading {model.name}"):
            executor = Executor(directory, replace(artifact, threads=options.threads))
        server = InferenceServer(model, executor, options.host, options.port)
    except HalfError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    stopped = _catch_signals()
    server.start()
    print(f"serving {model.name} on {server.host}:{server.port}", flush=True)
    os.read(stopped, 1)
    server.stop()
    return 0


def _catch_signals() -> int:
    """A file from which a byte can be read once SIGINT or SIGTERM came.

    Python runs handlers in the main thread. A signal that another thread gets, or the main thread
    just before it goes to sleep, would not wake that up; whichever thread it is writes the byte.
    """
    stopped, signalled = os.pipe()
    os.set_blocking(signalled, False)
    signal.set_wakeup_fd(signalled)
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda _number, _frame: None)
    return stopped


def _parse(
    program: str, model: ModelSpec, artifact: ArtifactSpec, argv: Sequence[str] | None
) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        program, description=f"Serve {model.name} by the Open Inference Protocol v2 over gRPC."
    )
    parser.add_argument("--host", default="0.0.0.0", help="address to listen on (%(default)s)")  # noqa: S104  a server half is asked from other machines
    parser.add_argument(
        "--port", type=int, default=8001, help="port to listen on, 0 for any (%(default)s)"
    )
    parser.add_argument(
        "--threads",
        type=int,
        default=artifact.threads,
        help="threads to compute with, 0 for one for each core (%(default)s)",
    )
    return parser.parse_args(argv)
