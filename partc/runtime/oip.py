"""The messages of the Open Inference Protocol, version 2, over gRPC.

Field numbers are those of
https://github.com/kserve/open-inference-protocol/blob/main/specification/protocol/open_inference_grpc.proto
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated

from .protobuf import (
    BOOL,
    BYTES,
    DOUBLE,
    FLOAT,
    INT32,
    INT64,
    STRING,
    UINT32,
    UINT64,
    Buffer,
    Field,
    Label,
    message_kind,
)

SERVICE = "inference.GRPCInferenceService"

SERVER_MS = "server_ms"
"""Our response parameter: the time from a request's decoding to its answer's encoding."""

DATATYPES: Mapping[str, str] = {
    "bool": "BOOL",
    "int8": "INT8",
    "uint8": "UINT8",
    "int16": "INT16",
    "uint16": "UINT16",
    "float16": "FP16",
    "int32": "INT32",
    "uint32": "UINT32",
    "float32": "FP32",
    "int64": "INT64",
    "uint64": "UINT64",
    "float64": "FP64",
}
"""The protocol's name of each NumPy dtype."""


@dataclass(frozen=True)
class ServerLiveRequest:
    """Is the server's process up?"""


@dataclass(frozen=True)
class ServerLiveResponse:
    """Whether the server's process is up."""

    live: Annotated[bool, Field(1, BOOL)] = False


@dataclass(frozen=True)
class ServerReadyRequest:
    """Can the server take requests?"""


@dataclass(frozen=True)
class ServerReadyResponse:
    """Whether the server can take requests."""

    ready: Annotated[bool, Field(1, BOOL)] = False


@dataclass(frozen=True)
class ModelReadyRequest:
    """Can a model take requests?"""

    name: Annotated[str, Field(1, STRING)] = ""
    version: Annotated[str, Field(2, STRING)] = ""


@dataclass(frozen=True)
class ModelReadyResponse:
    """Whether a model can take requests."""

    ready: Annotated[bool, Field(1, BOOL)] = False


@dataclass(frozen=True)
class ServerMetadataRequest:
    """What is this server?"""


@dataclass(frozen=True)
class ServerMetadataResponse:
    """What a server is."""

    name: Annotated[str, Field(1, STRING)] = ""
    version: Annotated[str, Field(2, STRING)] = ""
    extensions: Annotated[tuple[str, ...], Field(3, STRING, Label.REPEATED)] = ()


@dataclass(frozen=True)
class ModelMetadataRequest:
    """What does a model take and return?"""

    name: Annotated[str, Field(1, STRING)] = ""
    version: Annotated[str, Field(2, STRING)] = ""


@dataclass(frozen=True)
class TensorMetadata:
    """A tensor that a model takes or returns."""

    name: Annotated[str, Field(1, STRING)] = ""
    datatype: Annotated[str, Field(2, STRING)] = ""
    shape: Annotated[tuple[int, ...], Field(3, INT64, Label.REPEATED)] = ()


_TENSOR_METADATA = message_kind(TensorMetadata)


@dataclass(frozen=True)
class ModelMetadataResponse:
    """What a model takes and returns, and which versions of it there are."""

    name: Annotated[str, Field(1, STRING)] = ""
    versions: Annotated[tuple[str, ...], Field(2, STRING, Label.REPEATED)] = ()
    platform: Annotated[str, Field(3, STRING)] = ""
    inputs: Annotated[tuple[TensorMetadata, ...], Field(4, _TENSOR_METADATA, Label.REPEATED)] = ()
    outputs: Annotated[tuple[TensorMetadata, ...], Field(5, _TENSOR_METADATA, Label.REPEATED)] = ()


@dataclass(frozen=True)
class InferParameter:
    """A value of which one field is set."""

    bool_param: Annotated[bool | None, Field(1, BOOL, Label.OPTIONAL)] = None
    int64_param: Annotated[int | None, Field(2, INT64, Label.OPTIONAL)] = None
    string_param: Annotated[str | None, Field(3, STRING, Label.OPTIONAL)] = None
    double_param: Annotated[float | None, Field(4, DOUBLE, Label.OPTIONAL)] = None
    uint64_param: Annotated[int | None, Field(5, UINT64, Label.OPTIONAL)] = None


