"""Test functions to minimise, whose minimum is 0. Points (n, d)."""

import numpy as np

ALPHA = np.array([1.0, 1.2, 3.0, 3.2])
A = np.array([[10, 3, 17, 3.5, 1.7, 8], [0.05, 10, 17, 0.1, 8, 14], [3, 3.5, 1.7, 10, 17, 8], [17, 8, 0.05, 10, 0.1, 14]])
P = 1e-4 * np.array(
    [
        [1312, 1696, 5569, 124, 8283, 5886],
        [2329, 4135, 8307, 3736, 1004, 9991],
        [2348, 1451, 3522, 2883, 3047, 6650],
        [4047, 8828, 8732, 5743, 1091, 381],
    ]
)
HARTMANN_MAXIMUM = 3.32236801141551
HARTMANN_AT = np.array([0.20168952, 0.15001069, 0.47687398, 0.27533243, 0.31165162, 0.65730054])


def hartmann(x):
    """Two basins that matter: the false one ends at 0.119, at a distance of 1.10."""
    return HARTMANN_MAXIMUM - np.exp(-np.sum(A * (x[:, None] - P) ** 2, axis=-1)) @ ALPHA


def ackley(z):
    bowl = -20 * np.exp(-0.2 * np.sqrt(np.mean(z**2, axis=1)))
    return bowl - np.exp(np.mean(np.cos(2 * np.pi * z), axis=1)) + 20 + np.e


def levy(z):
    w = 1 + z / 4  # the minimum is at 0 in place of 1
    middle = (w[:, :-1] - 1) ** 2 * (1 + 10 * np.sin(np.pi * w[:, :-1] + 1) ** 2)
    last = (w[:, -1] - 1) ** 2 * (1 + np.sin(2 * np.pi * w[:, -1]) ** 2)
    return np.sin(np.pi * w[:, 0]) ** 2 + middle.sum(axis=1) + last


def rastrigin(z):
    return np.sum(z**2 - 10 * np.cos(2 * np.pi * z) + 10, axis=1)


HALVES = {ackley: 32.768, levy: 10.0, rastrigin: 5.12}  # half the side of the usual box
NAMED = {function.__name__: function for function in HALVES}


def problem(name, seed):
    """`(f, d)` on the unit cube, from a name as `hartmann` or `ackley-10`.

    The minimum of the last three is moved by the seed, at random within the middle half of the box, so that no method
    gains from looking at the middle first.
    """
    if name.startswith("hartmann"):
        return hartmann, 6
    kind, dim = name.split("-")
    function, dim = NAMED[kind], int(dim)
    half = HALVES[function]
    shift = np.random.default_rng([seed, 77]).uniform(-0.5, 0.5, dim) * half
    return lambda u: function((2 * u - 1) * half - shift), dim
