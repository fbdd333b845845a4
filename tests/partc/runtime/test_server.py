"""The server as a standard client sees it."""

from __future__ import annotations

import logging
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
import tritonclient.grpc as triton
from hypothesis import given
from hypothesis import strategies as st
from tritonclient.utils import InferenceServerException, np_to_triton_dtype

from partc.runtime import announce
from partc.runtime import server as server_module
from partc.runtime.errors import ServerError
from partc.runtime.executor import Executor, Request
from partc.runtime.oip import SERVER_MS
from partc.runtime.server import InferenceServer


@pytest.fixture
def client(toy_server: InferenceServer) -> Iterator[triton.InferenceServerClient]:
    with triton.InferenceServerClient(f"127.0.0.1:{toy_server.port}") as client:
        yield client


@pytest.fixture
def call(toy_server: InferenceServer) -> Iterator[Callable[[str, bytes], bytes]]:
    """Sends bytes to a method."""
    with grpc.insecure_channel(f"127.0.0.1:{toy_server.port}") as channel:
        yield lambda method, data: channel.unary_unary(f"/inference.GRPCInferenceService/{method}")(
            data
        )


def tensor(name: str, array: np.ndarray[Any, Any]) -> triton.InferInput:
    declared = triton.InferInput(name, list(array.shape), np_to_triton_dtype(array.dtype))
    return declared.set_data_from_numpy(array)


def whole_model_inputs(toy: Any, seed: int = 0) -> list[triton.InferInput]:
    return [tensor(name, array) for name, array in toy.inputs(seed).items()]


def test_says_that_it_is_there(client: triton.InferenceServerClient) -> None:
    assert client.is_server_live()
    assert client.is_server_ready()
    assert client.get_server_metadata().name == "partc"


@pytest.mark.parametrize(
    ("name", "version", "is_ready"),
    [
        ("toy", "", True),
        ("toy", "0", True),
        ("toy", "2", True),
        ("toy", "1", False),
        ("toy", "9", False),
        ("other", "0", False),
    ],
)
def test_says_which_models_are_ready(
    client: triton.InferenceServerClient, name: str, version: str, is_ready: bool
) -> None:
    assert client.is_model_ready(name, version) is is_ready


@pytest.mark.parametrize("version", ["", "0"])
def test_describes_the_whole_model(
    toy: Any, client: triton.InferenceServerClient, version: str
) -> None:
    metadata = client.get_model_metadata("toy", version, as_json=True)
    assert metadata == {
        "name": "toy",
        "versions": ["0", "2"],
        "platform": toy.model.platform,
        "inputs": [
            {"name": "image", "datatype": "FP32", "shape": ["2", "4"]},
            {"name": "offset", "datatype": "INT64", "shape": ["4"]},
        ],
        "outputs": [
            {"name": "scores", "datatype": "FP32", "shape": ["2", "4"]},
            {"name": "hidden", "datatype": "FP32", "shape": ["2", "4"]},
        ],
    }


def test_describes_a_plan_as_a_version(client: triton.InferenceServerClient) -> None:
    metadata = client.get_model_metadata("toy", "2")
    assert [tensor.name for tensor in metadata.inputs] == ["offset", "hidden"]
    assert [tensor.name for tensor in metadata.outputs] == ["scores"]


@pytest.mark.parametrize("version", ["", "0"])
def test_runs_the_whole_model(toy: Any, client: triton.InferenceServerClient, version: str) -> None:
    result = client.infer("toy", whole_model_inputs(toy), version, request_id="seven")
    expected = toy.outputs(toy.inputs())
    for name in ("scores", "hidden"):
        np.testing.assert_allclose(result.as_numpy(name), expected[name], rtol=1e-6, strict=True)
    response = result.get_response()
    assert (response.id, response.model_version) == ("seven", "0")
    assert response.parameters[SERVER_MS].double_param > 0


def test_runs_the_rest_of_a_plan(toy: Any, client: triton.InferenceServerClient) -> None:
    expected = toy.outputs(toy.inputs())
    inputs = [tensor("hidden", expected["hidden"]), tensor("offset", toy.inputs()["offset"])]
    result = client.infer("toy", inputs, "2")
    np.testing.assert_allclose(result.as_numpy("scores"), expected["scores"], rtol=1e-6)


def test_takes_typed_contents(toy: Any, call: Callable[[str, bytes], bytes]) -> None:
    pb = triton.service_pb2
    request = pb.ModelInferRequest(model_name="toy")
    image = request.inputs.add(name="image", datatype="FP32", shape=[2, 4])
    image.contents.fp32_contents.extend(toy.inputs()["image"].reshape(-1).tolist())
    offset = request.inputs.add(name="offset", datatype="INT64", shape=[4])
    offset.contents.int64_contents.extend(toy.inputs()["offset"].tolist())
    response = pb.ModelInferResponse.FromString(call("ModelInfer", request.SerializeToString()))
    scores = np.frombuffer(response.raw_output_contents[0], "float32").reshape(2, 4)
    np.testing.assert_allclose(scores, toy.outputs(toy.inputs())["scores"], rtol=1e-6)


