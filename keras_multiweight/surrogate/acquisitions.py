"""What makes a candidate wanted, from the members' predictions. P candidates, M members.

`acquisition(predictions, best, member) -> (P,)`, the higher the more wanted: `predictions` is `(P, M)`, `best` the height of
the incumbent, and `member` the number of the member whose turn it is.
"""

import numpy as np
from scipy.special import ndtr


def own(predictions, best, member):
    """One member's own opinion: with members in turn, a draw from the posterior (Thompson 1933)."""
    return predictions[:, member % predictions.shape[1]]


def mean(predictions, best, member):
    """What the members expect together."""
    return predictions.mean(axis=1)


def bound(predictions, best, member, width=1.0):
    """The upper confidence bound: the mean and one standard deviation."""
    return predictions.mean(axis=1) + width * predictions.std(axis=1)


def improvement(predictions, best, member):
    """The expected improvement on the best (Mockus 1978), as if the members were draws of a normal distribution."""
    mean, std = predictions.mean(axis=1), predictions.std(axis=1) + 1e-9
    z = (mean - best) / std
    return std * (z * ndtr(z) + np.exp(-0.5 * z**2) / np.sqrt(2 * np.pi))


ACQUISITIONS = {"own": own, "mean": mean, "bound": bound, "improvement": improvement}
EXACT, NOISY = ("mean", "own", "mean", "bound", "mean"), ("own", "mean", "own", "bound", "own")  # in turn


def checked_names(names):
    """A list of names of `ACQUISITIONS`."""
    names = [names] if isinstance(names, str) else list(names)
    if not names or not set(names) <= set(ACQUISITIONS):
        raise ValueError(f"acquisitions must be one or more of {list(ACQUISITIONS)}. Received: acquisitions={names}.")
    return names
