"""What stands on the axes of a tensor: which of its indices are units that may change places, and how they lie there.

A `Group` is a set of units that permute together, wherever they appear. An *axis* says exactly how units lie along one
axis of a tensor: a tuple of *segments* one after another, as `Concatenate` makes them, each a tuple of groups whose
product it is, row-major, as `Flatten` makes them. Dense(5) after Flatten of (3, 3, 4 channels) has a kernel with the axes

    ((fixed 3, fixed 3, channels 4),), ((units 5),)

and the kernel of an LSTM(4) has ((features),) and ((fixed 4, units 4),): the four gates move as one.

A group may lie *within* another: the channels of each attention head permute by themselves, and the heads as wholes. The
permutation of such a group is one for each unit of its parent.

`Ties.unify` makes two axes the same, as an addition does. That ties groups to each other, splits a group where the other
axis is a concatenation or a product, and holds fast what cannot move.
"""

import itertools
import math


class Group:
    """Units that permute together.

    Attributes:
        size: How many; None for an open dimension, which is always fixed.
        name: The layer that made it, and which of its units these are.
        reason: Why the units must stay where they are, or None if they are free.
    """

    _numbers = itertools.count()

    def __init__(self, size, name, parent=None, reason=None):
        self.size = size
        self.name = name
        self.reason = reason
        self.number = next(self._numbers)
        self._parent = parent
        self._bound = None  # the axis that this group turned out to be

    @property
    def parent(self):
        """The group within each unit of which these units permute on their own, or None."""
        return self._parent and root(self._parent)

    def __repr__(self):
        return f"{self.name}[{self.size}]" + (f" in {self.parent.name}" if self.parent else "")


def root(group):
    """The group that stands for this one, after all ties."""
    while group._bound and len(group._bound) == 1 and len(group._bound[0]) == 1:
        group = group._bound[0][0]
    return group


def fixed(size, reason="it is a dimension of the data"):
    """An axis whose indices do not move."""
    return ((Group(size, "fixed", reason=reason),),)


def size_of(axis):
    """The length of an axis, or None."""
    sizes = [[group.size for group in segment] for segment in axis]
    return None if any(None in segment for segment in sizes) else sum(map(math.prod, sizes))


class Ties:
    """All groups of a model, and what is known to be the same."""

    def __init__(self):
        self._groups = []

    def group(self, size, name, parent=None):
        """A new group of free units."""
        self._groups.append(Group(size, name, parent))
        return self._groups[-1]

    def whole(self, axis):
        """An axis as one group, which stands for it in a product."""
        group = Group(size_of(axis), "product")
        group._bound = axis
        return group

    # ---- what an axis has become ----

    def expand(self, axis):
        """The axis in terms of the groups that all ties have left."""
        return tuple(itertools.chain.from_iterable(map(self._expand_segment, axis)))

    def _expand_segment(self, segment):
        segment = tuple(group for group in map(root, segment) if group.size != 1)
        for k, group in enumerate(segment):
            if group._bound:
                if len(group._bound) > 1:
                    self._spread(segment[:k])
                parts = [(*segment[:k], *part, *segment[k + 1 :]) for part in group._bound]
                copies = math.prod(outer.size for outer in segment[:k]) if len(parts) > 1 else 1
                inner = [part[k:] for part in parts] * copies if len(parts) > 1 else parts
                return tuple(itertools.chain.from_iterable(map(self._expand_segment, inner)))
        return (segment,)

    def _spread(self, outer):
        """Hold groups fast within each unit of which there are segments of other groups."""
        for group in outer:
            self.freeze_group(group, "each of its units holds a concatenation")

    # ---- holding fast ----

    def freeze(self, axis, reason):
        """Hold an axis fast."""
        for segment in self.expand(axis):
            for group in segment:
                self.freeze_group(group, reason)

    def freeze_group(self, group, reason):
        """Hold a group fast."""
        if not group.reason:
            group.reason = reason

    # ---- making the same ----

    def unify(self, a, b, reason):
        """Make two axes the same; `reason` is said of what must be held fast for it."""
        a, b = list(self.expand(a)), list(self.expand(b))
        if a == b:
            return None
        if size_of(a) is None or size_of(a) != size_of(b):
            return self.freeze(a, reason), self.freeze(b, reason)
        while a and b:
            first, other = size_of(a[:1]), size_of(b[:1])
            if first == other:
                self._unify_segments(a.pop(0), b.pop(0), reason)
            elif not self._cut(*((a, other) if first > other else (b, first))):
                return self.freeze(a, reason), self.freeze(b, reason)
            a, b = list(self.expand(a)), list(self.expand(b))
        return None

    def _cut(self, segments, size):
        """Cut the first segment in two, of which the first is `size` long. Says whether it can be cut there."""
        outer, inner = segments[0][0], size_of((segments[0][1:],))
        if size % inner or outer.parent:
            return False
        self._bind(outer, tuple((self._part(outer, n),) for n in (size // inner, outer.size - size // inner)))
        return True

    def _part(self, group, size, parent=None):
        part = self.group(size, group.name, parent)
        part.reason = group.reason
        return part

    def _unify_segments(self, a, b, reason):
        """Make two products of equal size the same."""
        a, b = list(a), list(b)
        while a and b:
            first, other = a[0], b[0]
            if first.size == other.size:
                self._tie(a.pop(0), b.pop(0))
            elif max(first.size, other.size) % min(first.size, other.size):
                return self.freeze((tuple(a),), reason), self.freeze((tuple(b),), reason)
            else:
                self._split(*((first, other.size) if first.size > other.size else (other, first.size)))
            expanded = self.expand((tuple(a),)), self.expand((tuple(b),))
            if max(map(len, expanded)) > 1:
                return [self.freeze(axis, reason) for axis in expanded]
            a, b = (list(axis[0]) for axis in expanded)
        return None

    def _split(self, group, outer_size):
        """A group turns out to be a product: `outer_size` blocks, which permute, and the units within each block."""
        group._parent = None
        outer = self._part(group, outer_size)
        self._bind(group, ((outer, self._part(group, group.size // outer_size, outer)),))

    def _tie(self, a, b):
        """Make two groups of one size the same."""
        if a is b:
            return
        if a.parent is not b.parent:
            a, b = self._without_parents(a, b)
        keep, drop = sorted((a, b), key=lambda group: (not group.reason, group.parent is not None, group.number))
        keep._parent = None if drop.parent is None else keep._parent
        self._bind(drop, ((keep,),))

    def _without_parents(self, a, b):
        """Groups that lie within different groups have one permutation for all units of these."""
        a._parent = b._parent = None
        return a, b

    def _bind(self, group, axis):
        """A group turns out to be an axis. What lies within its units stays so only if they are still one group."""
        if len(axis) > 1 or len(axis[0]) > 1:
            for child in self.children(group):
                child._parent = None
        group._bound = axis

    def children(self, group):
        """The groups within a group."""
        return [child for child in self._groups if not child._bound and child.parent is group]

    # ---- what lies within something that is not there ----

    def close(self, axes):
        """A group within a group that is not among these axes, or that is there twice, moves alike in all its units.

        Says whether that was so for one of them.
        """
        lone = [group for block in self.blocks(axes) for group in block if group.parent and block.count(group.parent) != 1]
        for group in lone:
            group._parent = None
        return bool(lone)

    def blocks(self, axes):
        """The groups of each block of an array: one segment of each axis."""
        choices = itertools.product(*map(self.expand, axes))
        return [[group for segment in block for group in segment] for block in choices]
