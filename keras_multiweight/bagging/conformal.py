"""Split conformal prediction: intervals and sets that hold the truth as often as was asked. B rows, C classes.

The promise is for rows that come as the calibration rows came (exchangeable), on average over the rows, whatever the model.
"""

import math

import numpy as np

from keras_multiweight.bagging.oob import checked_targets
from keras_multiweight.bagging.selection import checked_probabilities, probability_of


class ConformalIntervals:
    """Intervals around the answers of a model for numbers.

    Args:
        alpha: float from 0 to 1: the share of rows whose interval may miss the truth.

    Example:

    ```python
    held_out = kmw.bagging.uncertainty(multi.predict(x_val), "numbers")
    intervals = kmw.bagging.ConformalIntervals(alpha=0.1).fit(held_out.mean, y_val, scale=held_out.std)
    new = kmw.bagging.uncertainty(multi.predict(x), "numbers")
    low, high = intervals.predict(new.mean, scale=new.std)
    ```

    Reference: Lei, G'Sell, Rinaldo, Tibshirani and Wasserman, "Distribution-free predictive inference for regression",
    2018; with `scale`, section 5.2.
    """

    def __init__(self, alpha=0.1):
        self.alpha = _checked_alpha(alpha)

    def fit(self, mean, y, scale=None):
        """Find how wide intervals must be.

        Args:
            mean: Answers for rows that the model was not trained on, `(B, ...)`.
            y: The truth, `(B, ...)`.
            scale: `(B, ...)` positive numbers, such as the members' spread: intervals are as wide as these say.
        """
        mean = np.asarray(mean, "float64")
        y = checked_targets(y, len(mean))
        if y.size != mean.size:
            raise ValueError(
                f"y must have the shape of the answers, {mean.shape}. Received: shape {y.shape}. "
                "Classes are for ConformalSets."
            )
        y = y.reshape(mean.shape)
        self.scaled = scale is not None
        self.radius = conformal_quantile(np.abs(y - mean) / self._scale(scale, mean), self.alpha)
        return self

    def predict(self, mean, scale=None):
        """The lower and the upper ends of the intervals, each `(B, ...)`."""
        if not hasattr(self, "radius"):
            raise ValueError("The width of the intervals is not known yet. Call fit(mean, y) first.")
        if (scale is not None) != self.scaled:
            raise ValueError(
                f"scale must be given to both fit and predict, or to none. Received: scale in fit: {self.scaled}."
            )
        mean = np.asarray(mean, "float64")
        half = self.radius * self._scale(scale, mean)
        return mean - half, mean + half

    @staticmethod
    def _scale(scale, mean):
        scale = np.ones(mean.shape) if scale is None else np.asarray(scale, "float64")
        if scale.shape != mean.shape or not (scale > 0).all():
            raise ValueError(
                f"scale must be positive numbers of the shape of the answers, {mean.shape}. Received: shape {scale.shape}, "
                f"smallest {scale.min(initial=np.inf)}."
            )
        return scale


class ConformalSets:
    """Sets of classes: all whose probability is high enough.

    Args:
        alpha: float from 0 to 1: the share of rows whose set may miss the truth.

    Example:

    ```python
    sets = kmw.bagging.ConformalSets(alpha=0.05).fit(p_val, y_val)
    sets.predict(p)  # (B, C) bool
    ```

    Reference: Sadinle, Lei and Wasserman, "Least ambiguous set-valued classifiers with bounded error levels", 2019.
    """

    def __init__(self, alpha=0.1):
        self.alpha = _checked_alpha(alpha)

    def fit(self, p, y):
        """Find how high is enough, from probabilities `(B, C)` of rows not trained on, and their classes `(B,)`."""
        self.threshold = 1.0 - conformal_quantile(1.0 - probability_of(p, checked_targets(y, len(p))), self.alpha)
        return self

    def predict(self, p):
        """Which classes are in the set of each row: `(B, C)` bool, two classes for probabilities `(B, 1)`."""
        if not hasattr(self, "threshold"):
            raise ValueError("The threshold of the sets is not known yet. Call fit(p, y) first.")
        p = checked_probabilities(p)
        p = np.concatenate([1.0 - p, p], axis=1) if p.shape[-1] == 1 else p
        return 1.0 - p <= 1.0 - self.threshold


def conformal_quantile(scores, alpha):
    """Along the first axis the k-th smallest of n scores with `k = ceil((n + 1) (1 - alpha))`; infinity where k > n."""
    scores = np.sort(scores, axis=0)
    place = math.ceil((len(scores) + 1) * (1 - alpha) - 1e-9)  # 1 - 0.1 times 10 is 9
    return scores[place - 1] if place <= len(scores) else np.full(scores.shape[1:], np.inf)[()]


def _checked_alpha(alpha):
    if not (isinstance(alpha, (int, float)) and 0 < alpha < 1):
        raise ValueError(f"alpha must be a number between 0 and 1. Received: alpha={alpha!r}.")
    return alpha
