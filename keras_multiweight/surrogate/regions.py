"""Boxes round incumbents, which shrink while nothing better is found in them. D encoded dimensions, n points.

As the trust regions of TuRBO (Eriksson et al. 2019), but round incumbents that keep apart: two basins are two regions.
"""

from dataclasses import asdict, dataclass, field

import numpy as np

LARGEST, SMALLEST = 0.3, 0.004  # half the side of a box, in units of the cube
APART = 0.2  # of the cube's diagonal: how far incumbents are from each other
PROGRESS = 1e-3  # of the spread of heights: what counts as a success


@dataclass
class Region:
    """A box round an incumbent.

    Attributes:
        centre: (D,).
        height: The height at the centre.
        half: Half of the box's side.
        failures: Points told since the last success.
        streak: Successes since the box last changed.
        seen: How many of the pool's points have been counted.
    """

    centre: np.ndarray
    height: float
    half: float = LARGEST
    failures: int = 0
    streak: int = 0
    seen: int = 0

    def box(self):
        """The lower and upper corner, cut off at the cube."""
        return np.maximum(self.centre - self.half, 0.0), np.minimum(self.centre + self.half, 1.0)

    def learn(self, unit, heights, mine, patience, floor):
        """Move to a better point, and shrink or grow.

        Args:
            unit, heights: (n, D), (n,) of the pool.
            mine: (n,), whether a point was proposed by this region.
            patience: Points without success after which the box is halved.
            floor: A box in which the heights differ by no more is not halved: what differs is noise.
        """
        is_new = np.arange(len(heights)) >= self.seen
        away = np.abs(unit - self.centre).max(axis=1)
        near = (is_new | (floor > 0)) & (away <= 2 * self.half) | (is_new & mine)
        if floor > 0:
            self.height = float(heights[away.argmin()])
        best = np.flatnonzero(near)[heights[near].argmax()] if near.any() else None
        if best is not None and heights[best] > self.height:
            self._move(unit[best], heights[best], heights)
        else:
            self.failures += int((is_new & mine).sum())
        self.seen = len(heights)
        if self.failures >= patience and not self._is_flat(unit, heights, floor):
            self.half, self.failures, self.streak = self.half / 2, 0, 0
        if self.streak >= 3:
            self.half, self.streak = min(self.half * 2, LARGEST), 0

    def _move(self, centre, height, heights):
        spread = np.quantile(heights, 0.9) - np.median(heights)
        if height > self.height + PROGRESS * spread:
            self.failures, self.streak = 0, self.streak + 1
        self.centre, self.height = centre, float(height)

    def _is_flat(self, unit, heights, floor):
        inside = heights[np.abs(unit - self.centre).max(axis=1) <= self.half]
        return len(inside) > 0 and inside.max() - np.median(inside) < floor


@dataclass
class Niches:
    """Several regions round incumbents that lie apart, and the places where one was exhausted.

    Attributes:
        count: How many regions.
        patience: Points without success, after which a box is halved.
        floor: See `Region.learn`.
        regions: List of `count` of them, or None where there is none.
        exhausted: List of (D,) centres.
    """

    count: int
    patience: int
    floor: float = 0.0
    regions: list = field(default_factory=list)
    exhausted: list = field(default_factory=list)

    def update(self, unit, heights, origins):
        """Move, shrink, grow and restart the regions by what was told since the last time.

        Args:
            unit, heights, origins: (n, D), (n,), (n,) of the pool: an origin is the number of the region.
        """
        self.regions = self.regions or [None] * self.count
        for number, region in enumerate(self.regions):
            if region is not None:
                region.learn(unit, heights, origins == number, self.patience, self.floor)
                if region.half < SMALLEST:
                    self.exhausted.append(region.centre)
                    self.regions[number] = None
        for number, region in enumerate(self.regions):
            if region is None:
                self.regions[number] = self._found(unit, heights)

    def _found(self, unit, heights):
        """A region round the best point that is far from all others and from what is exhausted; None without such."""
        far = np.ones(len(unit), bool)
        for centre in [r.centre for r in self.regions if r is not None] + self.exhausted:
            far &= np.linalg.norm(unit - centre, axis=1) > APART * np.sqrt(unit.shape[1])
        if not far.any():
            return None
        best = np.flatnonzero(far)[heights[far].argmax()]
        return Region(unit[best].copy(), float(heights[best]), seen=len(heights))

    def ranked(self):
        """The numbers of the regions, the highest first."""
        known = [i for i, region in enumerate(self.regions) if region is not None]
        return sorted(known, key=lambda i: -self.regions[i].height)

    # ---- saving ----

    def state(self):
        """Plain values."""
        plain = [r and {**asdict(r), "centre": r.centre.tolist()} for r in self.regions]
        return {"regions": plain, "exhausted": [centre.tolist() for centre in self.exhausted]}

    def restore(self, state):
        self.regions = [r and Region(**{**r, "centre": np.array(r["centre"])}) for r in state["regions"]]
        self.exhausted = [np.array(centre) for centre in state["exhausted"]]
