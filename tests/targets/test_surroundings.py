from __future__ import annotations

import itertools
import math
from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from partc.graph import Layer, Tensor, TensorType
from partc.targets.features import Workload, describe
from partc.targets.surroundings import AGES

KB = 1 << 10
MB = 1 << 20
_CALL = 1 << 10


def tensor(name: str, nbytes: int) -> Tensor:
    return Tensor(name, TensorType("float32", (1, nbytes // 4)))


def layer(sources: Sequence[Tensor], made: Tensor, weight_nbytes: int = 0) -> Layer:
    return Layer(
        f"to {made.name}", "relu", tuple(sources), (made,), ("relu",), weight_nbytes=weight_nbytes
    )


def chain(*sizes: int) -> list[Layer]:
    """Layers one after the other, on tensors of so many bytes."""
    tensors = [tensor(f"t{n}", nbytes) for n, nbytes in enumerate(sizes)]
    return [layer([one], other) for one, other in itertools.pairwise(tensors)]


def counts(workload: Workload, what: str) -> dict[str, float]:
    """How much of something is how old."""
    prefix = f"{what}, "
    return {
        name.removeprefix(prefix): round(math.exp(number))
        for name, number in workload.features.items()
        if name.startswith(prefix) and number > 0
    }


def test_what_was_just_made_is_near() -> None:
    *_, last = describe(chain(KB, KB, KB))
    assert counts(last, "read") == {"256 kB": KB}


def test_what_is_read_is_the_farther_the_more_was_touched_since() -> None:
    """It is as old as itself and all that was touched since it was made."""
    first, kept = tensor("first", 1 * MB), tensor("kept", MB)
    for between, name in ((3 * MB // 2, "4 MB"), (15 * MB // 2, "16 MB"), (63 * MB // 2, "64 MB")):
        other, last = tensor("other", between), tensor("last", MB)
        layers = [layer([first], kept), layer([tensor("x", between)], other)]
        *_, workload = describe([*layers, layer([other, kept], last)])
        assert counts(workload, "read")[name] >= MB


def test_an_age_between_two_counts_for_both() -> None:
    size = round(math.sqrt(MB * 4 * MB)) // 4 * 4
    (workload,) = describe(chain(size, 4))
    assert counts(workload, "read") == {"1 MB": size // 2, "4 MB": size // 2}


@given(st.lists(st.integers(1, 1 << 24), min_size=2, max_size=8))
def test_all_that_is_read_and_written_is_counted(sizes: list[int]) -> None:
    layers = chain(*(4 * size for size in sizes))
    for each, workload in zip(layers, describe(layers), strict=True):
        assert sum(counts(workload, "read").values()) == pytest.approx(each.input_nbytes, abs=5)
        returned = round(math.exp(workload.features.get("returned", 0.0)))
        written = sum(counts(workload, "written").values()) or returned
        assert written == pytest.approx(each.output_nbytes, abs=5)
        assert ("returned" in workload.features) == (each is layers[-1])


def test_two_blocks_of_memory_are_enough_for_a_chain() -> None:
    """The first use of each comes after a whole run; the next ones come at once."""
    sizes = [64 * KB] * 6
    big = layer([tensor("t5", 64 * KB)], tensor("end", 256 * MB))
    written = [counts(each, "written") for each in describe([*chain(*sizes), big])]
    assert written[:2] == [{"64 MB": 64 * KB}] * 2
    assert written[2:5] == [{"256 kB": 64 * KB}] * 3


def test_memory_of_much_larger_tensors_is_not_taken() -> None:
    def last_written(small: int) -> dict[str, float]:
        sizes = [MB, MB, small, small, small, 256 * MB]
        return counts(describe(chain(*sizes))[2], "written")

    assert last_written(MB // 17) == {"64 MB": MB // 17 // 4 * 4}
    assert "64 MB" not in last_written(MB // 15)


def test_a_tensor_that_is_read_later_keeps_its_memory() -> None:
    kept, *others = (tensor(name, 64 * KB) for name in "abcde")
    layers = [layer([tensor("x", 64 * KB)], kept)]
    layers += [layer([one], other) for one, other in zip([kept, *others], others, strict=False)]
    layers += [layer([kept, others[-1]], tensor("end", 256 * MB))]
    written = [counts(each, "written") for each in describe(layers)]
    assert [set(each) for each in written[:5]] == [*[{"64 MB"}] * 3, *[{"256 kB"}] * 2]


def test_code_that_has_just_run_is_near() -> None:
    """A kernel that an equal layer has run is in the caches; of others the code is not."""
    of_type = TensorType("float32", (1, 1000))
    tensors = [Tensor(f"t{n}", of_type) for n in range(4)]
    layers = [layer([one], other) for one, other in itertools.pairwise(tensors)]
    layers.append(layer([tensors[-1]], tensor("end", 256 * MB)))
    calls = [counts(each, "call") for each in describe(layers)]
    assert calls == [{"64 MB": _CALL}, {"256 kB": _CALL}, {"256 kB": _CALL}, {"64 MB": _CALL}]


def test_of_a_table_only_what_is_taken_counts() -> None:
    of_rows = TensorType("float32", (1, 100))
    taken = Layer(
        "take",
        "take",
        (Tensor("rows", TensorType("int64", (1,))),),
        (Tensor("made", of_rows),),
        ("take",),
        weight_nbytes=100 * MB,
    )
    (workload,) = describe([taken])
    assert sum(counts(workload, "weights").values()) == of_rows.nbytes


def test_ages_are_in_order() -> None:
    assert list(AGES.values()) == sorted(AGES.values())


def test_what_convolutions_make_is_in_blocks_until_something_orders_it():
    def layer(kind: str, source: str, made: str) -> Layer:
        of_type = TensorType("float32", (1, 8, 9, 9))
        return Layer(made, kind, (Tensor(source, of_type),), (Tensor(made, of_type),), (kind,))

    chain = [("relu", "x", "a"), ("conv2d", "a", "b"), ("max_pool2d", "b", "c")]
    chain += [("softmax", "c", "d"), ("relu", "d", "e")]
    layers = [layer(*each) for each in chain]
    blocked = [workload.features["reads blocks"] > 0 for workload in describe(layers)]
    assert blocked == [False, False, True, True, False]


@pytest.mark.parametrize(
    ("kinds", "expected"),
    [
        (("relu", "relu"), {}),
        (("relu", "conv2d"), {"makes blocks": 2, "blocks": _CALL, "blocked": 96}),
        (("conv2d", "conv2d"), {"reads blocks": 2, "makes blocks": 2}),
        (("conv2d", "max_pool2d"), {"reads blocks": 2, "makes blocks": 2}),
        (("conv2d", "softmax"), {"reads blocks": 2, "orders": _CALL, "ordered": 160}),
    ],
)
def test_what_has_to_be_put_into_blocks_or_back_in_order(
    kinds: tuple[str, str], expected: dict[str, int]
) -> None:
    """Bytes of what is read go into blocks; bytes of what is made come out of them."""
    shapes = ((1, 2, 3, 3), (1, 2, 3, 4), (1, 2, 4, 5))
    tensors = [Tensor(f"t{n}", TensorType("float32", shape)) for n, shape in enumerate(shapes)]
    layers = [
        Layer(kind, kind, (one,), (other,), (kind,))
        for kind, one, other in zip(kinds, tensors, tensors[1:], strict=False)
    ]
    *_, workload = describe(layers)
    names = ("reads blocks", "makes blocks", "orders", "ordered", "blocks", "blocked")
    found = {name: round(math.exp(workload.features[name])) for name in names}
    assert found == dict.fromkeys(names, 1) | expected


def test_a_layer_of_a_larger_model_has_a_larger_footprint() -> None:
    layers = chain(KB, KB, MB)
    alone, among_others = describe(layers[:1])[0], describe(layers)[0]
    assert alone.features["footprint"] < among_others.features["footprint"]
