"""Permutations of N members to one common place, all searched at the same time: Frank-Wolfe on soft permutations.

Each member has a doubly stochastic matrix for each group. A step goes from all of them towards the permutations that the
gradient names, as far as the objective grows, which along a line is a polynomial. As every member goes to the same places,
the way over any other member is the same: the permutations are consistent along cycles. The sum over all members is kept,
so that a step costs linear time in their number.

Reference: Crisostomi et al., 2024, "C2M3: cycle-consistent multi-model merging". There a step moves all layers; here also.
"""

import itertools

import numpy as np

from keras_multiweight.merging.matching import assign

STEPS = 50
GAIN = 5e-4  # relative; a step that gains less is the last
FINE = np.linspace(0.0, 1.0, 201, dtype="float32")  # of a step


def plus(a, b, sign=1):
    """Sums of lists of arrays."""
    return [x + sign * y for x, y in zip(a, b)]


class Softened:
    """One block of a member under soft permutations, on all axes that move, and on every part of them.

    A step of length t towards permutations makes of a soft permutation `(1 - t) * old + t * permutation`. The block is
    linear in that of each axis: after a step it is a weighted sum of what it was, permuted, without products of matrices.

    Attributes:
        mixed: Dict of tuples of axes to the block with the soft permutations of these axes alone.
        axes: All axes that move.
    """

    def __init__(self, block, part, start, names):
        self.groups = block.groups
        self.axes = tuple(axis for axis, name in enumerate(block.groups) if name in names)
        self.mixed = {axes: self._permuted(part, axes, start) for axes in _parts(self.axes)}

    @property
    def whole(self):
        return self.mixed[self.axes]

    def without(self, axis):
        """The block with the soft permutations of all axes but one."""
        return self.mixed[tuple(other for other in self.axes if other != axis)]

    def _permuted(self, part, axes, permutations):
        for axis in axes:
            part = np.take(part, permutations[self.groups[axis]], axis=axis)
        return part

    def terms(self, ends, axes=None):
        """`[A0, ..., An]` of the block after a step t to `ends`: the sum of `(1 - t) ** (n - j) * t ** j * Aj`."""
        axes = self.axes if axes is None else axes
        found = [0.0] * (len(axes) + 1)
        for moved in _parts(axes):
            rest = tuple(axis for axis in axes if axis not in moved)
            found[len(moved)] = found[len(moved)] + self._permuted(self.mixed[rest], moved, ends)
        return found

    def step(self, ends, t):
        """Go a step towards permutations."""
        self.mixed = {axes: _at(self.terms(ends, axes), t) for axes in self.mixed}


def _parts(axes):
    """All subsets, as tuples."""
    return [part for n in range(len(axes) + 1) for part in itertools.combinations(axes, n)]


def _basis(count, t):
    """The factors of `count` terms after steps t."""
    return [(1 - t) ** (count - 1 - j) * t**j for j in range(count)]


def _at(terms, t):
    return sum(factor * term for factor, term in zip(_basis(len(terms), t), terms))


def frank_wolfe(matcher, parts, starts):
    """Permutations for each member. Groups in groups, and groups that hold others, stay as they are in `starts`.

    Args:
        matcher: `Matcher`.
        parts: For each member a list of arrays, one for each block.
        starts: For each member the permutations to begin with.
    """
    names = [name for name in matcher.names if name not in matcher.parents and not matcher.children(name)]
    held = [{name: p for name, p in start.items() if name not in names} for start in starts]
    members = [
        [Softened(b, b.gather(part, still).astype("float32"), start, names) for b, part in zip(matcher.blocks, own)]
        for own, still, start in zip(parts, held, starts)
    ]
    maps = [{name: _matrix(start[name]) for name in names} for start in starts]
    value = _objective(_terms(members, starts))[0]
    for _ in range(STEPS):
        ends = _targets(matcher, members, names)
        values = _objective(_terms(members, ends))
        best = int(np.argmax(values))
        if values[best] <= value + GAIN * abs(value):
            break
        value = values[best]
        for own, of_member, end in zip(members, maps, ends):
            for softened in own:
                softened.step(end, FINE[best])
            for name, p in end.items():
                of_member[name] = _at([of_member[name], _matrix(p)], FINE[best])
    return [{**still, **{name: assign(p) for name, p in of_member.items()}} for still, of_member in zip(held, maps)]


def _matrix(permutation):
    return np.eye(len(permutation), dtype="float32")[permutation]


def _targets(matcher, members, names):
    """For each member and group the permutation that the gradient names."""
    total = [sum(softened.whole for softened in of_block) for of_block in zip(*members)]
    found = []
    for own in members:
        others = [whole - softened.whole for whole, softened in zip(total, own)]
        found.append({name: assign(_gradient(matcher.uses[name], others, own)) for name in names})
    return found


def _gradient(uses, others, own):
    found = 0.0
    for k, axis in uses:
        a, b = (np.moveaxis(part, axis, 0) for part in (others[k], own[k].without(axis)))
        found = found + a.reshape(len(a), -1) @ b.reshape(len(b), -1).T
    return found


def _terms(members, ends):
    """For each block the terms of every member."""
    return zip(*([softened.terms(end) for softened in own] for own, end in zip(members, ends)))


def _objective(terms):
    """The sum over all pairs of members of their inner products, after each step in `FINE`."""
    found = 0.0
    for of_block in terms:
        total = [sum(same) for same in zip(*of_block)]
        found = found + _square(total) - sum(map(_square, of_block))
    return found / 2


def _square(terms):
    """The squares of an array after each step in `FINE`, from its terms."""
    products = np.array([[np.vdot(a, b) for b in terms] for a in terms])
    basis = np.array(_basis(len(terms), FINE), dtype="float64")
    return np.einsum("it,ij,jt->t", basis, products, basis)
