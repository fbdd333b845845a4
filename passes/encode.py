"""Write onto every tensor how it may be sent, and what that takes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from partc.errors import PartcError
from partc.graph import (
    IMAGE,
    ITEM_NBYTES,
    PLAIN,
    Encoding,
    Layer,
    LayerGraph,
    Tensor,
    TensorType,
)
from partc.quantities import format_nbytes
from partc.targets.encodings import decode_ms, encode_ms
from partc.targets.target import Target

_LARGEST_HEADER = 1000  # bytes, of a file of hardly any pixels


@dataclass(frozen=True)
class Measured:
    """What came of sending a tensor in an encoding.

    Args:
        encoding: Its name.
        nbytes: What is sent, on average.
        deviation: By how much the model's outputs differed at most, relative to the largest value
            of each; infinite if it changed something that must not change.
    """

    encoding: str
    nbytes: int
    deviation: float = 0.0


def take_images(
    graph: LayerGraph, files: Mapping[str, int], device: Target, server: Target
) -> LayerGraph:
    """Let inputs come as image files, which whoever computes on them decodes.

    Args:
        graph: An annotated graph.
        files: The size of the file, by input.
        device: Decodes what its layers read.
        server: Decodes what it is sent.

    Raises:
        PartcError: There is no such input, it is no image, no file of one is that large, or it is
            not one layer alone that reads it.
    """
    for name, nbytes in files.items():
        tensor = _image_input(graph, name)
        _check_size(tensor, nbytes)
        on_device_ms, on_server_ms = (
            decode_ms(IMAGE, tensor.nbytes, nbytes, machine) for machine in (device, server)
        )
        coming = Encoding(IMAGE, nbytes, decode_ms=on_server_ms)
        reader = _only_reader(graph, tensor)
        graph = replace(
            graph,
            layers=tuple(
                _slower(layer, on_device_ms, device.busy_watts) if layer is reader else layer
                for layer in graph.layers
            ),
            encodings={**graph.encodings, name: (coming,)},
        )
    return graph


def _only_reader(graph: LayerGraph, tensor: Tensor) -> Layer:
    """The layer that pays on the device for decoding; several could not share that."""
    readers = graph.consumers[tensor.name]
    if len(readers) != 1 or tensor in graph.outputs:
        names = [repr(layer.name) for layer in readers]
        names += ["the model's caller"] * (tensor in graph.outputs)
        raise PartcError(
            f"--input-nbytes is for inputs that go to a single layer, but {tensor.name!r} goes to "
            f"{' and '.join(names) or 'none'}; leave it out for this input"
        )
    return readers[0]


def _check_size(tensor: Tensor, nbytes: int) -> None:
    # No JPEG or PNG file is much larger than the pixels that it holds.
    if nbytes > 2 * tensor.nbytes + _LARGEST_HEADER:
        raise PartcError(
            f"--input-nbytes {tensor.name}={format_nbytes(nbytes)} is "
            f"{nbytes / tensor.nbytes:.0f} times the {format_nbytes(tensor.nbytes)} of its pixels; "
            "is the unit right?"
        )


def _image_input(graph: LayerGraph, name: str) -> Tensor:
    known = {tensor.name: tensor for tensor in graph.inputs}
    if name not in known:
        raise PartcError(
            f"--input-nbytes is about {name!r}, which is no input; the inputs are "
            f"{', '.join(known)}"
        )
    if not is_image(known[name].type):
        raise PartcError(
            f"an image file is decoded to uint8[1, H, W, 3] or [1, H, W, 1], but {name!r} is "
            f"{known[name].type}; let it take images with --preprocess {name}=imagenet or another "
            "normalisation"
        )
    return known[name]


def is_image(tensor: TensorType) -> bool:
    """Whether a tensor is what a decoder makes of one image file."""
    shape = (
        tensor.shape[1:] if tensor.shape[:1] == (1,) and len(tensor.shape) == 4 else tensor.shape
    )
    return tensor.dtype == "uint8" and len(shape) == 3 and shape[-1] in (1, 3)


def _slower(layer: Layer, more_ms: float, busy_watts: float) -> Layer:
    cost = layer.annotated_cost
    more_mj = more_ms * busy_watts
    slower = replace(cost, device_ms=cost.device_ms + more_ms, device_mj=cost.device_mj + more_mj)
    return replace(layer, cost=slower)


def offer_encodings(
    graph: LayerGraph,
    measured: Mapping[str, Sequence[Measured]],
    device: Target,
    server: Target,
    max_deviation: float,
) -> LayerGraph:
    """Let tensors be sent in those encodings that are better than others at something.

    Args:
        graph: Its inputs that come as image files stay so.
        measured: What came of each encoding, by tensor.
        device: Encodes.
        server: Decodes.
        max_deviation: Encodings that let outputs deviate by more are left out.
    """

    def cost(tensor: Tensor, each: Measured) -> Encoding:
        sizes = (each.encoding, tensor.nbytes, each.nbytes)
        item_nbytes = ITEM_NBYTES[tensor.type.dtype]
        took_ms = encode_ms(*sizes, device, item_nbytes)
        return Encoding(
            name=each.encoding,
            nbytes=each.nbytes,
            encode_ms=took_ms,
            decode_ms=decode_ms(*sizes, server, item_nbytes),
            encode_mj=took_ms * device.busy_watts,
            deviation=each.deviation,
        )

    offered = {
        tensor.name: _worthwhile(
            [
                Encoding(PLAIN, tensor.nbytes),
                *(
                    cost(tensor, each)
                    for each in measured.get(tensor.name, ())
                    if each.encoding != PLAIN and each.deviation <= max_deviation
                ),
            ]
        )
        for tensor in graph.tensors
    }
    choices = {name: each for name, each in offered.items() if len(each) > 1}
    return replace(graph, encodings={**choices, **graph.encodings})


def _worthwhile(encodings: Sequence[Encoding]) -> tuple[Encoding, ...]:
    """The first, and those than which none is as good in every respect."""
    first, *others = encodings
    kept = [first]
    for each in sorted(others, key=_terms):
        if not any(_is_as_good(other, each) for other in kept):
            kept.append(each)
    return tuple(each for each in encodings if each in kept)


def _terms(encoding: Encoding) -> tuple[float, ...]:
    return encoding.nbytes, encoding.encode_ms, encoding.decode_ms, encoding.deviation


def _is_as_good(one: Encoding, other: Encoding) -> bool:
    return all(a <= b for a, b in zip(_terms(one), _terms(other), strict=True))
