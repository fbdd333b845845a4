"""Halves that send tensors encoded, over gRPC.

hidden = photo * weight              segment_0
scores = hidden + bias               segment_1
outputs: scores and photo itself
"""

from __future__ import annotations

import io
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import lz4.block
import numpy as np
import pytest
import tritonclient.grpc as triton
import tvm
import zstandard
from PIL import Image
from tritonclient.utils import InferenceServerException, np_to_triton_dtype
from tvm import relax

from partc.runtime import client as client_module
from partc.runtime import encodings
from partc.runtime import server as server_module
from partc.runtime.client import Client
from partc.runtime.encodings import ImageFile, encode
from partc.runtime.errors import InputError
from partc.runtime.executor import Executor
from partc.runtime.server import InferenceServer
from partc.runtime.spec import ModelSpec, PlanSpec, SegmentSpec, SentSpec, TensorSpec

Array = np.ndarray[Any, Any]

SHAPE = (1, 8, 6, 3)
PHOTO = TensorSpec("photo", "uint8", SHAPE)
SCORES = TensorSpec("scores", "float32", SHAPE)
SEGMENTS = (
    SegmentSpec("segment_0", ("photo",), ("weight",), ("hidden",)),
    SegmentSpec("segment_1", ("hidden",), ("bias",), ("scores",)),
)
NAMES = ("segment_0", "segment_1")
HOW = (
    *("plain", "float16", "uint8"),
    *("plain+lz4", "float16+lz4", "uint8+lz4"),
    *("plain+zstd", "float16+zstd", "uint8+zstd"),
)


def photo_as(encoding: str) -> SentSpec:
    return SentSpec("photo", "uint8", SHAPE, encoding, 100)


MODEL = ModelSpec(
    name="album",
    digest="0",
    inputs=(PHOTO,),
    outputs=(SCORES, PHOTO),
    plans=(
        PlanSpec("server-only", 0, (), NAMES, (photo_as("image"),), (SCORES,)),
        PlanSpec("device-only", 1, NAMES, (), (), ()),
        PlanSpec("pixels", 2, (), NAMES, (photo_as("plain+zstd"),), (SCORES,)),
        *(
            PlanSpec(
                how,
                n,
                NAMES[:1],
                NAMES[1:],
                (SentSpec("hidden", "float32", SHAPE, how, 9),),
                (SCORES,),
            )
            for n, how in enumerate(HOW, 3)
        ),
    ),
    default_plan="server-only",
    image_inputs=("photo",),
)
VERSIONS = {plan.name: str(plan.version) for plan in MODEL.plans}
PIXELS = np.random.default_rng(0).integers(0, 256, SHAPE, "uint8")
WEIGHT, BIAS = np.array([0.5], "float32"), np.array([1], "float32")
EXPECTED = PIXELS * WEIGHT + BIAS
STEP = 0.5 * 255 / 255 / 2  # of uint8, the coarsest


def file_of(pixels: Array, form: str = "PNG") -> bytes:
    file = io.BytesIO()
    Image.fromarray(pixels[0]).save(file, form)
    return file.getvalue()


def module() -> tvm.IRModule:
    builder = relax.BlockBuilder()
    photo = relax.Var("photo", relax.TensorType(SHAPE, "uint8"))
    hidden = relax.Var("hidden", relax.TensorType(SHAPE, "float32"))
    weight, bias = (relax.Var(name, relax.TensorType((1,), "float32")) for name in "wb")
    with builder.function("segment_0", [photo, weight]):
        made = builder.emit(relax.op.multiply(relax.op.astype(photo, "float32"), weight))
        builder.emit_func_output(relax.Tuple([made]))
    with builder.function("segment_1", [hidden, bias]):
        builder.emit_func_output(relax.Tuple([builder.emit(relax.op.add(hidden, bias))]))
    return builder.get()


@pytest.fixture(scope="module")
def half(build_half: Callable[..., Any], tmp_path_factory: pytest.TempPathFactory) -> Any:
    params = {"weight": WEIGHT, "bias": BIAS}
    return build_half(tmp_path_factory.mktemp("album"), module(), SEGMENTS, params)


@pytest.fixture(scope="module")
def executor(half: Any) -> Executor:
    return half.executor()


