from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from relax_models import Array

from partc.codegen.layout import Layout, Runs

LANES = st.sampled_from([4, 8, 16])


@st.composite
def ordered(draw: st.DrawFn, lanes: int) -> Layout:
    """What kernels make: groups of channels, each from the beginning of a block on."""
    groups = draw(st.integers(1, 4))
    return Layout.of(groups * draw(st.integers(1, 20)), lanes, groups)


@st.composite
def layouts(draw: st.DrawFn) -> Layout:
    """What is left of tensors that are joined, and of which some channels are taken."""
    lanes = draw(LANES)
    layout = Layout.concatenate(draw(st.lists(ordered(lanes), min_size=1, max_size=3)))
    if draw(st.booleans()):
        return layout
    channels = draw(st.permutations(range(layout.channels)))
    return layout.take(channels[: draw(st.integers(1, layout.channels))])


def channels_of(layout: Layout, *shape: int) -> Array:
    """Channel c filled with c + 1, so that no channel passes for an empty lane."""
    numbers = np.arange(1, layout.channels + 1, dtype=np.float32).reshape(1, -1, 1, 1)
    return np.broadcast_to(numbers, (shape[0], layout.channels, *shape[1:])).copy()


def lanes_of(layout: Layout, packed: Array) -> Array:
    """(N, blocks, H, W, lanes) with the slots side by side: (N, H, W, slots)."""
    batch, _, height, width, _ = packed.shape
    return packed.transpose(0, 2, 3, 1, 4).reshape(batch, height, width, -1)


@given(layouts())
def test_each_channel_has_a_slot_of_its_own(layout: Layout) -> None:
    assert len(set(layout.slots)) == layout.channels
    assert set(layout.slots) <= set(range(layout.blocks * layout.lanes))


@given(layouts())
def test_packed_data_hold_each_channel_in_its_slot_and_zeros_elsewhere(layout: Layout) -> None:
    plain = channels_of(layout, 2, 3, 5)
    packed = layout.pack(plain)
    assert packed.shape == layout.shape(plain.shape)
    assert packed.flags.c_contiguous
    side_by_side = lanes_of(layout, packed)
    for channel, slot in enumerate(layout.slots):
        np.testing.assert_array_equal(side_by_side[..., slot], plain[:, channel])
    empty = sorted(set(range(layout.blocks * layout.lanes)) - set(layout.slots))
    np.testing.assert_array_equal(side_by_side[..., empty], 0)


@given(layouts())
def test_rows_lie_like_planes_that_are_one_pixel_high(layout: Layout) -> None:
    planes = channels_of(layout, 2, 1, 5).astype(np.int64)
    rows = planes[:, :, 0]
    assert layout.shape(rows.shape) == layout.shape(planes.shape)
    packed = layout.pack(rows)
    assert packed.dtype == np.int64
    np.testing.assert_array_equal(packed, layout.pack(planes))


@given(layouts())
def test_the_inverse_finds_the_channel_of_each_slot(layout: Layout) -> None:
    inverse = layout.inverse()
    assert (inverse.dtype, inverse.shape) == (np.int32, (layout.blocks * layout.lanes,))
    np.testing.assert_array_equal(inverse[list(layout.slots)], range(layout.channels))
    empty = sorted(set(range(len(inverse))) - set(layout.slots))
    np.testing.assert_array_equal(inverse[empty], 0)


@given(layouts())
def test_the_order_is_that_of_the_slots(layout: Layout) -> None:
    assert sorted(layout.order) == list(range(layout.channels))
    assert [layout.slots[channel] for channel in layout.order] == sorted(layout.slots)


@given(layouts())
def test_in_order_means_that_slots_count_channels(layout: Layout) -> None:
    side_by_side = lanes_of(layout, layout.pack(channels_of(layout, 1, 1, 1)))
    first = side_by_side.reshape(-1)[: layout.channels]
    assert layout.in_order == (list(first) == list(range(1, layout.channels + 1)))


