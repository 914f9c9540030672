"""Arrays as blocks of units: one block for each choice of a segment on each axis, reshaped to one axis a group."""

import dataclasses
import itertools
import math

import numpy as np

from keras_multiweight.merging.axes import size_of


@dataclasses.dataclass(frozen=True)
class Block:
    """A part of an array, and whose units lie on its axes.

    Attributes:
        view: The shape in which the array is seen.
        slices: Where the block is in it.
        shape: The shape of the block with one axis for each group.
        groups: For each of these axes the name of its group, or None where nothing moves.
        parents: For each the axis of the group that it lies within, or None.
        statistic: It is permuted, but says nothing about which units are alike.
    """

    view: tuple
    slices: tuple
    shape: tuple
    groups: tuple
    parents: tuple
    statistic: bool = False

    def of(self, array):
        """The part of an array that this block is, `shape`."""
        return array.reshape(self.view)[self.slices].reshape(self.shape)

    def gather(self, part, permutations, leave=None):
        """The block with its groups permuted, but for the axis `leave`."""
        for axis in sorted(range(len(self.groups)), key=lambda axis: self.parents[axis] is not None):
            p = permutations.get(self.groups[axis])
            if axis == leave or p is None:
                continue
            if self.parents[axis] is None:
                part = np.take(part, p, axis=axis)
            else:
                part = np.take_along_axis(part, self._along(p, axis), axis=axis)
        return part

    def mix(self, part, maps):
        """The block with units replaced by weighted sums of units: unit `i` becomes `sum(map[i, j] * unit j)`."""
        for axis, name in enumerate(self.groups):
            if name in maps:
                part = np.moveaxis(np.tensordot(maps[name], part, (1, axis)), 0, axis)
        return part

    def _along(self, p, axis):
        """Permutations `(parent, size)`, on the axes of the block that these are."""
        parent = self.parents[axis]
        p = p if parent < axis else p.T
        shape = [1] * len(self.shape)
        shape[parent], shape[axis] = self.shape[parent], self.shape[axis]
        return p.reshape(shape)


def blocks_of(trace, placed, names):
    """The blocks of an array that is `placed`: its axes, the shape in which it is seen, and if it is a statistic.

    Args:
        trace: `Ties`, for what the axes have become.
        placed: `(axes, view shape, statistic)`.
        names: Dict of free groups to their names.
    """
    axes, view, statistic = placed
    found = [((), ())]  # slices, segments
    for axis in axes:
        ends = np.cumsum([0, *(size_of((s,)) or 0 for s in trace.expand(axis))])
        cut = [slice(a, b) if len(ends) > 2 else slice(None) for a, b in itertools.pairwise(ends)]
        parts = list(zip(cut, trace.expand(axis)))
        found = [((*slices, at), (*segments, s)) for slices, segments in found for at, s in parts]
    blocks = (_block(view, slices, segments, names, statistic) for slices, segments in found)
    return tuple(block for block in blocks if any(block.groups))


def _block(view, slices, segments, names, statistic):
    groups = [group for segment in segments for group in segment]
    merged = []  # neighbours that do not move are one axis, unless something lies within them
    parents = {group.parent for group in groups if group.parent}
    for group in groups:
        still = group not in names and group not in parents
        if still and merged and merged[-1][0] is None:
            merged[-1][1].append(group.size)
        else:
            merged.append((None if still else group, [group.size]))
    at = {group: axis for axis, (group, _) in enumerate(merged) if group}
    return Block(
        view=tuple(view),
        slices=slices,
        shape=tuple(-1 if None in sizes else math.prod(sizes) for _, sizes in merged),
        groups=tuple(names.get(group) for group, _ in merged),
        parents=tuple(at[group.parent] if group and group in names and group.parent else None for group, _ in merged),
        statistic=statistic,
    )


def replaced(array, blocks, change):
    """A new array in which `change(block, part)` stands for the part of each block; the rest stays."""
    result = array.copy()
    view = result.reshape(blocks[0].view) if blocks else result
    for block in blocks:
        view[block.slices] = change(block, block.of(array)).reshape(view[block.slices].shape)
    return result
