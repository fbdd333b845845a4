from __future__ import annotations

import re
import subprocess
import sys
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest

from partc.runtime import announce, oip
from partc.runtime import client as client_module
from partc.runtime import server as server_module
from partc.runtime.client import Client
from partc.runtime.errors import InputError, ServerError
from partc.runtime.executor import Executor
from partc.runtime.protobuf import encode
from partc.runtime.server import InferenceServer, InferenceService

PLANS = ("server-only", "device-only", "cut-1", None)
MS = r"\d+\.\d ms"


@pytest.mark.parametrize("plan", PLANS)
def test_every_plan_gives_the_same(toy: Any, toy_client: Client, plan: str | None) -> None:
    toy.assert_same(toy_client.infer(toy.inputs(), plan), toy.outputs(toy.inputs()))


def test_plans_run_where_they_say(toy: Any, toy_server: InferenceServer) -> None:
    first = toy.half.executor(segments=toy.half.artifact.segments[:1])
    client = Client(toy.model, first).connect(f"127.0.0.1:{toy_server.port}")
    for plan in ("server-only", "cut-1"):
        toy.assert_same(client.infer(toy.inputs(), plan), toy.outputs(toy.inputs()))
    with pytest.raises(Exception, match="this half of the bundle has no segment 'segment_1'"):
        client.infer(toy.inputs(), "device-only")
    client.close()


@pytest.mark.parametrize("plan", PLANS)
def test_outputs_belong_to_the_caller(toy: Any, toy_client: Client, plan: str | None) -> None:
    inputs = toy.inputs()
    for array in toy_client.infer(inputs, plan).values():
        array[...] = 0
    np.testing.assert_array_equal(inputs["image"], toy.inputs()["image"])


def test_device_only_needs_no_server(toy: Any, toy_executor: Executor) -> None:
    client = Client(toy.model, toy_executor)
    toy.assert_same(client.infer(toy.inputs(), "device-only"), toy.outputs(toy.inputs()))
    message = "plan 'cut-1' needs the server; connect to one or use plan 'device-only'$"
    with pytest.raises(InputError, match=message):
        client.infer(toy.inputs())
    never_alone = replace(toy.model, plans=toy.model.plans[2:])
    with pytest.raises(InputError, match=r"plan 'cut-1' needs the server; connect to one$"):
        Client(never_alone, toy_executor).infer(toy.inputs())


def test_closed_clients_run_alone(toy: Any, toy_client: Client) -> None:
    toy_client.close()
    toy_client.infer(toy.inputs(), "device-only")
    with pytest.raises(InputError, match="needs the server"):
        toy_client.infer(toy.inputs())


def test_many_threads_get_their_own_results(toy: Any, toy_client: Client) -> None:
    def ask(seed: int) -> None:
        outputs = toy_client.infer(toy.inputs(seed), PLANS[seed % 4])
        toy.assert_same(outputs, toy.outputs(toy.inputs(seed)))

    with ThreadPoolExecutor(8) as threads:
        list(threads.map(ask, range(200)))


def test_unknown_plans_are_listed(toy: Any, toy_client: Client) -> None:
    message = "unknown plan 'cut-9'; known are server-only, device-only, cut-1"
    with pytest.raises(InputError, match=message):
        toy_client.infer(toy.inputs(), "cut-9")


def test_inputs_are_checked_on_the_device(toy: Any, toy_client: Client) -> None:
    inputs = {**toy.inputs(), "image": np.zeros((2, 3), "float32")}
    message = re.escape("input 'image' is float32[2, 3], expected float32[2, 4]")
    with pytest.raises(InputError, match=message):
        toy_client.infer(inputs, "server-only")


def test_says_where_the_time_went(toy: Any, toy_client: Client) -> None:
    assert toy_client.last_timing is None
    toy_client.infer(toy.inputs(), "cut-1")
    timing = toy_client.last_timing
    assert timing is not None
    assert min(timing.device_ms, timing.server_ms, timing.transfer_ms) > 0
    toy_client.infer(toy.inputs(), "device-only")
    assert toy_client.last_timing is not None
    assert toy_client.last_timing.server_ms == toy_client.last_timing.transfer_ms == 0


