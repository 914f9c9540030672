"""Boxes round incumbents, as wide as the steps that succeed, and halved while none does. D encoded dimensions, n points.

After the trust regions of TuRBO (Eriksson et al. 2019), but round incumbents that keep apart: two basins are two regions. A
point belongs to the nearest centre, those of higher regions and of exhausted ones included, so that no region moves to where
another is or was.
"""

from dataclasses import asdict, dataclass, field

import numpy as np
from scipy.spatial.distance import cdist

from keras_multiweight.surrogate.pool import BETWEEN

LARGEST, SMALLEST = 0.3, 0.0002  # half the side of a box, in units of the cube
APART = 0.2  # of the cube's diagonal: how far incumbents are from each other
PROGRESS = 1e-3  # of the spread of heights: what counts as a success
MEMORY, HORIZON = 20, 40  # calls of a region over which its pace is a mean, and for how many more it is thought to last
RESHAPE, WIDEST = 0.125, 3.0  # half of the power that makes all effects near a maximum equal; the limit of a shape
REACH = 2.0  # half the side of a box after a success, in units of the step that was taken


@dataclass
class Region:
    """A box round an incumbent.

    Attributes:
        centre: (D,).
        height: The height at the centre.
        origin: (D,), where it began.
        half: Half of the box's side.
        failures: Points told since the last success.
        seen: How many of the pool's points have been counted.
        pace: By how much a call raised the height of late.
        shape: (D,), of geometric mean 1: how much wider than on the whole the box is in each coordinate.
    """

    centre: np.ndarray
    height: float
    origin: np.ndarray
    half: float = LARGEST
    failures: int = 0
    seen: int = 0
    pace: float = 0.0
    shape: np.ndarray | float = 1.0

    def away(self, unit):
        """(n,): how far points are from the centre, as half of the side of the box on whose border they are."""
        return (np.abs(unit - self.centre) / self.shape).max(axis=1)

    def box(self):
        """The lower and upper corner, cut off at the cube."""
        return np.maximum(self.centre - self.half * self.shape, 0.0), np.minimum(self.centre + self.half * self.shape, 1.0)

    def reshape(self, effects):
        """Widen the box along coordinates that matter little, and narrow it along the others, some at a time.

        Args:
            effects: (D,) mean squares of how the height changes when a coordinate alone is drawn anew within the box.
        """
        shape = self.shape * (effects + 1e-9) ** -RESHAPE
        self.shape = np.clip(shape / np.exp(np.log(shape).mean()), 1 / WIDEST, WIDEST)

    def learn(self, unit, heights, mine, owned, patience, floor):
        """Move to a better point, with a box as wide as the step, or shrink.

        Args:
            unit, heights: (n, D), (n,) of the pool.
            mine: (n,), whether a point was proposed by this region.
            owned: (n,), whether it may move there: no higher region is nearer.
            patience: Points without success after which the box is halved.
            floor: A box in which the heights differ by no more is not halved: what differs is noise.
        """
        is_new = np.arange(len(heights)) >= self.seen
        before, calls = self.height, int((is_new & mine).sum())
        away = self.away(unit)
        near = (is_new | (floor > 0)) & (away <= 2 * self.half) | (is_new & mine)
        if floor > 0:
            self.height = float(heights[away.argmin()])
        near &= owned
        best = np.flatnonzero(near)[heights[near].argmax()] if near.any() else None
        if best is not None and heights[best] > self.height:
            self._move(unit[best], heights[best], heights)
        else:
            self.failures += calls
        self.seen = len(heights)
        if calls:
            self.pace = self.pace * (1 - 1 / MEMORY) ** calls + (self.height - before) / MEMORY
        if self.failures >= patience and not self._is_flat(unit, heights, floor):
            self.half, self.failures = self.half / 2, 0

    def _move(self, centre, height, heights):
        spread = np.quantile(heights, 0.9) - np.median(heights)
        if height > self.height + PROGRESS * spread:
            step = float(self.away(centre[None])[0])
            self.half = float(np.clip(REACH * step, self.half / 2, min(self.half * 2, LARGEST)))
            self.failures = 0
        self.centre, self.height = centre, float(height)

    def _is_flat(self, unit, heights, floor):
        inside = heights[self.away(unit) <= self.half]
        return len(inside) > 0 and inside.max() - np.median(inside) < floor


