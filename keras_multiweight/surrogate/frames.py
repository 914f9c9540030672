"""The part of the data that a group of members sees, and its coordinates. D encoded dimensions, n points, W rows a window.

The members are divided into groups: one for each region, whose members see the points near its incumbent in the coordinates
of its box, and one for the whole cube.
"""

from dataclasses import dataclass

import numpy as np

NEAR = 0.1  # of the cube's side: so near a centre the cube's members know more of the function than a survey


@dataclass
class Frame:
    """The coordinates of one group, `z = (u - centre) / scale`, and the box in which it may propose.

    Attributes:
        centre, low, high: (D,) in the cube.
        scale: float, or (D,).
        rows: Numbers of the pool's points in reach, the nearest first.
        is_cube: bool, whether it is the whole.
    """

    centre: np.ndarray
    scale: float
    low: np.ndarray
    high: np.ndarray
    rows: np.ndarray
    is_cube: bool = False

    def to_own(self, unit):
        return (unit - self.centre) / self.scale

    def to_unit(self, own):
        return np.clip(self.centre + own * self.scale, self.low, self.high)

    def contains(self, unit):
        """(n,), whether points lie in the box."""
        return ((unit >= self.low) & (unit <= self.high)).all(axis=1)

    def reaches(self, unit):
        """(n,), whether points are near the centre: no further out than most that the members see, or than `NEAR`."""
        return (np.abs(unit - self.centre) <= np.maximum(self.scale, NEAR)).all(axis=1)

    def top(self, unit, heights, count):
        """The highest points in the box, at most `count`."""
        rows = self.rows[self.contains(unit[self.rows])]
        return rows[np.argsort(-heights[rows], kind="stable")[:count]]

    def window(self, heights, size, rng):
        """The rows of one member's window: of a region the nearest; of the cube the best third and a draw."""
        if len(self.rows) <= size or not self.is_cube:
            return self.rows[:size]
        order = np.argsort(-heights, kind="stable")
        return np.concatenate([order[: size // 3], rng.choice(order[size // 3 :], size - size // 3, replace=False)])


def whole_cube(unit):
    width = unit.shape[1]
    return Frame(np.full(width, 0.5), 0.5, np.zeros(width), np.ones(width), np.arange(len(unit)), is_cube=True)


def box_of(region, unit, window):
    """The frame of a region: its scale is its box, or what the nearest points span if they are further apart."""
    away = region.away(unit)
    rows = np.argsort(away, kind="stable")[:window]
    scale = max(region.half, float(np.median(away[rows])))
    return Frame(region.centre, scale * region.shape, *region.box(), rows)


# ---- targets ----


def _top_and_spread(heights):
    top = heights.max()
    return top, max(top - np.median(heights), 1e-12)


def normalised(heights):
    """Heights as targets: 1 at the best, 0 at the median, and below -1 by their logarithm: the bad need no precision."""
    top, spread = _top_and_spread(heights)
    below = (heights - top) / spread
    return 1.0 + np.where(below < -1, -1 - np.log(np.maximum(-below, 1)), below)


def denormalised(targets, heights):
    """The inverse of `normalised(heights)`, for predicted targets of any shape."""
    top, spread = _top_and_spread(heights)
    below = np.asarray(targets, float) - 1.0
    return top + spread * np.where(below < -1, -np.exp(np.minimum(-below - 1, 50)), below)