@pytest.mark.parametrize("address", ["board", ":8001", "board:", "board:http", ""])
def test_addresses_are_host_and_port(toy: Any, toy_executor: Executor, address: str) -> None:
    with pytest.raises(InputError, match=f"address is HOST:PORT, .*: {address}$"):
        Client(toy.model, toy_executor).connect(address)


def test_says_that_no_server_is_there(toy: Any, toy_executor: Executor) -> None:
    client = Client(toy.model, toy_executor)
    with pytest.raises(ServerError, match=r"no server answered at 127\.0\.0\.1:1 within 0\.2 s; "):
        client.connect("127.0.0.1:1", timeout_s=0.2)
    client.infer(toy.inputs(), "device-only")


def test_waits_for_a_server_that_is_late(toy: Any, toy_executor: Executor) -> None:
    server = InferenceServer(toy.model, toy_executor, "127.0.0.1", 0)
    starting = threading.Timer(0.3, server.start)
    starting.start()
    client = Client(toy.model, toy_executor).connect(f"127.0.0.1:{server.port}")
    toy.assert_same(client.infer(toy.inputs()), toy.outputs(toy.inputs()))
    client.close()
    server.stop()


def test_refuses_another_model(
    toy: Any, toy_executor: Executor, toy_server: InferenceServer
) -> None:
    address = f"127.0.0.1:{toy_server.port}"
    renamed = replace(toy.model, name="other")
    with pytest.raises(ServerError, match="failed with NOT_FOUND: unknown model 'other'; this ser"):
        Client(renamed, toy_executor).connect(address)
    retrained = replace(toy.model, digest="f" * 64)
    with pytest.raises(ServerError, match="another model named 'toy'; deploy both halves of one"):
        Client(retrained, toy_executor).connect(address)


def test_refuses_a_server_that_is_not_ready(
    toy: Any, toy_executor: Executor, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(InferenceService, "server_ready", lambda *_: oip.ServerReadyResponse())
    server = InferenceServer(toy.model, toy_executor, "127.0.0.1", 0).start()
    with pytest.raises(ServerError, match="is not ready yet; try again later"):
        Client(toy.model, toy_executor).connect(f"127.0.0.1:{server.port}")
    server.stop()


def test_a_server_that_goes_away_is_an_error_and_can_come_back(
    toy: Any, toy_executor: Executor
) -> None:
    server = InferenceServer(toy.model, toy_executor, "127.0.0.1", 0).start()
    client = Client(toy.model, toy_executor).connect(f"127.0.0.1:{server.port}")
    server.stop()
    with pytest.raises(ServerError, match="failed with UNAVAILABLE: "):
        client.infer(toy.inputs())
    toy.assert_same(client.infer(toy.inputs(), "device-only"), toy.outputs(toy.inputs()))
    again = InferenceServer(toy.model, toy_executor, "127.0.0.1", server.port).start()
    client.connect(f"127.0.0.1:{server.port}")
    toy.assert_same(client.infer(toy.inputs()), toy.outputs(toy.inputs()))
    client.close()
    again.stop()


def test_a_server_that_hangs_is_an_error(
    toy: Any, toy_client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    release = threading.Event()
    monkeypatch.setattr(InferenceService, "_find_plan", lambda *_: release.wait(20))
    with pytest.raises(ServerError, match="failed with DEADLINE_EXCEEDED: "):
        toy_client.infer(toy.inputs(), timeout_s=0.2)
    release.set()


@pytest.fixture
def impostor(toy: Any) -> Any:
    """Starts a server that gives one answer to whatever is asked for inference."""
    servers: list[grpc.Server] = []

    def start(executor: Executor, answer: bytes) -> Client:
        server = grpc.server(ThreadPoolExecutor(2))
        calls = {"ModelInfer": grpc.unary_unary_rpc_method_handler(lambda *_: answer)}
        server.add_generic_rpc_handlers(
            (
                grpc.method_handlers_generic_handler(oip.SERVICE, calls),
                server_module._handlers(InferenceService(toy.model, executor)),
            )
        )
        port = server.add_insecure_port("127.0.0.1:0")
        server.start()
        servers.append(server)
        return Client(toy.model, executor).connect(f"127.0.0.1:{port}")

    yield start
    for server in servers:
        server.stop(None).wait()


HEADER = oip.InferTensor("scores", "FP32", (2, 4))


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        (b"\x0a\x05ab", "gave no answer: malformed message"),
        (b"", "answered wrongly: expected tensors 'scores', got none"),
        (
            encode(oip.ModelInferResponse(outputs=(HEADER,), raw_output_contents=(b"12",))),
            "answered wrongly: tensor 'scores' has 2 bytes, expected 32",
        ),
    ],
)
def test_wrong_answers_are_errors(
    toy: Any, toy_executor: Executor, impostor: Any, answer: bytes, message: str
) -> None:
    client = impostor(toy_executor, answer)
    with pytest.raises(ServerError, match=message):
        client.infer(toy.inputs())
    client.close()


