"""What `predict` adds to a search, to be sane over the whole cube. n points, N members, W rows a window, D dimensions.

A search learns what leads to the optimum: most of its points lie together, and as the bad need no precision, their targets
are logarithms, of which an error is a factor of the height. A survey learns the heights themselves, from points drawn the
more often the further they are from all others.
"""

import numpy as np
from scipy.spatial import KDTree

ROUNDS = 3  # of training, each on windows of its own
DECAY = 1e-3  # of the weights: some tens of points far apart are to be fitted smoothly
MARGIN = 0.1  # of the range of what was told: how far beyond it a prediction may be


def bounded(heights, known):
    """Predicted heights, not further out than `MARGIN` beyond the known ones."""
    margin = MARGIN * np.ptp(known)
    return np.clip(heights, known.min() - margin, known.max() + margin)


def shares(unit):
    """(n,): how often points are drawn, by the square of their distance from the nearest other. The sum is 1."""
    away = KDTree(unit).query(unit, k=2)[0][:, 1] ** 2 + 1e-12  # points may be told twice
    return away / away.sum()


def moments(heights, share):
    """The mean and standard deviation of heights as they are drawn."""
    mean = np.average(heights, weights=share)
    return mean, max(np.sqrt(np.average((heights - mean) ** 2, weights=share)), 1e-12)


def windows(own, targets, share, shape, rng):
    """Rows `(W, N, D)`, targets and weights `(W, N)`, drawn for each member, zero beyond what there is.

    Args:
        own: (n, D), all points in the coordinates of the cube.
        targets, share: (n,).
        shape: W, N.
        rng: A `numpy.random.Generator`.
    """
    x, y, weights = np.zeros((*shape, own.shape[1])), np.zeros(shape), np.zeros(shape)
    size = min(shape[0], len(own))
    rows = np.stack([rng.choice(len(own), size, replace=False, p=share) for _ in range(shape[1])], axis=1)
    x[:size], y[:size] = own[rows], targets[rows]
    weights[:size] = np.sqrt(rng.exponential(size=rows.shape))  # as a search does
    return x, y, weights
