"""All that is known of the function: evaluations in the order told, and points asked for that are still out. n points."""

import numpy as np

from keras_multiweight.surrogate.space import keys

TOLD, DESIGN, RANDOM, WHOLE, BETWEEN = -1, -2, -3, -4, -5  # origins of points that no region proposed
ORIGINS = {TOLD: "told", DESIGN: "design", RANDOM: "random", WHOLE: "whole", BETWEEN: "between"}


class Pool:
    """Evaluations, as arrays that grow, and pending points.

    Args:
        space: The `Space`.
        sign: 1 to look for a maximum, -1 for a minimum.

    Attributes:
        points: (n, d), decoded.
        unit: (n, D), encoded.
        values: (n,) as told; NaN where the evaluation failed.
        origins: (n,) what proposed a point: the number of a region, or one of `ORIGINS`.
        pending: Dict of key to origin.
    """

    def __init__(self, space, sign):
        self.space, self.sign = space, sign
        self.points = np.empty((0, space.num_dims), space.dtype)
        self.unit = np.empty((0, space.width))
        self.values, self.origins = np.empty(0), np.empty(0, int)
        self.pending, self._told = {}, set()

    def __len__(self):
        return len(self.values)

    def tell(self, points, values):
        self.origins = np.append(self.origins, [self.pending.pop(key, TOLD) for key in keys(points)]).astype(int)
        self.points = np.concatenate([self.points, points])
        self.unit = np.concatenate([self.unit, self.space.encode(points)])
        self.values = np.append(self.values, values)
        self._told.update(keys(points))

    def knows(self, key):
        """Whether a point was told or is pending."""
        return key in self.pending or key in self._told

    @property
    def heights(self):
        """(n,): what is to be maximised; a failed evaluation counts as the lowest that was seen, to be avoided."""
        heights = self.sign * self.values
        failed = np.isnan(heights)
        if failed.any() and not failed.all():
            heights[failed] = heights[~failed].min()
        return heights

    @property
    def num_known(self):
        """How many evaluations did not fail."""
        return int(np.isfinite(self.values).sum())

    def best(self):
        """The number of the best evaluation."""
        return int(np.nanargmax(self.sign * self.values))