def test_returns_what_is_asked_for(toy: Any, client: triton.InferenceServerClient) -> None:
    outputs = [triton.InferRequestedOutput("hidden")]
    result = client.infer("toy", whole_model_inputs(toy), outputs=outputs)
    assert [output.name for output in result.get_response().outputs] == ["hidden"]
    np.testing.assert_allclose(result.as_numpy("hidden"), toy.outputs(toy.inputs())["hidden"])


def test_answers_many_clients_at_once(toy: Any, client: triton.InferenceServerClient) -> None:
    def ask(seed: int) -> None:
        result = client.infer("toy", whole_model_inputs(toy, seed))
        expected = toy.outputs(toy.inputs(seed))["scores"]
        np.testing.assert_allclose(result.as_numpy("scores"), expected, rtol=1e-6)

    with ThreadPoolExecutor(8) as threads:
        list(threads.map(ask, range(100)))


def refusal(ask: Callable[[], object]) -> tuple[str, str]:
    with pytest.raises(InferenceServerException) as caught:
        ask()
    return str(caught.value.status()), str(caught.value.message())


@pytest.mark.parametrize(
    ("name", "version", "message"),
    [
        ("other", "0", "unknown model 'other'; this server has 'toy'"),
        ("toy", "1", "model 'toy' has no version '1'; it has 0, 2"),
        ("toy", "x", "model 'toy' has no version 'x'; it has 0, 2"),
    ],
)
def test_unknown_models_are_not_found(
    toy: Any, client: triton.InferenceServerClient, name: str, version: str, message: str
) -> None:
    expected = ("StatusCode.NOT_FOUND", message)
    assert refusal(lambda: client.infer(name, whole_model_inputs(toy), version)) == expected
    assert refusal(lambda: client.get_model_metadata(name, version)) == expected


@pytest.mark.parametrize(
    ("image", "message"),
    [
        (np.zeros((2, 4)), "tensor 'image' is FP64[2, 4], expected FP32[2, 4]"),
        (np.zeros((1, 4), "float32"), "tensor 'image' is FP32[1, 4], expected FP32[2, 4]"),
    ],
)
def test_wrong_inputs_are_invalid(
    toy: Any, client: triton.InferenceServerClient, image: np.ndarray[Any, Any], message: str
) -> None:
    inputs = [tensor("image", image), tensor("offset", toy.inputs()["offset"])]
    found = refusal(lambda: client.infer("toy", inputs))
    assert found == ("StatusCode.INVALID_ARGUMENT", message)


def test_missing_inputs_are_invalid(toy: Any, client: triton.InferenceServerClient) -> None:
    found = refusal(lambda: client.infer("toy", whole_model_inputs(toy)[:1]))
    message = "expected tensors 'image', 'offset', got 'image'"
    assert found == ("StatusCode.INVALID_ARGUMENT", message)


def test_unknown_outputs_are_invalid(toy: Any, client: triton.InferenceServerClient) -> None:
    outputs = [triton.InferRequestedOutput("image")]
    found = refusal(lambda: client.infer("toy", whole_model_inputs(toy), outputs=outputs))
    message = "unknown output 'image'; version 0 has 'scores', 'hidden'"
    assert found == ("StatusCode.INVALID_ARGUMENT", message)