@dataclass
class Niches:
    """Several regions round incumbents that lie apart, and the places where one was exhausted.

    Attributes:
        count: How many regions.
        patience: Points without success, after which a box is halved.
        floor: See `Region.learn`.
        regions: List of `count` of them, empty before the first `update`.
        exhausted: List of (D,) places where no region is to be.
        is_valley: Whether a place between two regions was found to be lower than both (the hill-valley test of Ursem 1999);
            None before the first was told. A region that begins later has it before it to be shown.
    """

    count: int
    patience: int
    floor: float = 0.0
    regions: list = field(default_factory=list)
    exhausted: list = field(default_factory=list)
    is_valley: bool | None = None

    def update(self, unit, heights, origins):
        """Move, shrink, grow and restart the regions by what was told since the last time.

        Args:
            unit, heights, origins: (n, D), (n,), (n,) of the pool: an origin is the number of the region.
        """
        begins = not self.regions
        self.regions = self.regions or [None] * self.count
        if not begins:
            self._look(heights, origins)
        for number in self.ranked():
            mine, owned = origins == number, self.owns(number, unit)
            self.regions[number].learn(unit, heights, mine, owned, self.patience, self.floor)
        for number in self.ranked():
            self._give_up(number)
        for number, region in enumerate(self.regions):
            if region is None:
                self.regions[number] = self._found(unit, heights)
                self.is_valley = None if begins else False

    def _look(self, heights, origins):
        """Whether the last place between regions that was told since the last time is in a valley. A known one stays."""
        between = np.flatnonzero(origins == BETWEEN)
        if len(between) and between[-1] >= self.regions[0].seen:
            ends = min(region.height for region in self.regions)
            self.is_valley = self.is_valley or bool(heights[between[-1]] < ends - self.floor / 4)

    def alone(self):
        """The number of the region that leads alone, as no valley parts another from it, or None."""
        return self.ranked()[0] if self.count > 1 and self.is_valley is False else None

    def between(self, part):
        """(D,): a place on the way from the leading region to the next."""
        first, second = [self.regions[i].centre for i in self.ranked()[:2]]
        return first + part * (second - first)

    def _before(self, number):
        """The centres that come before a region's: those of higher regions, and what is exhausted."""
        ranked = self.ranked()
        return [self.regions[i].centre for i in ranked[: ranked.index(number)]] + self.exhausted

    def owns(self, number, unit):
        """(n,): whether points are nearer to a region's centre than to all that come before it."""
        return _distance(unit, [self.regions[number].centre]) <= _distance(unit, self._before(number))

    def _give_up(self, number):
        """Drop a region that is exhausted, and one that was drawn to where another is or was.

        A false maximum draws from far away: where such a region began is not to be begun at again.
        """
        region = self.regions[number]
        reach = APART / 2 * np.sqrt(len(region.centre))
        is_drawn = _distance(region.centre[None], self._before(number))[0] < reach
        if region.half < SMALLEST or is_drawn:
            self.exhausted += [region.origin] if is_drawn else [region.centre, region.origin]
            self.regions[number] = None

    def _found(self, unit, heights):
        """A region round the best point that is far from all others and from what is exhausted, or round the furthest."""
        away = _distance(unit, [r.centre for r in self.regions if r is not None] + self.exhausted)
        far = away > APART * np.sqrt(unit.shape[1])
        best = np.flatnonzero(far)[heights[far].argmax()] if far.any() else away.argmax()
        return Region(unit[best].copy(), float(heights[best]), unit[best].copy(), seen=len(heights))

    def ranked(self):
        """The numbers of the regions, the highest first."""
        known = [i for i, region in enumerate(self.regions) if region is not None]
        return sorted(known, key=lambda i: -self.regions[i].height)

    def promising(self):
        """The numbers of the regions, first the one that will be the highest if all go on at their pace."""
        return sorted(range(len(self.regions)), key=lambda i: -self.regions[i].height - HORIZON * self.regions[i].pace)

    # ---- saving ----

    def state(self):
        """Plain values."""
        plain = [
            {**asdict(r), "centre": r.centre.tolist(), "origin": r.origin.tolist(), "shape": np.array(r.shape).tolist()}
            for r in self.regions
        ]
        return {"regions": plain, "exhausted": [c.tolist() for c in self.exhausted], "is_valley": self.is_valley}

    def restore(self, state):
        arrays = [{name: np.array(r[name]) for name in r if isinstance(r[name], list)} for r in state["regions"]]
        self.regions = [Region(**{**r, **found}) for r, found in zip(state["regions"], arrays)]
        self.exhausted, self.is_valley = [np.array(centre) for centre in state["exhausted"]], state["is_valley"]


def _distance(unit, centres):
    """(n,): how far points are from the nearest of some centres, infinitely if there are none."""
    return cdist(unit, centres).min(axis=1) if centres else np.full(len(unit), np.inf)
