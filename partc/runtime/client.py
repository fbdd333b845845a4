"""The device half: runs its part of a plan and asks the server for the rest."""

from __future__ import annotations

import argparse
import shlex
import sys
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypeVar

import grpc
import numpy as np

from . import oip
from .announce import announced
from .chooser import Chooser
from .encodings import IMAGE, ImageFile, Value, all_wire_specs, encode_all
from .errors import HalfError, InputError, ProtocolError, ServerError
from .executor import Executor, Request
from .protobuf import decode, encode
from .spec import ArtifactSpec, ModelSpec, PlanSpec, TensorSpec
from .tensors import Array, check_arrays, describe, pack, unpack

_Reply = TypeVar("_Reply")
_ARRAY_PREFIX = b"\x93NUMPY"
_IMAGE_PREFIXES = (b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n")  # of JPEG and PNG files
_CHANNEL_OPTIONS = (
    ("grpc.max_receive_message_length", -1),
    ("grpc.max_send_message_length", -1),
)


@dataclass(frozen=True)
class Timing:
    """Where a request's time went.

    Args:
        device_ms: Running the device's segments, fetching what they made, and encoding it.
        server_ms: On the server, decoding and waiting for other requests included, as the server
            says.
        transfer_ms: The rest of the time until the answer was there: the link, both ways.
    """

    device_ms: float
    server_ms: float
    transfer_ms: float


class Client:
    """A model that runs on this device and, once connected, on a server.

    Any number of threads may use it; ``last_timing`` is then any one's.

    Args:
        model: The signature and the plans.
        executor: Holds the device's segments.
    """

    def __init__(self, model: ModelSpec, executor: Executor) -> None:
        self._model = model
        self._executor = executor
        self.choose_plan = Chooser(model.plans).choose
        self._server: Connection | None = None
        self.last_timing: Timing | None = None

    def connect(self, address: str, timeout_s: float = 10.0) -> Client:
        """Wait for the server at ``HOST:PORT`` and make sure that it has the same model.

        Raises:
            InputError: The address is no HOST:PORT.
            ServerError: No server answered in time, or it has another model.
        """
        server = Connection(address)
        try:
            server.wait_until_ready(timeout_s)
            server.check_model(self._model, timeout_s)
        except HalfError:
            server.close()
            raise
        self.close()
        self._server = server
        return self

    def close(self) -> None:
        """Leave the server; plans that need none still run."""
        if self._server is not None:
            self._server.close()
            self._server = None

    def infer(
        self, inputs: Mapping[str, Array | bytes], plan: str | None = None, timeout_s: float = 60.0
    ) -> dict[str, Array]:
        """Run the model.

        Args:
            inputs: Arrays of the model's dtypes and shapes, by name; for an image input, the bytes
                of a JPEG or PNG file will do.
            plan: Name of a plan; None means the model's default plan.
            timeout_s: How long the server may take to answer.

        Returns:
            The outputs by name, in the model's order; nobody else holds these arrays.

        Raises:
            InputError: An input does not fit, there is no such plan, or the plan needs a server
                and the client is not connected.
            ServerError: The server did not answer, or not as it should.
            ExecutionError: A segment failed on the device.
        """
        chosen = _find_plan(self._model, self._model.default_plan if plan is None else plan)
        server = self._find_server(chosen)
        values = self._check_inputs(inputs)
        request = self._executor.request(values)
        started = time.perf_counter()
        request.run(chosen.device_segments)
        sent = _encode(chosen, request, values)
        outputs = self._local_outputs(request, chosen, values)
        device_ms = (time.perf_counter() - started) * 1e3
        server_ms, transfer_ms = 0.0, 0.0
        if server is not None:
            received, server_ms = server.infer(self._model.name, chosen, sent, timeout_s)
            outputs |= received
            transfer_ms = (time.perf_counter() - started) * 1e3 - device_ms - server_ms
        self.last_timing = Timing(device_ms, server_ms, transfer_ms)
        return {spec.name: outputs[spec.name] for spec in self._model.outputs}

    def _check_inputs(self, inputs: Mapping[str, Array | bytes]) -> dict[str, Value]:
        files = {
            spec.name: _image_file(spec, inputs[spec.name])
            for spec in self._model.inputs
            if spec.name in self._model.image_inputs
            and spec.name in inputs
            and not isinstance(inputs[spec.name], np.ndarray)
        }
        specs = [spec for spec in self._model.inputs if spec.name not in files]
        arrays = {name: value for name, value in inputs.items() if name not in files}
        return {**check_arrays(specs, arrays), **files}

    def _find_server(self, plan: PlanSpec) -> Connection | None:
        """The server, if the plan needs it."""
        if not plan.server_segments:
            return None
        if self._server is None:
            alone = _plan_without_server(self._model)
            other = f" or use plan {alone!r}" if alone else ""
            raise InputError(f"plan {plan.name!r} needs the server; connect to one{other}")
        return self._server

    def _local_outputs(
        self, request: Request, plan: PlanSpec, inputs: Mapping[str, Value]
    ) -> dict[str, Array]:
        """The outputs that the server does not make."""
        remote = {spec.name for spec in plan.download}
        names = [spec.name for spec in self._model.outputs if spec.name not in remote]
        return {
            name: request.array(name).copy() if name in inputs else request.array(name)
            for name in names
        }


def _find_plan(model: ModelSpec, name: str) -> PlanSpec:
    plans = {plan.name: plan for plan in model.plans}
    if name not in plans:
        raise InputError(f"unknown plan {name!r}; known are {', '.join(plans)}")
    return plans[name]


def _plan_without_server(model: ModelSpec) -> str | None:
    return next((plan.name for plan in model.plans if not plan.server_segments), None)


def _image_file(spec: TensorSpec, value: object) -> ImageFile:
    if not isinstance(value, bytes):
        raise InputError(
            f"input {spec.name!r} is a {type(value).__name__}, expected the bytes of a JPEG or PNG "
            f"file, or {describe(spec.dtype, spec.shape)}; for a path, Path(…).read_bytes()"
        )
    return ImageFile(spec, np.frombuffer(value, np.uint8))


def _encode(plan: PlanSpec, request: Request, given: Mapping[str, Value]) -> dict[str, Array]:
    """What the server is sent, by name; an image file is not decoded to be sent as one."""
    values: dict[str, Value] = {
        sent.name: given[sent.name] if sent.encoding == IMAGE else request.array(sent.name)
        for sent in plan.upload
    }
    return encode_all(plan.upload, values)


class Connection:
    """A channel to an Open Inference Protocol server.

    Args:
        address: ``HOST:PORT``.

    Raises:
        InputError: The address is no HOST:PORT.
    """

    def __init__(self, address: str) -> None:
        host, _, port = address.rpartition(":")
        if not host or not port.isdecimal() or int(port) > 65535:
            raise InputError(f"a server's address is HOST:PORT, for example board:8001: {address}")
        self._address = address
        self._channel = grpc.insecure_channel(address, options=_CHANNEL_OPTIONS)

    def close(self) -> None:
        """Close the channel."""
        self._channel.close()

    def wait_until_ready(self, timeout_s: float) -> None:
        """Wait until a server listens and says that it can take requests.

        Raises:
            ServerError: None did in time.
        """
        try:
            grpc.channel_ready_future(self._channel).result(timeout_s)
        except grpc.FutureTimeoutError as error:
            raise ServerError(
                f"no server answered at {self._address} within {timeout_s:g} s; "
                "start the server half there, or give another address"
            ) from error
        request = self._send("ServerReady", oip.ServerReadyRequest(), timeout_s)
        if not self._receive(request, oip.ServerReadyResponse).ready:
            raise ServerError(f"the server at {self._address} is not ready yet; try again later")

    def check_model(self, model: ModelSpec, timeout_s: float) -> None:
        """Make sure that the server is the other half of the same bundle.

        Raises:
            ServerError: It is not.
        """
        request = oip.ModelMetadataRequest(model.name)
        call = self._send("ModelMetadata", request, timeout_s)
        found = self._receive(call, oip.ModelMetadataResponse)
        if found.platform != model.platform:
            raise ServerError(
                f"the server at {self._address} has another model named {model.name!r}; "
                "deploy both halves of one bundle"
            )

    def infer(
        self, model_name: str, plan: PlanSpec, encoded: Mapping[str, Array], timeout_s: float
    ) -> tuple[dict[str, Array], float]:
        """Let the server do its part of a plan.

        Args:
            model_name: The model's.
            plan: Which of its plans.
            encoded: What the plan sends, as it sends it, by name.
            timeout_s: How long the server may take to answer.

        Returns:
            What it made, by name, and how many milliseconds it took to.

        Raises:
            ServerError: The server did not answer, or not as it should.
        """
        tensors, raw = pack(all_wire_specs(plan.upload), encoded)
        request = oip.ModelInferRequest(
            model_name=model_name,
            model_version=str(plan.version),
            inputs=tensors,
            raw_input_contents=raw,
        )
        reply = self._receive(self._send("ModelInfer", request, timeout_s), oip.ModelInferResponse)
        try:
            made = unpack(plan.download, reply.outputs, reply.raw_output_contents)
        except InputError as error:
            raise ServerError(f"the server at {self._address} answered wrongly: {error}") from error
        return {name: array.copy() for name, array in made.items()}, _server_ms(reply)

    def _send(self, method: str, request: object, timeout_s: float) -> grpc.Future[bytes]:
        call: grpc.UnaryUnaryMultiCallable[bytes, bytes]
        call = self._channel.unary_unary(f"/{oip.SERVICE}/{method}")
        return call.future(encode(request), timeout=timeout_s)

    def _receive(self, call: grpc.Future[bytes], reply_type: type[_Reply]) -> _Reply:
        """Wait for a reply; the one place where gRPC's errors are translated."""
        try:
            return decode(reply_type, call.result())
        except grpc.RpcError as error:
            raise ServerError(
                f"the server at {self._address} failed with {error.code().name}: {error.details()}"
            ) from error
        except (grpc.FutureCancelledError, ProtocolError) as error:
            raise ServerError(f"the server at {self._address} gave no answer: {error}") from error


def _server_ms(reply: oip.ModelInferResponse) -> float:
    """The server's own time; 0 from a server that does not say."""
    for parameter in reply.parameters:
        if parameter.key == oip.SERVER_MS and parameter.value is not None:
            return parameter.value.double_param or 0.0
    return 0.0


def main(
    model: ModelSpec, artifact: ArtifactSpec, directory: Path, argv: Sequence[str] | None = None
) -> int:
    """The program of the device half: run the model once on arrays or images from files.

    Args:
        model: The signature and the plans.
        artifact: The half's files.
        directory: Where they lie.
        argv: The options that ``partc run DIR`` was given; None means those of this process.

    Returns:
        The exit status: 0, or 2 after an error message.
    """
    program = f"python -m {directory.name}" if argv is None else "partc run DIR"
    options = _parse(program, model, artifact, argv)
    try:
        inputs = _load_inputs(model, options.input)
        plan = _find_plan(model, options.plan)
        if plan.server_segments and not options.server:
            raise _no_server(model, plan)
        client = Client(model, Executor(directory, replace(artifact, threads=options.threads)))
        if options.server:
            with announced(f"waiting for the server at {options.server}"):
                client.connect(options.server)
        outputs = client.infer(inputs, plan.name)
        client.close()
        if options.output:
            _save_outputs(options.output, outputs)
    except HalfError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    if client.last_timing is not None:
        print(_describe_timing(plan, client.last_timing), file=sys.stderr)
    for name, array in outputs.items():
        print(_summarise(name, array))
    return 0


def _parse(
    program: str, model: ModelSpec, artifact: ArtifactSpec, argv: Sequence[str] | None
) -> argparse.Namespace:
    parser = argparse.ArgumentParser(program, description=f"Run {model.name} once.")
    parser.add_argument("--server", metavar="HOST:PORT", help="where the server half listens")
    parser.add_argument(
        "--plan",
        help=f"one of {_listed(plan.name for plan in model.plans)} (%(default)s)",
        default=model.default_plan,
    )
    parser.add_argument(
        "--input",
        metavar="NAME=FILE",
        action="append",
        default=[],
        help=_input_help(model),
    )
    parser.add_argument(
        "--output", metavar="DIR", type=Path, help="write every output as NAME.npy there"
    )
    parser.add_argument(
        "--threads",
        type=int,
        default=artifact.threads,
        help="threads to compute with, 0 for one for each core (%(default)s)",
    )
    return parser.parse_args(argv)


def _input_help(model: ModelSpec) -> str:
    text = f"a .npy file for each of {_listed(spec.name for spec in model.inputs)}"
    images = _listed(model.image_inputs)
    return f"{text}; a JPEG or PNG file will do for {images}" if images else text


def _listed(names: Iterable[str]) -> str:
    """Names for argparse's help, in which a percent sign starts a reference."""
    return ", ".join(names).replace("%", "%%")


def _load_inputs(model: ModelSpec, arguments: Sequence[str]) -> dict[str, Array | bytes]:
    given = [_split_input(argument) for argument in arguments]
    names, expected = [name for name, _ in given], [spec.name for spec in model.inputs]
    if sorted(names) != sorted(expected):
        options = " ".join(
            f"--input {shlex.quote(f'{name}={name}{_ending(model, name)}')}" for name in expected
        )
        found = ", ".join(map(repr, names)) or "none"
        raise InputError(f"give every input once, for example {options}, not {found}")
    paths = dict(given)
    return {
        spec.name: _load_input(spec, paths[spec.name], spec.name in model.image_inputs)
        for spec in model.inputs
    }


def _split_input(argument: str) -> tuple[str, str]:
    name, separator, path = argument.partition("=")
    if not separator:
        raise InputError(f"an input is NAME=FILE, for example image=image.npy: {argument}")
    return name, path


def _ending(model: ModelSpec, name: str) -> str:
    return ".jpg" if name in model.image_inputs else ".npy"


def _load_input(spec: TensorSpec, path: str, is_image: bool) -> Array | bytes:
    try:
        with Path(path).open("rb") as file:
            start = file.peek(len(_ARRAY_PREFIX))
            if start.startswith(_ARRAY_PREFIX):
                return np.lib.format.read_array(file, allow_pickle=False)
            contents = file.read() if is_image else b""
    except FileNotFoundError as error:
        raise InputError(f"input {spec.name!r}: there is no file {path}") from error
    except (OSError, ValueError, MemoryError) as error:
        raise InputError(f"input {spec.name!r} cannot be read from {path}: {error}") from error
    if not is_image:
        raise _no_array(spec, path, start)
    ImageFile(spec, np.frombuffer(contents, np.uint8), path).decode()  # here the file has a name
    return contents


def _no_array(spec: TensorSpec, path: str, start: bytes) -> InputError:
    message = f"{path} is no .npy file; input {spec.name!r} is {describe(spec.dtype, spec.shape)}"
    if start.startswith(_IMAGE_PREFIXES):
        message += ", no image (compile with --preprocess and --input-nbytes to give image files)"
    return InputError(message)


def _no_server(model: ModelSpec, plan: PlanSpec) -> InputError:
    alone = _plan_without_server(model)
    other = f", or --plan {shlex.quote(alone)}" if alone else ""
    return InputError(f"plan {plan.name!r} needs the server; give --server HOST:PORT{other}")


def _describe_timing(plan: PlanSpec, timing: Timing) -> str:
    parts = [f"device {timing.device_ms:.1f} ms"]
    if plan.server_segments:
        parts += [f"server {timing.server_ms:.1f} ms", f"transfer {timing.transfer_ms:.1f} ms"]
    return f"plan {plan.name}: {', '.join(parts)}"


def _save_outputs(directory: Path, outputs: Mapping[str, Array]) -> None:
    try:
        directory.mkdir(parents=True, exist_ok=True)
        for name, array in outputs.items():
            np.save(directory / f"{name.replace('/', '_')}.npy", array, allow_pickle=False)
    except OSError as error:
        raise InputError(f"the outputs cannot be written to {directory}: {error}") from error


def _summarise(name: str, array: Array) -> str:
    values = " ".join(f"{value:.6g}" for value in array.reshape(-1)[:5].tolist())
    more = " …" if array.size > 5 else ""
    return f"{name}: {describe(array.dtype, array.shape)} = {values}{more}"
