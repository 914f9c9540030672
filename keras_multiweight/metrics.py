"""What a `metric` argument means: a function of targets and answers, both whole arrays."""

import keras
import numpy as np
from keras import ops


def metric_function(metric):
    """`score(y, answers) -> float` from whatever names a metric.

    Args:
        metric: `"accuracy"`, the name or an instance of any Keras metric or loss, or a function `metric(y, answers)` of
            whole arrays, as those of `sklearn.metrics`.

    Raises:
        ValueError: No metric has the name, or it is no function.
    """
    score = accuracy if metric in ("accuracy", "acc") else _of_keras(metric)
    if not callable(score):
        raise ValueError(
            "metric must be 'accuracy', the name or an instance of a Keras metric or loss, or a function "
            f"metric(y, answers). Received: metric={metric!r}."
        )
    return lambda y, answers: float(np.mean(ops.convert_to_numpy(score(y, answers))))


def accuracy(y, answers):
    """The share of rows whose class is right: integer classes or one-hot `y`, or 0 and 1 against one probability."""
    y, answers = np.asarray(y), np.asarray(answers)
    if answers.shape[-1] == 1 or answers.ndim == y.ndim - 1:
        return np.mean((answers.reshape(len(y), -1) > 0.5) == (y.reshape(len(y), -1) > 0.5))
    classes = y.argmax(axis=-1) if y.shape == answers.shape else y.reshape(answers.shape[:-1])
    if classes.min(initial=0) < 0 or classes.max(initial=0) >= answers.shape[-1]:
        raise ValueError(
            f"Targets must be classes from 0 to {answers.shape[-1] - 1}. "
            f"Received: numbers from {classes.min()} to {classes.max()}."
        )
    return np.mean(answers.argmax(axis=-1) == classes)


def _of_keras(metric):
    if isinstance(metric, (str, dict)):
        metric = _named(metric)
        metric = metric() if isinstance(metric, type) else metric
    return _of_metric(metric) if isinstance(metric, keras.metrics.Metric) else metric


def _named(metric):
    try:
        return keras.metrics.get(metric)
    except ValueError:
        return None


def _of_metric(metric):
    def score(y, answers):
        metric.reset_state()
        metric.update_state(y, answers)
        return metric.result()

    return score