@given(layouts(), st.data())
def test_taken_channels_stay_where_they_are(layout: Layout, data: st.DataObject) -> None:
    channels = data.draw(st.permutations(range(layout.channels)))
    channels = channels[: data.draw(st.integers(1, layout.channels))]
    taken = layout.take(channels)
    plain = channels_of(layout, 1, 2, 2)
    before, after = (
        lanes_of(layout, each) for each in (layout.pack(plain), taken.pack(plain[:, channels]))
    )
    assert before.shape == after.shape
    np.testing.assert_array_equal(before[..., list(taken.slots)], after[..., list(taken.slots)])


@given(LANES, st.data())
def test_joined_tensors_lie_block_behind_block(lanes: int, data: st.DataObject) -> None:
    parts = data.draw(st.lists(ordered(lanes), min_size=1, max_size=4))
    plain = [channels_of(part, 2, 1, 3) for part in parts]
    joined = Layout.concatenate(parts)
    packed = [part.pack(each) for part, each in zip(parts, plain, strict=True)]
    np.testing.assert_array_equal(
        joined.pack(np.concatenate(plain, axis=1)), np.concatenate(packed, axis=1)
    )


@pytest.mark.parametrize(
    ("channels", "groups", "blocks", "slots"),
    [
        (5, 1, 2, (0, 1, 2, 3, 4)),
        (6, 2, 2, (0, 1, 2, 4, 5, 6)),
        (10, 2, 4, (0, 1, 2, 3, 4, 8, 9, 10, 11, 12)),
        (16, 2, 4, tuple(range(16))),
        (3, 3, 3, (0, 4, 8)),
    ],
)
def test_each_group_starts_a_block(
    channels: int, groups: int, blocks: int, slots: tuple[int, ...]
) -> None:
    assert Layout.of(channels, 4, groups) == Layout(4, blocks, slots)


def test_groups_of_whole_blocks_need_no_gaps() -> None:
    assert Layout.of(64, 8, 4) == Layout.of(64, 8)


# Runs --------------------------------------------------------------------------------------------


@given(layouts())
def test_runs_say_where_channels_lie(layout: Layout) -> None:
    if (runs := layout.runs) is not None:
        assert [runs.slot(place) for place in range(layout.channels)] == sorted(layout.slots)


@given(LANES, st.integers(1, 20), st.integers(1, 4))
def test_what_a_convolution_makes_lies_in_runs(lanes: int, each: int, groups: int) -> None:
    runs = Layout.of(groups * each, lanes, groups).runs
    assert runs is not None
    assert runs.length in (each, groups * each)
    assert (
        groups == 1 or runs.length == runs.stride or runs.stride == lanes * math.ceil(each / lanes)
    )


@given(LANES, st.integers(1, 20), st.integers(2, 4), st.data())
def test_runs_do_not_depend_on_the_order_of_channels(
    lanes: int, each: int, groups: int, data: st.DataObject
) -> None:
    layout = Layout.of(groups * each, lanes, groups)
    shuffled = layout.take(data.draw(st.permutations(range(layout.channels))))
    assert shuffled.runs == layout.runs


@pytest.mark.parametrize(
    ("slots", "runs"),
    [
        ((0, 1, 2, 3, 4, 5), Runs(6, 6)),
        ((0, 1, 4, 5, 8, 9), Runs(2, 4)),
        ((8, 0, 4), Runs(1, 4)),
        ((0, 1, 2, 4), Runs(3, 4)),  # the last run may be shorter
        ((0, 1, 4, 6), None),
        ((0, 1, 4, 5, 9, 10), None),
        ((0, 2, 3), None),
        ((1, 2, 3), None),  # no channel in the first lane
    ],
)
def test_runs_are_of_one_length_and_one_distance(slots: tuple[int, ...], runs: Runs | None) -> None:
    assert Layout(4, 3, slots).runs == runs


@example(Layout(4, 5, (*range(14), 15, 16)))  # a run that begins in the middle of a block
@given(layouts())
def test_steps_of_a_run_lie_side_by_side_in_one_block(layout: Layout) -> None:
    """A kernel reads as many channels at a time by one address."""
    runs = layout.runs
    if runs is None:
        return
    step = runs.step(layout.channels, layout.lanes)
    for first in range(0, layout.channels - step + 1, step):
        slots = [runs.slot(first + index) for index in range(step)]
        assert slots == list(range(slots[0], slots[0] + step))
        assert slots[0] // layout.lanes == slots[-1] // layout.lanes
