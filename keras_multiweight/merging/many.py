"""N members, one set of places: every member's units are matched to a reference, or to the mean of all others.

The mean comes from a running sum, so that a round over N members costs N matchings.
"""

import numpy as np

from keras_multiweight.merging.cycle import frank_wolfe, plus

ENOUGH = 1e-3  # relative; a round that gains less is the last


class Together:
    """N members of which each has its permutations.

    Attributes:
        permutations: For each member a dict, as `PermutationSpec.permute` takes it.
        sweeps: The most sweeps of a matching.
        rounds: How often each member was matched.
    """

    def __init__(self, matcher, parts, starts):
        self.matcher = matcher
        self.parts = parts
        self.permutations = list(starts)
        self.sweeps = 0
        self.rounds = 1

    def moved(self, i):
        """The parts of member `i`, permuted."""
        return [b.gather(part, self.permutations[i]) for b, part in zip(self.matcher.blocks, self.parts[i])]

    def move(self, i, target, **options):
        """Match member `i` to a target. Says whether it fits better than before."""
        before = self.matcher.objective(target, self.parts[i], self.permutations[i])
        match = self.matcher.match(target, self.parts[i], start=self.permutations[i], **options)
        self.sweeps = max(self.sweeps, match.sweeps)
        if match.objective > before + 1e-9 * abs(before):
            self.permutations[i] = match.permutations
            return True
        return False


def to_reference(together, reference, init, restarts, seed):
    """Match every member to one of them."""
    for i in _without(range(len(together.parts)), reference):
        together.move(i, together.parts[reference], init=init, restarts=restarts, seed=seed)


def to_each_other(together, reference, init, restarts, seed, max_rounds=20):
    """MergeMany (Ainsworth et al., 2022, algorithm 3): match each to the mean of the others, until that gains little.

    It begins with each member matched to the mean of those before it.
    """
    rng, count = np.random.default_rng(seed), len(together.parts)
    total = [part.copy() for part in together.moved(reference)]
    for n, i in enumerate(_without(range(count), reference), 1):
        together.move(i, [part / n for part in total], init=init, restarts=restarts, seed=seed)
        total = plus(total, together.moved(i))
    own = sum(map(square, together.parts))  # which permutations leave as it is
    before, reached, together.rounds = 0.0, square(total) - own, 1
    while count > 2 and together.rounds <= max_rounds and reached > before + ENOUGH * abs(before):
        for i in rng.permutation(count):
            others = plus(total, together.moved(i), -1)
            together.move(i, [part / (count - 1) for part in others], init="identity", seed=seed)
            total = plus(others, together.moved(i))
        before, reached, together.rounds = reached, square(total) - own, together.rounds + 1


def _without(items, one):
    return [item for item in items if item != one]


def all_at_once(together, reference, init, restarts, seed):
    """Search the permutations of all members and groups at the same time (`cycle.py`), from where a reference leads."""
    to_reference(together, reference, init, restarts, seed)
    found = frank_wolfe(together.matcher, together.parts, together.permutations)
    before, own = common_objective(together), together.permutations
    together.permutations = found
    if common_objective(together) < before:
        together.permutations = own


def common_objective(together):
    """The mean over all pairs of members of the inner product of their permuted parts; cost linear in N."""
    total, own = None, 0.0
    for i in range(len(together.parts)):
        moved = together.moved(i)
        total = moved if total is None else plus(total, moved)
        own += square(moved)
    count = len(together.parts)
    return (square(total) - own) / (count * (count - 1))


def square(parts):
    """The sum of the squares of all numbers."""
    return sum(float(np.vdot(x, x)) for x in parts)


METHODS = {"mergemany": to_each_other, "reference": to_reference, "cycle": all_at_once}