@pytest.fixture(scope="module")
def address(executor: Executor) -> Iterator[str]:
    server = InferenceServer(MODEL, executor, "127.0.0.1", 0).start()
    yield f"127.0.0.1:{server.port}"
    server.stop()


@pytest.fixture(scope="module")
def client(executor: Executor, address: str) -> Iterator[Client]:
    connected = Client(MODEL, executor).connect(address)
    yield connected
    connected.close()


@pytest.fixture
def stranger(address: str) -> Iterator[triton.InferenceServerClient]:
    with triton.InferenceServerClient(address) as stranger:
        yield stranger


def assert_fits(outputs: Mapping[str, Array], pixels: Array = PIXELS) -> None:
    assert np.array_equal(outputs["photo"], pixels)
    expected = pixels * WEIGHT + BIAS
    np.testing.assert_allclose(outputs["scores"], expected, rtol=0, atol=1.01 * STEP)


@pytest.mark.parametrize("plan", list(VERSIONS))
@pytest.mark.parametrize("given", [PIXELS, file_of(PIXELS)], ids=["array", "file"])
def test_every_plan_takes_arrays_and_files(client: Client, plan: str, given: Any) -> None:
    outputs = client.infer({"photo": given}, plan)
    assert_fits(outputs)
    if "uint8" not in plan:  # all others hold these numbers exactly
        assert np.array_equal(outputs["scores"], EXPECTED)


