"""Blocked layout: which lane of which vector holds which channel."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class Runs:
    """Channels that lie in runs, each so many slots behind the one before it.

    All but the last, which may be shorter, are of one length.
    """

    length: int
    stride: int

    def slot(self, channel: Any) -> Any:
        """Where a channel lies; both may be numbers or expressions."""
        if self.length == self.stride:
            return channel
        return channel // self.length * self.stride + channel % self.length

    def step(self, channels: int, lanes: int) -> int:
        """How many channels lie side by side in one block, from any multiple of it on."""
        return math.gcd(self.length, self.stride, channels, lanes)


@dataclass(frozen=True)
class Layout:
    """How data of shape (N, C, H, W) lie as (N, blocks, H, W, lanes).

    Data of shape (N, C, W) lie like those of planes that are one pixel high.

    Channels need not lie in order: what rearranges channels changes this description, and moves
    no data. Lanes that hold no channel hold anything, and nothing that is real may be computed
    from them.

    Args:
        lanes: float32 numbers in a vector.
        blocks: Vectors for each pixel.
        slots: For each channel the lane that holds it, counted through all blocks.
    """

    lanes: int
    blocks: int
    slots: tuple[int, ...]

    @staticmethod
    def of(channels: int, lanes: int, groups: int = 1) -> Layout:
        """Channels in order, each group of them from the beginning of a block on."""
        each = channels // groups
        blocks = math.ceil(each / lanes)
        starts = range(0, groups * blocks * lanes, blocks * lanes)
        slots = tuple(start + channel for start in starts for channel in range(each))
        return Layout(lanes, groups * blocks, slots)

    @staticmethod
    def concatenate(layouts: Sequence[Layout]) -> Layout:
        """The layout of blocks one after the other."""
        lanes, slots, blocks = layouts[0].lanes, list[int](), 0
        for layout in layouts:
            slots += [blocks * lanes + slot for slot in layout.slots]
            blocks += layout.blocks
        return Layout(lanes, blocks, tuple(slots))

    @property
    def channels(self) -> int:
        return len(self.slots)

    @property
    def in_order(self) -> bool:
        """Whether channel c lies in slot c."""
        return self.slots == tuple(range(self.channels))

    @property
    def order(self) -> tuple[int, ...]:
        """The channels as they lie."""
        return tuple(sorted(range(self.channels), key=self.slots.__getitem__))

    @property
    def runs(self) -> Runs | None:
        """The runs in which the channels lie, whatever their order, if all are alike."""
        slots = sorted(self.slots)
        breaks = (place for place, slot in enumerate(slots) if slot != place)
        length = next(breaks, self.channels)
        runs = Runs(length, slots[length] if length < self.channels else length)
        if length == 0 or any(slot != runs.slot(place) for place, slot in enumerate(slots)):
            return None
        return runs

    def take(self, channels: Sequence[int]) -> Layout:
        """The layout of some of the channels, where they are."""
        return Layout(self.lanes, self.blocks, tuple(self.slots[channel] for channel in channels))

    def shape(self, plain: Sequence[int]) -> tuple[int, ...]:
        """The shape that data of a plain shape have."""
        return (plain[0], self.blocks, *plane_of(plain), self.lanes)

    def pack(self, plain: NDArray[Any]) -> NDArray[Any]:
        """Arrange (N, C, H, W) or (N, C, W) in blocks, with zeros where no channel is."""
        batch, channels, *_ = plain.shape
        plane = plane_of(plain.shape)
        packed = np.zeros((batch, self.blocks * self.lanes, *plane), plain.dtype)
        packed[:, list(self.slots)] = plain.reshape(batch, channels, *plane)
        split = packed.reshape(batch, self.blocks, self.lanes, *plane)
        return np.ascontiguousarray(np.moveaxis(split, 2, -1))

    def inverse(self) -> NDArray[np.int32]:
        """For each slot the channel that it holds, and 0 where it holds none."""
        channels = np.zeros(self.blocks * self.lanes, np.int32)
        channels[list(self.slots)] = np.arange(self.channels)
        return channels


def plane_of(shape: Sequence[int]) -> tuple[int, int]:
    """Height and width of (N, C, H, W), or of (N, C, W), which is one pixel high."""
    return (1, shape[2]) if len(shape) == 3 else (shape[2], shape[3])