def test_a_server_need_not_say_how_long_it_took(
    toy: Any, toy_executor: Executor, impostor: Any
) -> None:
    answer = oip.ModelInferResponse(outputs=(HEADER,), raw_output_contents=(bytes(32),))
    client = impostor(toy_executor, encode(answer))
    assert not client.infer(toy.inputs())["scores"].any()
    assert client.last_timing.server_ms == 0
    client.close()


@pytest.fixture
def input_arguments(toy: Any, tmp_path: Path) -> list[str]:
    arguments: list[str] = []
    for name, array in toy.inputs().items():
        np.save(tmp_path / f"{name}=1.npy", array)
        arguments += ["--input", f"{name}={tmp_path}/{name}=1.npy"]
    return arguments


def test_main_runs_the_model_from_files(
    toy: Any,
    toy_server: InferenceServer,
    input_arguments: list[str],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    arguments = ["--server", f"127.0.0.1:{toy_server.port}", "--output", f"{tmp_path}/made/here"]
    half = toy.half
    assert (
        client_module.main(toy.model, half.artifact, half.directory, [*input_arguments, *arguments])
        == 0
    )
    expected = toy.outputs(toy.inputs())
    found = {name: np.load(tmp_path / "made" / "here" / f"{name}.npy") for name in expected}
    toy.assert_same(found, expected)
    printed = capsys.readouterr()
    lines = printed.out.splitlines()
    assert re.fullmatch(rf"plan cut-1: device {MS}, server {MS}, transfer {MS}\n", printed.err)
    values = " ".join(f"{value:.6g}" for value in found["scores"].reshape(-1)[:5])
    assert lines[0] == f"scores: float32[2, 4] = {values} …"
    assert [line.split(":")[0] for line in lines] == list(expected)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            [],
            "give every input once, for example "
            "--input image=image.npy --input offset=offset.npy, not none",
        ),
        (["--input", "image"], "an input is NAME=FILE, for example image=image.npy: image"),
        (
            ["--input", "imge=/gone.npy"],
            "give every input once, for example --input image=image.np",
        ),
    ],
)
def test_main_says_which_inputs_it_needs(
    toy: Any, arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    half = toy.half
    assert client_module.main(toy.model, half.artifact, half.directory, arguments) == 2
    assert capsys.readouterr().err.startswith(f"error: {message}")


JPEG, PNG = b"\xff\xd8\xff\xe0", b"\x89PNG\r\n\x1a\n"


@pytest.mark.parametrize(
    ("name", "contents", "message"),
    [
        ("gone.npy", None, "input 'image': there is no file gone.npy\n"),
        ("a.py", b"import this", "a.py is no .npy file; input 'image' is float32[2, 4]\n"),
        ("a.npy", b"", "a.npy is no .npy file; input 'image' is float32[2, 4]\n"),
        ("a.npy", b"\x93NUMPY\x01", "input 'image' cannot be read from a.npy: "),
        *(
            (
                "china.jpg",
                contents,
                "china.jpg is no .npy file; input 'image' is float32[2, 4], no image "
                "(compile with --preprocess and --input-nbytes to give image files)\n",
            )
            for contents in (JPEG, PNG)
        ),
    ],
)
def test_main_says_which_file_is_no_array(
    toy: Any,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    name: str,
    contents: bytes | None,
    message: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    if contents is not None:
        Path(name).write_bytes(contents)
    half, arguments = toy.half, ["--input", f"image={name}", "--input", "offset=none.npy"]
    assert client_module.main(toy.model, half.artifact, half.directory, arguments) == 2
    assert capsys.readouterr().err.startswith(f"error: {message}")


def test_main_says_how_to_do_with_a_server_or_without(
    toy: Any, input_arguments: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    message = "error: plan 'cut-1' needs the server; give --server HOST:PORT"
    main, half = client_module.main, toy.half
    assert main(toy.model, half.artifact, half.directory, input_arguments) == 2
    assert capsys.readouterr().err == f"{message}, or --plan device-only\n"
    never_alone = replace(toy.model, plans=toy.model.plans[2:])
    assert main(never_alone, half.artifact, half.directory, input_arguments) == 2
    assert capsys.readouterr().err == f"{message}\n"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--plan", "cut-9"], "unknown plan 'cut-9'; known are "),
        (["--server", "board"], "a server's address is HOST:PORT"),
        (["--server", "board:65536"], "a server's address is HOST:PORT"),
        (
            ["--plan", "device-only", "--threads", "-1"],
            "the number of threads is -1; give 0 for one for each core",
        ),
    ],
)
def test_main_reports_what_it_cannot_do(
    toy: Any,
    input_arguments: list[str],
    arguments: list[str],
    message: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    half, arguments = toy.half, [*input_arguments, *arguments]
    assert client_module.main(toy.model, half.artifact, half.directory, arguments) == 2
    assert capsys.readouterr().err.startswith(f"error: {message}")


def test_main_says_what_it_waits_for(
    toy: Any,
    toy_executor: Executor,
    input_arguments: list[str],
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(announce, "_SILENCE_S", 0)
    server = InferenceServer(toy.model, toy_executor, "127.0.0.1", 0)
    starting = threading.Timer(0.3, server.start)
    starting.start()
    half, arguments = toy.half, [*input_arguments, "--server", f"127.0.0.1:{server.port}"]
    assert client_module.main(toy.model, half.artifact, half.directory, arguments) == 0
    found = capsys.readouterr().err
    assert found.startswith(f"waiting for the server at 127.0.0.1:{server.port}\nplan cut-1: ")
    server.stop()


@pytest.mark.parametrize(
    ("argv", "program"), [(None, "python -m {directory}"), (["-h"], "partc run DIR")]
)
def test_help_says_what_was_typed(
    toy: Any, help_of: Callable[..., str], argv: list[str] | None, program: str
) -> None:
    typed = program.format(directory=toy.half.directory.name)
    assert help_of(client_module.main, argv).startswith(f"usage: {typed} [-h]")


def test_main_never_unpickles(toy: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    np.save(tmp_path / "image.npy", np.array([{}], object))
    half, path = toy.half, f"{tmp_path}/image.npy"
    arguments = ["--input", f"image={path}", "--input", f"offset={path}"]
    assert client_module.main(toy.model, half.artifact, half.directory, arguments) == 2
    assert "Object arrays cannot be loaded" in capsys.readouterr().err


def test_main_refuses_an_array_that_memory_cannot_hold(
    toy: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    header = {"descr": "<f4", "fortran_order": False, "shape": (1 << 50,)}
    with (tmp_path / "image.npy").open("wb") as file:
        np.lib.format.write_array_header_1_0(file, header)
    half, path = toy.half, f"{tmp_path}/image.npy"
    arguments = ["--input", f"image={path}", "--input", f"offset={path}"]
    assert client_module.main(toy.model, half.artifact, half.directory, arguments) == 2
    assert capsys.readouterr().err.startswith("error: input 'image' cannot be read from ")


def test_main_says_where_it_cannot_write(
    toy: Any, input_arguments: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").touch()
    arguments = [*input_arguments, "--plan", "device-only", "--output", f"{tmp_path}/file"]
    half = toy.half
    assert client_module.main(toy.model, half.artifact, half.directory, arguments) == 2
    assert capsys.readouterr().err.startswith("error: the outputs cannot be written to ")


def test_a_copy_of_the_runtime_runs_without_the_compiler(
    deployed: Path, input_arguments: list[str]
) -> None:
    ran = subprocess.run(
        [sys.executable, "-m", "half.client", *input_arguments, "--plan", "device-only"],
        cwd=deployed,
        capture_output=True,
        text=True,
        check=False,
    )
    assert ran.returncode == 0
    assert re.fullmatch(rf"plan device-only: device {MS}\n", ran.stderr)
    assert ran.stdout.startswith("scores: float32[2, 4] = ")
