"""What a point is: real, integer and categorical dimensions, as a row of the unit cube. d dimensions, D encoded ones."""

import math
from dataclasses import dataclass, field

import numpy as np

LISTED = 100_000  # points of a space that is small enough to be listed


@dataclass(frozen=True)
class Real:
    """Numbers from `low` to `high`, both included. With `log`, evenly spread by their logarithm."""

    low: float
    high: float
    log: bool = False
    width = 1
    count = math.inf

    def __post_init__(self):
        finite = math.isfinite(self.low) and math.isfinite(self.high)
        if not finite or not self.low < self.high or (self.log and self.low <= 0):
            raise ValueError(
                "A dimension needs finite bounds, low < high, and low > 0 where it is logarithmic. "
                f"Received: low={self.low}, high={self.high}, log={self.log}."
            )

    def encode(self, values):
        """(n,) values -> (n, 1) in 0..1"""
        low, high, values = self._scaled(self.low), self._scaled(self.high), self._scaled(np.asarray(values, float))
        return ((values - low) / (high - low))[:, None]

    def decode(self, unit):
        low, high = self._scaled(self.low), self._scaled(self.high)
        values = low + np.clip(unit[:, 0], 0, 1) * (high - low)
        return np.clip(np.exp(values) if self.log else values, self.low, self.high)

    def _scaled(self, values):
        return np.log(values) if self.log else values

    def contains(self, values):
        values = np.asarray(values, float)
        return (values >= self.low) & (values <= self.high)


@dataclass(frozen=True)
class Integer:
    """Whole numbers from `low` to `high`, both included."""

    low: int
    high: int
    width = 1

    def __post_init__(self):
        if int(self.low) != self.low or int(self.high) != self.high or not self.low < self.high:
            raise ValueError(f"An Integer needs whole bounds, low < high. Received: low={self.low}, high={self.high}.")

    @property
    def count(self):
        return int(self.high) - int(self.low) + 1

    def encode(self, values):
        """The middle of each number's share of 0..1: all shares are equal, also those of the bounds."""
        return ((np.asarray(values, float) - self.low + 0.5) / self.count)[:, None]

    def values(self):
        """All of them."""
        return np.arange(self.low, self.high + 1, dtype=float)

    def decode(self, unit):
        steps = np.floor(np.clip(unit[:, 0], 0, 1) * self.count)
        return self.low + np.minimum(steps, self.count - 1)

    def contains(self, values):
        values = np.asarray(values, float)
        return (values >= self.low) & (values <= self.high) & (values == np.round(values))


@dataclass(frozen=True)
class Categorical:
    """One of some choices, words or plain numbers, encoded one-hot."""

    choices: tuple
    width: int = field(init=False)
    count: int = field(init=False)

    def __post_init__(self):
        choices = tuple(self.choices)
        plain = all(isinstance(c, (str, int, float, type(None))) for c in choices)
        if not plain or len(choices) < 2 or len(set(choices)) < len(choices):
            raise ValueError(
                "A Categorical needs two or more different choices: words, plain numbers, True, False or None. "
                f"Received: {self.choices}."
            )
        for name, value in {"choices": choices, "width": len(choices), "count": len(choices)}.items():
            object.__setattr__(self, name, value)

    def encode(self, values):
        return np.eye(self.width)[[self.choices.index(v) for v in values]]

    def values(self):
        """All of them."""
        choices = np.empty(self.width, object)
        choices[:] = self.choices
        return choices

    def decode(self, unit):
        return self.values()[unit.argmax(axis=1)]

    def contains(self, values):
        return np.array([v in self.choices for v in values], bool)


class Space:
    """All dimensions together.

    Args:
        bounds: For each dimension `(low, high)`, or a `Real`, `Integer` or `Categorical`.

    Attributes:
        num_dims: d.
        width: D, numbers of an encoded point.
        count: How many points there are: `inf` with a real dimension.
        dtype: Of decoded points: float64, or object with a categorical dimension.
    """

    def __init__(self, bounds):
        self.dims = [_dimension(b) for b in bounds]
        if not self.dims:
            raise ValueError("The bounds must have at least one dimension. Received: none.")
        self.num_dims, self.width = len(self.dims), sum(dim.width for dim in self.dims)
        self.count = math.prod(dim.count for dim in self.dims)
        self.dtype = object if any(isinstance(dim, Categorical) for dim in self.dims) else float
        ends = np.cumsum([dim.width for dim in self.dims]).tolist()
        self._columns = [slice(end - dim.width, end) for end, dim in zip(ends, self.dims)]

    def encode(self, points):
        """(n, d) points -> (n, D) in 0..1"""
        return np.concatenate([dim.encode(points[:, i]) for i, dim in enumerate(self.dims)], axis=1)

    def decode(self, unit):
        """(n, D) in 0..1 -> (n, d) points, within the bounds exactly."""
        points = np.empty((len(unit), self.num_dims), self.dtype)
        for i, (dim, columns) in enumerate(zip(self.dims, self._columns)):
            points[:, i] = dim.decode(unit[:, columns])
        return points

    def snapped(self, unit):
        """Encoded points as they are after decoding: whole numbers and choices in the middle of their shares."""
        if all(isinstance(dim, Real) for dim in self.dims):
            return np.clip(unit, 0.0, 1.0)
        return self.encode(self.decode(unit))

    def all_points(self, rng):
        """Every point of a small space in random order, to find the last ones that are left; none of a large space."""
        if self.count > LISTED:
            return np.empty((0, self.num_dims), self.dtype)
        numbers = np.unravel_index(rng.permutation(int(self.count)), [dim.count for dim in self.dims])
        points = np.empty((int(self.count), self.num_dims), self.dtype)
        for i, dim in enumerate(self.dims):
            points[:, i] = dim.values()[numbers[i]]
        return points

    def checked(self, points):
        """Points `(n, d)` as an array of this space's dtype.

        Raises:
            ValueError: Another number of dimensions, or a point outside of the bounds.
        """
        points = np.asarray(points, self.dtype)
        if points.ndim != 2 or points.shape[1] != self.num_dims:
            raise ValueError(f"Points must have shape (n, {self.num_dims}). Received: shape {points.shape}.")
        for i, dim in enumerate(self.dims):
            inside = dim.contains(points[:, i])
            if not inside.all():
                row = int(np.argmin(inside))
                raise ValueError(
                    f"Points must lie within the bounds. Received: {points.tolist()[row][i]!r} in dimension {i} of point "
                    f"{row}, where the bounds are {dim}."
                )
        return points


def _dimension(given):
    if isinstance(given, (Real, Integer, Categorical)):
        return given
    try:
        low, high = given
    except (TypeError, ValueError):
        raise ValueError(
            f"Bounds must be (low, high), Real, Integer or Categorical for each dimension. Received: {given!r}."
        ) from None
    return Real(float(low), float(high))


def keys(points):
    """One hashable key a point, equal for equal points."""
    return [tuple(row) for row in points.tolist()]
