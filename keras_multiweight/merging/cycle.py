"""Permutations of N members to one common place, all searched at the same time: Frank-Wolfe on soft permutations.

Each member has a doubly stochastic matrix for each group. A step goes from all of them towards the permutations that the
gradient names, as far as the objective grows, which along a line is a polynomial. As every member goes to the same places,
the way over any other member is the same: the permutations are consistent along cycles. The sum over all members is kept,
so that a step costs linear time in their number.

Reference: Crisostomi et al., 2024, "C2M3: cycle-consistent multi-model merging". There a step moves all layers; here also.
"""

import numpy as np

from keras_multiweight.merging.matching import assign

STEPS = 50
GAIN = 1e-6  # relative; a step that gains less is the last
POINTS = np.linspace(0.0, 1.0, 5)  # five values give the polynomial of degree four of two groups on each weight


def plus(a, b, sign=1):
    """Sums of lists of arrays."""
    return [x + sign * y for x, y in zip(a, b)]


def frank_wolfe(matcher, parts, starts):
    """Permutations for each member. Groups in groups, and groups that hold others, stay as they are in `starts`.

    Args:
        matcher: `Matcher`.
        parts: For each member a list of arrays, one for each block.
        starts: For each member the permutations to begin with.
    """
    names = [name for name in matcher.names if name not in matcher.parents and not matcher.children(name)]
    held = [{name: p for name, p in start.items() if name not in names} for start in starts]
    parts = [[b.gather(part, p) for b, part in zip(matcher.blocks, own)] for own, p in zip(parts, held)]
    maps = [{name: np.eye(len(start[name]))[start[name]] for name in names} for start in starts]
    value = _objective(matcher, parts, maps)
    for _ in range(STEPS):
        ends = _targets(matcher, parts, maps, names)
        step, reached = _line_search(matcher, parts, maps, ends)
        if reached <= value + GAIN * abs(value):
            break
        maps, value = _between(maps, ends, step), reached
    return [{**own, **{name: assign(p) for name, p in of_member.items()}} for own, of_member in zip(held, maps)]


def _mixed(matcher, parts, maps):
    return [block.mix(part, maps) for block, part in zip(matcher.blocks, parts)]


def _total(matcher, parts, maps):
    """The sum over all members of their parts in the common places, and the sum of their own squares."""
    total, squares = None, 0.0
    for own, of_member in zip(parts, maps):
        mixed = _mixed(matcher, own, of_member)
        total = mixed if total is None else plus(total, mixed)
        squares += sum(float(np.vdot(x, x)) for x in mixed)
    return total, squares


def _objective(matcher, parts, maps):
    """The sum over all pairs of members of their inner products."""
    total, squares = _total(matcher, parts, maps)
    return (sum(float(np.vdot(x, x)) for x in total) - squares) / 2


def _targets(matcher, parts, maps, names):
    """For each member and group the permutation that the gradient names."""
    total, _ = _total(matcher, parts, maps)
    found = []
    for own, of_member in zip(parts, maps):
        others = plus(total, _mixed(matcher, own, of_member), -1)
        gradients = {name: _gradient(matcher, name, others, own, of_member) for name in names}
        found.append({name: np.eye(len(g))[assign(g)] for name, g in gradients.items()})
    return found


def _gradient(matcher, name, others, own, maps):
    size = len(maps[name])
    total = np.zeros((size, size))
    for k, axis in matcher.uses[name]:
        mixed = matcher.blocks[k].mix(own[k], maps, leave=axis)
        a, b = (np.moveaxis(part, axis, 0).reshape(size, -1) for part in (others[k], mixed))
        total += a @ b.T
    return total


def _line_search(matcher, parts, maps, ends):
    """The step with the largest objective, and the objective there."""
    values = [_objective(matcher, parts, _between(maps, ends, step)) for step in POINTS]
    fine = np.linspace(0.0, 1.0, 201)
    best = float(fine[np.argmax(np.polyval(np.polyfit(POINTS, values, len(POINTS) - 1), fine))])
    candidates = [*zip(POINTS, values), (best, _objective(matcher, parts, _between(maps, ends, best)))]
    return max(candidates, key=lambda found: found[1])


def _between(maps, ends, step):
    return [{name: (1 - step) * p[name] + step * q[name] for name in p} for p, q in zip(maps, ends)]
