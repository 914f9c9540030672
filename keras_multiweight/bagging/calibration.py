"""Whether probabilities mean what they say. B rows, C classes.

Probabilities are `(B, C)`, or `(B, 1)` of the second of two classes; classes `y` are ints `(B,)`.
"""

import dataclasses

import numpy as np
from scipy import optimize, special

from keras_multiweight.bagging.oob import checked_targets, probabilities
from keras_multiweight.bagging.resampling import checked_count
from keras_multiweight.bagging.selection import checked_probabilities, probability_of


def negative_log_likelihood(p, y):
    """The mean of minus the logarithm of the probability of the class that came, in nats."""
    p, y = _checked(p, y)
    return float(-np.log(np.maximum(probability_of(p, y), 1e-300)).mean())


def brier_score(p, y):
    """The mean over the rows of the squared distance of the probabilities from the class that came: 0 to 2.

    Reference: Brier, "Verification of forecasts expressed in terms of probability", 1950.
    """
    p, y = _checked(p, y)
    return float(np.square(p - np.eye(p.shape[1])[y]).sum(axis=1).mean())


def expected_calibration_error(p, y, bins=15):
    """The mean distance of confidence and accuracy, over bins of equal width of the confidence, weighted by their rows.

    Reference: Guo, Pleiss, Sun and Weinberger, "On calibration of modern neural networks", 2017.
    """
    found = reliability(p, y, bins)
    there = found.count > 0
    gaps = np.abs(found.accuracy[there] - found.confidence[there])
    return float((gaps * found.count[there]).sum() / found.count.sum())


@dataclasses.dataclass(frozen=True)
class Reliability:
    """Rows by the confidence of their answer, in bins of equal width.

    Attributes:
        edges: `(bins + 1,)`.
        confidence, accuracy: `(bins,)`: means over the rows of a bin; NaN in an empty one.
        count: `(bins,)` ints.
    """

    edges: np.ndarray
    confidence: np.ndarray
    accuracy: np.ndarray
    count: np.ndarray


def reliability(p, y, bins=15):
    """How often answers are right, by how confident they are: a `Reliability`. A bin has its upper edge."""
    p, y = _checked(p, y)
    edges = np.linspace(0, 1, checked_count(bins, "bins") + 1)
    confidence, right = p.max(axis=1), p.argmax(axis=1) == y
    places = np.clip(np.searchsorted(edges, confidence) - 1, 0, bins - 1)
    count = np.bincount(places, minlength=bins)
    with np.errstate(invalid="ignore"):
        means = [np.bincount(places, values, minlength=bins) / count for values in (confidence, right)]
    return Reliability(edges, *means, count)


class Temperature:
    """Divides logits by a number that makes held-out data most likely: answers stay, confidence is mended.

    Args:
        per_member: bool. A temperature for each member, from logits `(B, N, C)`; the ensemble averages their
            probabilities. Else one, for logits `(B, C)` or, for the mean probabilities of an ensemble, their logarithms.

    Attributes:
        temperature: float, or `(N,)`.

    Example:

    ```python
    temperature = kmw.bagging.Temperature(per_member=True).fit(multi.predict(x_val), y_val)
    p = temperature.probabilities(multi.predict(x)).mean(axis=1)
    ```

    Reference: Guo, Pleiss, Sun and Weinberger, 2017.
    """

    def __init__(self, per_member=False):
        self.per_member = per_member

    def fit(self, logits, y):
        """Find the temperature from logits of held-out rows and their classes, `(B,)` ints."""
        logits = self._logits(logits)
        y = checked_targets(y, len(logits))
        parts = np.moveaxis(logits, 1, 0) if self.per_member else [logits]
        found = np.array([_temperature(part, y) for part in parts])
        self.temperature = found if self.per_member else float(found[0])
        return self

    def probabilities(self, logits):
        """The probabilities of logits at the temperature, of their shape."""
        if not hasattr(self, "temperature"):
            raise ValueError("The temperature is not known yet. Call fit(logits, y) first.")
        by = self.temperature[:, None] if self.per_member else self.temperature
        return probabilities(self._logits(logits) / by)

    def __repr__(self):
        found = getattr(self, "temperature", None)
        shown = "not fitted" if found is None else f"temperature={np.round(found, 4).tolist()}"
        return f"Temperature(per_member={self.per_member}, {shown})"

    def _logits(self, logits):
        logits = np.asarray(logits, "float64")
        if logits.ndim != 2 + self.per_member:
            wanted = "(B, N, C)" if self.per_member else "(B, C)"
            raise ValueError(f"Logits must be {wanted} with per_member={self.per_member}. Received: shape {logits.shape}.")
        return logits


def _temperature(logits, y):
    """The minimum of the negative log likelihood, which has one in 1 / T: it is convex there."""
    both = np.concatenate([np.zeros_like(logits), logits], axis=-1) if logits.shape[-1] == 1 else logits
    probability_of(probabilities(logits), y)  # says what is wrong with y
    true = np.take_along_axis(both, np.asarray(y).reshape(-1, 1).astype(int), axis=1)[:, 0]

    def loss(log_inverse):
        inverse = np.exp(log_inverse)
        return (special.logsumexp(both * inverse, axis=1) - true * inverse).mean()

    return float(np.exp(-optimize.minimize_scalar(loss, bounds=(-7, 7), method="bounded", options={"xatol": 1e-8}).x))


def _checked(p, y):
    """Probabilities of all classes `(B, C)`, and int classes `(B,)`."""
    p = checked_probabilities(p)
    if p.ndim != 2:
        raise ValueError(f"Probabilities must be (B, C), of one model or of the ensemble. Received: shape {p.shape}.")
    p = np.concatenate([1 - p, p], axis=1) if p.shape[1] == 1 else p
    y = checked_targets(y, len(p))
    probability_of(p, y)  # says what is wrong with y
    return p, y.reshape(len(p)).astype(int)
