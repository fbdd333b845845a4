"""The messages against tritonclient's, which protoc made from the protocol's definition."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
from google.protobuf.message import DecodeError, Message
from hypothesis import given
from hypothesis import strategies as st
from tritonclient.grpc import service_pb2

from partc.runtime import oip
from partc.runtime.errors import ProtocolError
from partc.runtime.protobuf import decode, encode

text = st.text(max_size=5)
int64s = st.integers(-(2**63), 2**63 - 1)
uint64s = st.integers(0, 2**64 - 1)
shapes = st.lists(int64s, max_size=3).map(tuple)


def tuples(elements: st.SearchStrategy[Any]) -> st.SearchStrategy[tuple[Any, ...]]:
    return st.lists(elements, max_size=3).map(tuple)


parameters = st.one_of(
    st.builds(oip.InferParameter),
    st.builds(oip.InferParameter, bool_param=st.booleans()),
    st.builds(oip.InferParameter, int64_param=int64s),
    st.builds(oip.InferParameter, string_param=text),
    st.builds(oip.InferParameter, double_param=st.floats(allow_nan=False)),
    st.builds(oip.InferParameter, uint64_param=uint64s),
)
# Protobuf keeps no order among a map's entries, so at most one can be compared as bytes.
named_parameters = st.lists(
    st.builds(oip.NamedParameter, key=text, value=parameters), max_size=1
).map(tuple)
contents = st.builds(
    oip.InferTensorContents,
    bool_contents=tuples(st.booleans()),
    int_contents=tuples(st.integers(-(2**31), 2**31 - 1)),
    int64_contents=shapes,
    uint_contents=tuples(st.integers(0, 2**32 - 1)),
    uint64_contents=tuples(uint64s),
    fp32_contents=tuples(st.floats(width=32, allow_nan=False)),
    fp64_contents=tuples(st.floats(allow_nan=False)),
    bytes_contents=tuples(st.binary(max_size=4)),
)
tensors = st.builds(
    oip.InferTensor,
    name=text,
    datatype=text,
    shape=shapes,
    parameters=named_parameters,
    contents=st.none() | contents,
)
tensor_metadata = st.builds(oip.TensorMetadata, name=text, datatype=text, shape=shapes)
requested = st.builds(oip.InferRequestedOutputTensor, name=text, parameters=named_parameters)
messages = st.one_of(
    st.builds(oip.ServerLiveRequest),
    st.builds(oip.ServerLiveResponse, live=st.booleans()),
    st.builds(oip.ServerReadyRequest),
    st.builds(oip.ServerReadyResponse, ready=st.booleans()),
    st.builds(oip.ModelReadyRequest, name=text, version=text),
    st.builds(oip.ModelReadyResponse, ready=st.booleans()),
    st.builds(oip.ServerMetadataRequest),
    st.builds(oip.ServerMetadataResponse, name=text, version=text, extensions=tuples(text)),
    st.builds(oip.ModelMetadataRequest, name=text, version=text),
    st.builds(
        oip.ModelMetadataResponse,
        name=text,
        versions=tuples(text),
        platform=text,
        inputs=tuples(tensor_metadata),
        outputs=tuples(tensor_metadata),
    ),
    st.builds(
        oip.ModelInferRequest,
        model_name=text,
        model_version=text,
        id=text,
        parameters=named_parameters,
        inputs=tuples(tensors),
        outputs=tuples(requested),
        raw_input_contents=tuples(st.binary(max_size=9)),
    ),
    st.builds(
        oip.ModelInferResponse,
        model_name=text,
        model_version=text,
        id=text,
        parameters=named_parameters,
        outputs=tuples(tensors),
        raw_output_contents=tuples(st.binary(max_size=9)),
    ),
)


def as_oracle(message: Any) -> Message:
    """The same message, built field by field through protobuf's own classes."""
    oracle = getattr(service_pb2, type(message).__name__)()
    fill(oracle, message)
    return oracle


def fill(oracle: Any, message: Any) -> None:
    for field in dataclasses.fields(message):
        value = getattr(message, field.name)
        if field.name == "parameters":
            for parameter in value:
                fill(getattr(oracle, field.name)[parameter.key], parameter.value)
        elif isinstance(value, tuple):
            fill_repeated(getattr(oracle, field.name), value)
        elif dataclasses.is_dataclass(value):
            getattr(oracle, field.name).SetInParent()
            fill(getattr(oracle, field.name), value)
        elif value is not None:
            setattr(oracle, field.name, value)
    oracle.SetInParent()


def fill_repeated(oracle: Any, values: tuple[Any, ...]) -> None:
    for value in values:
        if dataclasses.is_dataclass(value):
            fill(oracle.add(), value)
        else:
            oracle.append(value)


@given(messages)
def test_bytes_are_those_of_protobuf(message: Any) -> None:
    data = as_oracle(message).SerializeToString(deterministic=True)
    assert encode(message) == data
    assert decode(type(message), data) == message


@given(st.lists(st.builds(oip.NamedParameter, key=text, value=parameters), max_size=4))
def test_several_parameters_are_protobuf_s_map(entries: list[oip.NamedParameter]) -> None:
    message = oip.ModelInferRequest(parameters=tuple({e.key: e for e in entries}.values()))
    data = as_oracle(message).SerializeToString()
    assert set(decode(oip.ModelInferRequest, data).parameters) == set(message.parameters)
    assert service_pb2.ModelInferRequest.FromString(encode(message)) == as_oracle(message)


@given(messages, st.data())
def test_damaged_messages_are_refused_or_read_as_protobuf_reads_them(
    message: Any, data: st.DataObject
) -> None:
    damaged = bytearray(encode(message))
    for _ in range(data.draw(st.integers(1, 3)) if damaged else 0):
        position = data.draw(st.integers(0, len(damaged) - 1))
        damaged[position] = data.draw(st.integers(0, 255))
    try:
        read = decode(type(message), damaged)
    except ProtocolError:
        return
    try:
        oracle = getattr(service_pb2, type(message).__name__).FromString(bytes(damaged))
    except DecodeError:
        pytest.fail(f"protobuf refuses {damaged.hex()}")
    for name in ("name", "version", "model_name", "model_version", "id", "live", "ready"):
        assert getattr(read, name, None) == getattr(oracle, name, None)


def test_every_field_of_the_protocol_is_declared_as_protobuf_has_it() -> None:
    declarations = [value for value in vars(oip).values() if isinstance(value, type)]
    for declared in (value for value in declarations if value.__module__ == oip.__name__):
        for oracle in oracles(declared.__name__):
            assert {field.name for field in dataclasses.fields(declared)} == {
                field.name for field in oracle.DESCRIPTOR.fields
            }


def oracles(name: str) -> list[Any]:
    request, response = service_pb2.ModelInferRequest, service_pb2.ModelInferResponse
    nested = {
        "InferTensor": [request.InferInputTensor, response.InferOutputTensor],
        "InferRequestedOutputTensor": [request.InferRequestedOutputTensor],
        "NamedParameter": [request.ParametersEntry],
        "TensorMetadata": [service_pb2.ModelMetadataResponse.TensorMetadata],
    }
    return nested[name] if name in nested else [getattr(service_pb2, name)]