def test_failures_keep_their_traceback_in_the_log(
    toy: Any,
    client: triton.InferenceServerClient,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    def fail(*_: object) -> None:
        raise ZeroDivisionError("secret")

    monkeypatch.setattr(Request, "run", fail)
    with caplog.at_level(logging.ERROR):
        found = refusal(lambda: client.infer("toy", whole_model_inputs(toy)))
    message = "the request failed; the server's log says why"
    assert found == ("StatusCode.INTERNAL", message)
    assert "ZeroDivisionError: secret" in caplog.text


METHODS = (
    "ServerLive",
    "ServerReady",
    "ServerMetadata",
    "ModelReady",
    "ModelMetadata",
    "ModelInfer",
)


@pytest.mark.parametrize("method", METHODS)
def test_malformed_messages_are_invalid(call: Callable[[str, bytes], bytes], method: str) -> None:
    with pytest.raises(grpc.RpcError) as caught:
        call(method, b"\x0a\x05ab")
    assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert caught.value.details().startswith("malformed message: a field of 5 bytes")


def status(call: Callable[[str, bytes], bytes], method: str, data: bytes) -> grpc.StatusCode:
    try:
        call(method, data)
    except grpc.RpcError as error:
        return error.code()
    return grpc.StatusCode.OK


def test_no_bytes_are_an_internal_error(call: Callable[[str, bytes], bytes]) -> None:
    expected = {"OK", "INVALID_ARGUMENT", "NOT_FOUND"}

    @given(st.sampled_from(METHODS), st.binary(max_size=40))
    def send(method: str, data: bytes) -> None:
        assert status(call, method, data).name in expected

    send()


def test_messages_have_no_size_limit(call: Callable[[str, bytes], bytes]) -> None:
    unknown_field = b"\x7a\x80\x80\xc0\x02" + bytes(5 << 20)  # gRPC's own limit is 4 MiB
    assert call("ServerLive", unknown_field) == b"\x08\x01"


def test_a_port_in_use_is_an_error(toy: Any, toy_executor: Executor) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(ServerError, match=rf"cannot listen on 127\.0\.0\.1:{port}: "):
            InferenceServer(toy.model, toy_executor, "127.0.0.1", port)


@pytest.mark.parametrize("port", [-1, 65536])
def test_a_port_out_of_range_is_an_error(toy: Any, toy_executor: Executor, port: int) -> None:
    with pytest.raises(ServerError, match=f"a port is a number from 0 to 65535.* not {port}"):
        InferenceServer(toy.model, toy_executor, "127.0.0.1", port)


def test_two_servers_never_share_a_port(
    toy: Any, toy_executor: Executor, toy_server: InferenceServer
) -> None:
    with pytest.raises(ServerError, match="choose another port, or 0 for any"):
        InferenceServer(toy.model, toy_executor, "127.0.0.1", toy_server.port)


def test_stops(toy: Any, toy_executor: Executor) -> None:
    server = InferenceServer(toy.model, toy_executor, "127.0.0.1", 0).start()
    server.stop()
    server.wait()
    InferenceServer(toy.model, toy_executor, "127.0.0.1", server.port).stop()


def test_main_reports_what_it_cannot_do(
    toy: Any, toy_server: InferenceServer, capsys: pytest.CaptureFixture[str]
) -> None:
    half = toy.half
    arguments = ["--host", "127.0.0.1", "--port", str(toy_server.port)]
    assert server_module.main(toy.model, half.artifact, half.directory, arguments) == 2
    assert capsys.readouterr().err.startswith("error: cannot listen on 127.0.0.1:")
    assert server_module.main(toy.model, half.artifact, Path("/nowhere"), []) == 2
    assert capsys.readouterr().err.startswith("error: /nowhere/model.so cannot be read: ")


@pytest.mark.parametrize(("silence_s", "said"), [(0, "loading toy\n"), (60, "")])
def test_main_says_that_it_loads_if_that_takes_long(
    toy: Any,
    toy_server: InferenceServer,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    silence_s: float,
    said: str,
) -> None:
    monkeypatch.setattr(announce, "_SILENCE_S", silence_s)
    half, arguments = toy.half, ["--host", "127.0.0.1", "--port", str(toy_server.port)]
    assert server_module.main(toy.model, half.artifact, half.directory, arguments) == 2
    assert capsys.readouterr().err.startswith(f"{said}error: cannot listen on ")


def test_main_has_its_own_words_only_for_a_port_in_use(
    deployed: Path, toy_server: InferenceServer
) -> None:
    ran = subprocess.run(
        [
            sys.executable,
            "-m",
            "half.server",
            "--host",
            "127.0.0.1",
            "--port",
            f"{toy_server.port}",
        ],
        cwd=deployed,
        env={name: text for name, text in os.environ.items() if name != "GRPC_VERBOSITY"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert (ran.returncode, ran.stdout) == (2, "")
    assert ran.stderr == (
        f"error: cannot listen on 127.0.0.1:{toy_server.port}: the address is taken or not this "
        "machine's; choose another port, or 0 for any\n"
    )


@pytest.mark.parametrize(
    ("argv", "program"), [(None, "python -m {directory}"), (["-h"], "partc serve DIR")]
)
def test_help_says_what_was_typed(
    toy: Any, help_of: Callable[..., str], argv: list[str] | None, program: str
) -> None:
    typed = program.format(directory=toy.half.directory.name)
    assert help_of(server_module.main, argv).startswith(f"usage: {typed} [-h]")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_main_serves_until_it_is_told_to_stop(deployed: Path, toy: Any, number: int) -> None:
    arguments = ["--host", "127.0.0.1", "--port", "0", "--threads", "1"]
    with subprocess.Popen(
        [sys.executable, "-m", "half.server", *arguments],
        cwd=deployed,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None
        ready = process.stdout.readline()
        assert ready.startswith("serving toy on 127.0.0.1:"), process.stderr
        with triton.InferenceServerClient(ready.split()[-1]) as client:
            result = client.infer("toy", whole_model_inputs(toy))
        process.send_signal(number)
        rest = process.communicate(timeout=20)
    assert (process.returncode, *rest) == (0, "", "")
    np.testing.assert_allclose(
        result.as_numpy("scores"), toy.outputs(toy.inputs())["scores"], rtol=1e-6
    )


def test_a_signal_that_another_thread_gets_is_not_missed() -> None:
    """The system may hand it to any thread, while the main thread sleeps."""
    program = """
import os, signal, threading, time
from partc.runtime.server import _catch_signals

stopped = _catch_signals()
def signal_itself():
    time.sleep(0.5)
    signal.pthread_kill(threading.get_ident(), signal.SIGTERM)
threading.Thread(target=signal_itself).start()
os.read(stopped, 1)
"""
    subprocess.run([sys.executable, "-c", program], check=True, timeout=60)