@dataclass(frozen=True)
class NamedParameter:
    """An entry of a map of parameters."""

    key: Annotated[str | None, Field(1, STRING, Label.OPTIONAL)] = None
    value: Annotated[
        InferParameter | None, Field(2, message_kind(InferParameter), Label.OPTIONAL)
    ] = None


_NAMED_PARAMETER = message_kind(NamedParameter)


@dataclass(frozen=True)
class InferTensorContents:
    """A tensor's elements in row-major order, in the one field for its type."""

    bool_contents: Annotated[tuple[bool, ...], Field(1, BOOL, Label.REPEATED)] = ()
    int_contents: Annotated[tuple[int, ...], Field(2, INT32, Label.REPEATED)] = ()
    int64_contents: Annotated[tuple[int, ...], Field(3, INT64, Label.REPEATED)] = ()
    uint_contents: Annotated[tuple[int, ...], Field(4, UINT32, Label.REPEATED)] = ()
    uint64_contents: Annotated[tuple[int, ...], Field(5, UINT64, Label.REPEATED)] = ()
    fp32_contents: Annotated[tuple[float, ...], Field(6, FLOAT, Label.REPEATED)] = ()
    fp64_contents: Annotated[tuple[float, ...], Field(7, DOUBLE, Label.REPEATED)] = ()
    bytes_contents: Annotated[tuple[Buffer, ...], Field(8, BYTES, Label.REPEATED)] = ()


@dataclass(frozen=True)
class InferTensor:
    """A tensor on its way; its elements are in ``contents`` or in the message's raw contents.

    The protocol calls it InferInputTensor in a request and InferOutputTensor in a response.
    """

    name: Annotated[str, Field(1, STRING)] = ""
    datatype: Annotated[str, Field(2, STRING)] = ""
    shape: Annotated[tuple[int, ...], Field(3, INT64, Label.REPEATED)] = ()
    parameters: Annotated[
        tuple[NamedParameter, ...], Field(4, _NAMED_PARAMETER, Label.REPEATED)
    ] = ()
    contents: Annotated[
        InferTensorContents | None,
        Field(5, message_kind(InferTensorContents), Label.OPTIONAL),
    ] = None


@dataclass(frozen=True)
class InferRequestedOutputTensor:
    """An output that the caller wants."""

    name: Annotated[str, Field(1, STRING)] = ""
    parameters: Annotated[
        tuple[NamedParameter, ...], Field(2, _NAMED_PARAMETER, Label.REPEATED)
    ] = ()


_INFER_TENSOR = message_kind(InferTensor)
_REQUESTED_OUTPUT = message_kind(InferRequestedOutputTensor)


@dataclass(frozen=True)
class ModelInferRequest:
    """Run a model. No requested output means all of them."""

    model_name: Annotated[str, Field(1, STRING)] = ""
    model_version: Annotated[str, Field(2, STRING)] = ""
    id: Annotated[str, Field(3, STRING)] = ""
    parameters: Annotated[
        tuple[NamedParameter, ...], Field(4, _NAMED_PARAMETER, Label.REPEATED)
    ] = ()
    inputs: Annotated[tuple[InferTensor, ...], Field(5, _INFER_TENSOR, Label.REPEATED)] = ()
    outputs: Annotated[
        tuple[InferRequestedOutputTensor, ...], Field(6, _REQUESTED_OUTPUT, Label.REPEATED)
    ] = ()
    raw_input_contents: Annotated[tuple[Buffer, ...], Field(7, BYTES, Label.REPEATED)] = ()


@dataclass(frozen=True)
class ModelInferResponse:
    """What a model returned."""

    model_name: Annotated[str, Field(1, STRING)] = ""
    model_version: Annotated[str, Field(2, STRING)] = ""
    id: Annotated[str, Field(3, STRING)] = ""
    parameters: Annotated[
        tuple[NamedParameter, ...], Field(4, _NAMED_PARAMETER, Label.REPEATED)
    ] = ()
    outputs: Annotated[tuple[InferTensor, ...], Field(5, _INFER_TENSOR, Label.REPEATED)] = ()
    raw_output_contents: Annotated[tuple[Buffer, ...], Field(6, BYTES, Label.REPEATED)] = ()