def test_what_is_sent_is_what_the_plan_says(
    client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    sent: dict[str, Array] = {}
    pack = client_module.pack
    monkeypatch.setattr(
        client_module, "pack", lambda specs, arrays: sent.update(arrays) or pack(specs, arrays)
    )
    client.infer({"photo": PIXELS}, "uint8")
    assert {name: (str(part.dtype), part.shape) for name, part in sent.items()} == {
        "hidden": ("uint8", SHAPE),
        "hidden.range": ("float32", (SHAPE[1], 2)),
    }
    photo = file_of(PIXELS, "JPEG")
    client.infer({"photo": photo}, "server-only")
    assert sent["photo"].tobytes() == photo


def test_a_jpeg_is_decoded_the_same_on_both_sides(client: Client) -> None:
    photo = file_of(PIXELS, "JPEG")
    pixels = np.asarray(Image.open(io.BytesIO(photo)))[None]
    for plan in ("server-only", "device-only", "pixels", "plain"):
        assert_fits(client.infer({"photo": photo}, plan), pixels)


def test_an_image_that_nobody_reads_is_not_decoded(
    executor: Executor, monkeypatch: pytest.MonkeyPatch
) -> None:
    decoded: list[str] = []
    decode = ImageFile.decode
    monkeypatch.setattr(ImageFile, "decode", lambda self: decoded.append("photo") or decode(self))
    contents = np.frombuffer(file_of(PIXELS), "uint8")
    request = executor.request({"photo": ImageFile(PHOTO, contents)})
    assert decoded == []
    request.run(NAMES)
    assert np.array_equal(request.array("photo"), PIXELS)
    assert decoded == ["photo"]


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (
            file_of(PIXELS[:, 1:]),
            "input 'photo' is an image of 6x7 pixels, expected 6x8; resize it",
        ),
        (b"GIF89a", "input 'photo' is no JPEG or PNG file"),
        (file_of(PIXELS)[:60], "input 'photo' is no JPEG or PNG file"),
        (PIXELS[0], r"input 'photo' is uint8\[8, 6, 3\], expected uint8\[1, 8, 6, 3\]"),
    ],
)
def test_the_device_refuses_what_does_not_fit(client: Client, given: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        client.infer({"photo": given}, "device-only")


@pytest.mark.parametrize(
    ("given", "kind"),
    [
        ("photo.jpg", "str"),
        (Path("photo.jpg"), "PosixPath"),
        (Image.fromarray(PIXELS[0]), "Image"),
        (None, "NoneType"),
    ],
)
def test_what_is_no_image_file_is_told_how_to_be_one(client: Client, given: Any, kind: str) -> None:
    with pytest.raises(InputError) as caught:
        client.infer({"photo": given}, "device-only")
    assert str(caught.value) == (
        f"input 'photo' is a {kind}, expected the bytes of a JPEG or PNG file, or "
        "uint8[1, 8, 6, 3]; for a path, Path(…).read_bytes()"
    )


def test_a_missing_image_is_missing(client: Client) -> None:
    with pytest.raises(InputError, match="expected tensors 'photo', got none"):
        client.infer({}, "device-only")


def test_what_does_not_fit_is_not_even_sent(executor: Executor) -> None:
    client = Client(replace(MODEL, outputs=(SCORES,)), executor)
    client._server = cast("Any", "never asked")
    with pytest.raises(InputError, match="image of 6x7 pixels, expected 6x8; resize it first"):
        client.infer({"photo": file_of(PIXELS[:, 1:])})


def test_only_what_was_said_to_be_an_image_comes_as_one(executor: Executor) -> None:
    plain = ModelSpec("album", "0", (PHOTO,), (SCORES,), MODEL.plans, "device-only")
    with pytest.raises(InputError, match="input 'photo' is a bytes, no NumPy array"):
        Client(plain, executor).infer({"photo": file_of(PIXELS)})


def test_encoding_counts_as_the_devices_and_decoding_as_the_servers(
    client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(client_module, "encode_all", slow(encodings.encode_all))
    monkeypatch.setattr(server_module, "decode_all", slow(encodings.decode_all))
    client.infer({"photo": PIXELS}, "uint8")
    assert client.last_timing is not None
    assert min(client.last_timing.device_ms, client.last_timing.server_ms) >= 200
    assert client.last_timing.transfer_ms < 200


def slow(function: Callable[..., Any]) -> Callable[..., Any]:
    def slowed(*arguments: Any) -> Any:
        time.sleep(0.2)
        return function(*arguments)

    return slowed


def test_a_stranger_is_told_what_to_send(stranger: triton.InferenceServerClient) -> None:
    found = {
        plan: [
            (each.name, each.datatype, list(each.shape))
            for each in stranger.get_model_metadata("album", VERSIONS[plan]).inputs
        ]
        for plan in ("server-only", "float16", "uint8", "uint8+lz4")
    }
    assert found == {
        "server-only": [("photo", "BYTES", [1])],
        "float16": [("hidden", "FP16", list(SHAPE))],
        "uint8": [("hidden", "UINT8", list(SHAPE)), ("hidden.range", "FP32", [8, 2])],
        "uint8+lz4": [("hidden", "BYTES", [1])],
    }


def text(name: str, contents: bytes) -> triton.InferInput:
    declared = triton.InferInput(name, [1], "BYTES")
    return declared.set_data_from_numpy(np.array([contents], object))


def tensor(name: str, array: Array) -> triton.InferInput:
    declared = triton.InferInput(name, list(array.shape), np_to_triton_dtype(array.dtype))
    return declared.set_data_from_numpy(array)


def test_a_stranger_can_send_a_file(stranger: triton.InferenceServerClient) -> None:
    result = stranger.infer("album", [text("photo", file_of(PIXELS))])
    assert np.array_equal(result.as_numpy("scores"), EXPECTED)


@pytest.mark.parametrize("how", HOW)
def test_a_stranger_can_send_what_is_encoded(
    stranger: triton.InferenceServerClient, how: str
) -> None:
    hidden = PIXELS * WEIGHT
    parts = encode(how, hidden)
    if "+" in how:
        inputs = [text("hidden", parts[0].tobytes())]
    else:
        inputs = [
            tensor(name, part)
            for name, part in zip(("hidden", "hidden.range"), parts, strict=False)
        ]
    result = stranger.infer("album", inputs, VERSIONS[how])
    np.testing.assert_allclose(result.as_numpy("scores"), EXPECTED, rtol=0, atol=1.01 * STEP)


def test_a_stranger_can_follow_the_documentation(stranger: triton.InferenceServerClient) -> None:
    """Every step of docs/encodings.md, On the wire, with nothing of partc's."""
    hidden = PIXELS * WEIGHT
    low, high = hidden.min((0, 2, 3)), hidden.max((0, 2, 3))
    ranges = np.stack([low, (high - low) / 255], 1).astype("<f4")
    steps = np.rint((hidden - low[:, None, None]) / ranges[:, 1, None, None]).astype("uint8")
    frame = zstandard.ZstdCompressor().compress(steps.tobytes() + ranges.tobytes())
    result = stranger.infer("album", [text("hidden", frame)], VERSIONS["uint8+zstd"])
    np.testing.assert_allclose(result.as_numpy("scores"), EXPECTED, rtol=0, atol=1.01 * STEP)
    block = lz4.block.compress(hidden.astype("<f2").tobytes(), store_size=False)
    result = stranger.infer("album", [text("hidden", block)], VERSIONS["float16+lz4"])
    assert np.array_equal(result.as_numpy("scores"), EXPECTED)


@pytest.mark.parametrize(
    ("plan", "given", "message"),
    [
        ("server-only", text("photo", b"GIF89a"), "input 'photo' is no JPEG or PNG file"),
        ("server-only", text("photo", file_of(PIXELS[:, :, 2:])), "is an image of 4x8 pixels, exp"),
        ("server-only", tensor("photo", PIXELS), "'photo' is UINT8[1, 8, 6, 3], expected BYTES[1]"),
        (
            "uint8+lz4",
            text("hidden", bytes(9)),
            "tensor 'hidden' is compressed with LZ4: expected one block, not a frame, of 208 bytes "
            "(144 uint8 elements, then 16 float32 of ranges)",
        ),
        (
            "plain+zstd",
            text("hidden", b""),
            "Zstandard: expected one frame whose header declares 576 bytes (144 float32 elements)",
        ),
        ("uint8", tensor("hidden", PIXELS), "expected tensors 'hidden', 'hidden.range', got"),
    ],
)
def test_the_server_refuses_what_does_not_fit(
    stranger: triton.InferenceServerClient, plan: str, given: triton.InferInput, message: str
) -> None:
    with pytest.raises(InferenceServerException) as caught:
        stranger.infer("album", [given], VERSIONS[plan])
    assert caught.value.status() == "StatusCode.INVALID_ARGUMENT"
    assert message in caught.value.message()


@pytest.mark.parametrize("name", ["photo.jpg", "photo.npy", "photo=1.png"])
def test_main_reads_files_and_arrays(
    half: Any, tmp_path: Path, name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    if name.endswith("npy"):
        np.save(tmp_path / name, PIXELS)
    else:
        (tmp_path / name).write_bytes(file_of(PIXELS))
    arguments = ["--input", f"photo={tmp_path / name}", "--plan", "device-only"]
    arguments += ["--output", str(tmp_path)]
    assert client_module.main(MODEL, half.artifact, half.directory, arguments) == 0
    assert np.array_equal(np.load(tmp_path / "scores.npy"), EXPECTED)


@pytest.mark.parametrize("plan", ["device-only", "server-only"])
@pytest.mark.parametrize(
    ("contents", "message"),
    [
        (b"import torch", "is no JPEG or PNG file, or is cut off"),
        (file_of(PIXELS)[:60], "is no JPEG or PNG file, or is cut off"),
        (b"", "is no JPEG or PNG file, or is cut off"),
        (file_of(PIXELS[:, 1:]), "is an image of 6x7 pixels, expected 6x8; resize it first"),
    ],
)
def test_main_says_which_file_is_no_such_image(
    half: Any,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    plan: str,
    contents: bytes,
    message: str,
) -> None:
    (tmp_path / "classifier.py").write_bytes(contents)
    arguments = ["--input", f"photo={tmp_path}/classifier.py", "--plan", plan]
    assert client_module.main(MODEL, half.artifact, half.directory, arguments) == 2
    found = capsys.readouterr().err
    assert found == f"error: input 'photo': {tmp_path}/classifier.py {message}\n"


def test_main_says_that_files_will_do(half: Any, capsys: pytest.CaptureFixture[str]) -> None:
    assert client_module.main(MODEL, half.artifact, half.directory, []) == 2
    message = "error: give every input once, for example --input photo=photo.jpg, not none"
    assert capsys.readouterr().err.startswith(message)
    with pytest.raises(SystemExit):
        client_module.main(MODEL, half.artifact, half.directory, ["-h"])
    found = " ".join(capsys.readouterr().out.split())
    assert "a .npy file for each of photo; a JPEG or PNG file will do for photo" in found
