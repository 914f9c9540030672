"""Which unit of one member is which unit of another: coordinate descent with exact linear assignment.

The objective is the inner product `sum(target * permuted(source))` over all blocks (weights, or activations): as a
permutation leaves the norm alone, its maximum is the least distance. One group at a time, with all others as they are,
the best permutation is a linear assignment on the similarities of its units (Ainsworth et al., 2022, "Git Re-Basin",
algorithm 1). A group within another is matched within each pair of units of its parent, and the parent by what the best
of these give.
"""

import dataclasses

import numpy as np

MARGIN = 1e-9  # relative; what is less of a gain is rounding


@dataclasses.dataclass(frozen=True)
class Match:
    """How one member fits another.

    Attributes:
        permutations: For each group, which unit of the source takes each place: as `PermutationSpec.permute` takes them.
        objective: The inner product that they reach.
        sweeps: How many sweeps over all groups it took; the last one changed nothing.
    """

    permutations: dict
    objective: float
    sweeps: int


def assign(similarity):
    """The permutation `p` with the largest sum of `similarity[i, p[i]]`, exactly."""
    from scipy.optimize import linear_sum_assignment

    return linear_sum_assignment(similarity, maximize=True)[1]


class Matcher:
    """Matches members of one architecture.

    Args:
        spec: `PermutationSpec`.
        blocks: List of `Block`, in the order of the parts that are matched.
        names: The groups to match; the others stay. All, if left out.
    """

    def __init__(self, spec, blocks, names=None):
        self.spec = spec
        self.blocks = blocks
        self.names = list(spec.groups if names is None else names)
        self.parents = {name: spec.name_of(group.parent) for name, group in spec.groups.items() if group.parent}
        self.uses = {name: self._uses(name) for name in spec.groups}

    def _uses(self, name):
        """The blocks and axes where a group is."""
        return [(k, axis) for k, b in enumerate(self.blocks) for axis, group in enumerate(b.groups) if group == name]

    def children(self, name):
        """The groups that lie within a group which moves."""
        return [child for child, parent in self.parents.items() if parent == name and child in self.names]

    # ---- the whole search ----

    def match(self, target, source, init="forward", start=None, restarts=0, seed=0, max_sweeps=100):
        """The best `Match` of several descents.

        Args:
            target, source: Lists of arrays, one for each block.
            init: `"forward"` to begin with a sweep from the input upward, `"identity"` to begin with what is.
            start: What is, in place of permutations that change nothing.
            restarts: How many more descents begin with random permutations.
            seed: int, for the order of the groups and for the restarts.
            max_sweeps: The most sweeps of a descent.
        """
        rng, draws = np.random.default_rng(seed), np.random.default_rng((seed, 1))  # restarts leave the first start alone
        start = start or self.spec.identity()
        begin = self.forward(target, source, start) if init == "forward" else start
        begins = [begin, *({**start, **self._random(draws)} for _ in range(restarts))]
        found = [self.descend(target, source, begin, rng, max_sweeps) for begin in begins]
        return max(found, key=lambda match: match.objective)

    def _random(self, rng):
        return {name: p for name, p in self.spec.random(rng).items() if name in self.names}

    def forward(self, target, source, start):
        """A first sweep from the input upward: each group by those blocks whose other groups are matched already."""
        permutations, waiting = dict(start), list(self.names)
        known = set(start) - set(waiting)
        while waiting:
            ready = [name for name in waiting if self.parents.get(name) not in waiting and self._evidence(name, known)]
            name = (ready or waiting)[0]
            found = self._best(name, target, source, permutations, known) if ready else {}
            permutations |= found
            known |= {name, *found}
            waiting = [name for name in waiting if name not in known]
        return permutations

    def _evidence(self, name, known):
        return any(self._is_known(k, axis, known, self.children(name)) for k, axis in self.uses[name])

    def _is_known(self, k, axis, known, free):
        """Whether all other groups of a block are matched already."""
        groups = self.blocks[k].groups
        return known is None or all(g is None or g in known for i, g in enumerate(groups) if i != axis and g not in free)

    def descend(self, target, source, permutations, rng, max_sweeps):
        """Sweeps over the groups in random order, until one changes nothing."""
        permutations, sweeps, improved = dict(permutations), 0, bool(self.names)
        while improved and sweeps < max_sweeps:
            improved = False
            sweeps += 1
            for name in rng.permutation(self.names):
                better = self._best(name, target, source, permutations)
                if self._gains(name, better, target, source, permutations):
                    permutations |= better
                    improved = True
        return Match(permutations, self.objective(target, source, permutations), sweeps)

    def objective(self, target, source, permutations, blocks=None):
        """The inner product of the target and the permuted source, over all blocks or some."""
        blocks = range(len(self.blocks)) if blocks is None else blocks
        return float(sum(np.vdot(target[k], self.blocks[k].gather(source[k], permutations)) for k in blocks))

    def _gains(self, name, better, target, source, permutations):
        """A group that is on two axes of one weight is matched to where it was, and may lose by moving."""
        if all(np.array_equal(p, permutations[own]) for own, p in better.items()):
            return False
        touched = {k for own in better for k, _ in self.uses[own]}
        old, new = (self.objective(target, source, p, touched) for p in (permutations, {**permutations, **better}))
        return new > old + MARGIN * abs(old)

    # ---- one group ----

    def _best(self, name, target, source, permutations, known=None):
        """The best permutations of a group, and of those within it."""
        if self.spec.groups[name].parent:
            similarity = self.similarity(name, target, source, permutations, known)
            return {name: np.stack(list(map(assign, similarity)))}
        return self._family(name, target, source, permutations, known)

    def similarity(self, name, target, source, permutations, known=None):
        """The inner products of a group's units, `(size, size)`; `(size of the parent, size, size)` within another group.

        Args:
            known: The groups whose permutations count; blocks with others are left out. All, if left out.
        """
        group = self.spec.groups[name]
        total = np.zeros((group.parent.size if group.parent else 1, group.size, group.size))
        for k, axis in self.uses[name]:
            block = self.blocks[k]
            if self._is_known(k, axis, known, ()):
                pair = (target[k], block.gather(source[k], permutations, leave=axis))
                a, b = (_unit_rows(part, axis, block.parents[axis]) for part in pair)
                total += a @ np.swapaxes(b, 1, 2)
        return total if group.parent else total[0]

    def _family(self, name, target, source, permutations, known):
        """The best permutation of a group by what the best permutations within its units give."""
        within, plain = {}, np.zeros((self.spec.groups[name].size,) * 2)
        children = self.children(name)
        for k, axis in self.uses[name]:
            block = self.blocks[k]
            inner = [i for i, g in enumerate(block.groups) if g in children]
            if not self._is_known(k, axis, known, {block.groups[i] for i in inner[:1]}):
                continue
            if not inner:
                b = block.gather(source[k], permutations, leave=axis)
                plain += _unit_rows(target[k], axis)[0] @ _unit_rows(b, axis)[0].T
            else:
                child = block.groups[inner[0]]
                within[child] = within.get(child, 0) + self._pairs(k, axis, inner, target, source, permutations)
        return _assign_family(name, plain, within)

    def _pairs(self, k, axis, inner, target, source, permutations):
        """`(i, j, m, n)`: unit m within unit i of the target, with unit n within unit j of the source."""
        block, held = self.blocks[k], {self.blocks[k].groups[i] for i in (axis, *inner)}
        rest = {name: p for name, p in permutations.items() if name not in held}
        order = [axis, *inner, *(i for i in range(len(block.groups)) if i not in (axis, *inner))]
        a, b = (np.transpose(part, order) for part in (target[k], block.gather(source[k], rest)))
        others = [permutations[block.groups[i]] for i in inner[1:]]
        return np.stack([_pairs_of_unit(a[i], b, [p[i] for p in others]) for i in range(len(a))])


def _pairs_of_unit(a, b, others):
    """`(j, m, n)` of one unit: `a` is (m, ...), `b` is (j, n, ...), with the other groups within it as they are."""
    for axis, p in enumerate(others, 2):
        b = np.take(b, p, axis=axis)
    return np.einsum("mr,jnr->jmn", a.reshape(len(a), -1), b.reshape(*b.shape[:2], -1), optimize=True)


def _assign_family(name, plain, within):
    best = {child: np.stack([[assign(pair) for pair in row] for row in pairs]) for child, pairs in within.items()}
    for child, p in best.items():  # (i, j, m): the sum over m of the pairs that are assigned
        plain = plain + np.take_along_axis(within[child], p[..., None], axis=-1).sum(axis=(-2, -1))
    own = assign(plain)
    return {name: own, **{child: p[np.arange(len(own)), own] for child, p in best.items()}}


def _unit_rows(part, axis, parent=None):
    """A block as `(1, units, all else)`, or `(units of the parent, units, all else)`."""
    front = [axis] if parent is None else [parent, axis]
    part = np.moveaxis(part, front, range(len(front)))
    return part.reshape(*(part.shape[:2] if parent is not None else (1, part.shape[0])), -1)
