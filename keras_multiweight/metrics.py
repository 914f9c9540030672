"""What a `metric` argument means: a function of targets and answers, both whole arrays."""

import keras
import numpy as np
from keras import ops

OF_KERAS = (str, dict, keras.metrics.Metric, keras.losses.Loss)


def metric_function(metric):
    """`score(y, answers) -> float` from whatever names a metric.

    Args:
        metric: `"accuracy"`, the name or an instance of any Keras metric or loss, or a function `metric(y, answers)` of
            whole arrays, as those of `sklearn.metrics`. Where an answer is NaN the score is, but for a function, which
            says itself.

    Raises:
        ValueError: No metric has the name, or it is no function.
    """
    score = accuracy if metric in ("accuracy", "acc") else _of_keras(metric)
    if not callable(score):
        raise ValueError(
            "metric must be 'accuracy', the name or an instance of a Keras metric or loss, or a function "
            f"metric(y, answers). Received: metric={metric!r}."
        )
    is_of_keras = isinstance(metric, OF_KERAS)

    def whole(y, answers):
        y, answers = _aligned(y, answers, any_shape=not is_of_keras)  # what is the user's may take other targets
        if is_of_keras and answers.dtype.kind == "f" and np.isnan(answers).any():  # Keras counts it as some class
            return np.nan
        found = np.asarray(ops.convert_to_numpy(score(y, answers)))
        if found.ndim and found.shape[0] != len(y):
            raise ValueError(
                "metric must give one number, or one for each row, whose mean is the score. Received: an array of shape "
                f"{found.shape} from metric={metric!r}. Let it say how classes count, as average='macro' does."
            )
        return float(np.mean(found))

    return whole


def _named_where_it_fails(score, metric):
    """Keras's metrics do not say what they take; some take classes, some one-hot targets."""

    def run(y, answers):
        try:
            return score(y, answers)
        except Exception as error:  # of each backend another
            if y.shape == answers.shape:
                raise
            raise ValueError(
                f"metric={metric!r} does not take these targets. Metrics of probabilities of classes often take one-hot "
                "targets: keras.utils.to_categorical(y, num_classes). "
                f"Received: targets {y.shape} and answers {answers.shape}."
            ) from error

    return run


def _aligned(y, answers, any_shape):
    """Targets with the last axis of their answers where that has length 1: of `(R,)` and `(R, 1)` NumPy makes `(R, R)`."""
    y, answers = np.asarray(y), np.asarray(answers)
    if answers.ndim == y.ndim + 1 and answers.shape[-1] == 1:
        y = y[..., None]
    if not any_shape and y.shape not in (answers.shape, answers.shape[:-1], (*answers.shape[:-1], 1)):
        raise ValueError(
            "Targets must have the shape of the answers, or one class where these have probabilities of classes. "
            f"Received: targets {y.shape} and answers {answers.shape}."
        )
    return y, answers


def accuracy(y, answers):
    """The share of rows whose class is right: integer classes or one-hot `y`, or 0 and 1 against one probability."""
    y, answers = _aligned(y, answers, any_shape=False)
    if answers.shape[-1] == 1:
        _check(((y >= 0) & (y <= 1)).all(), "0 or 1, for one probability", y)
        return np.mean((answers > 0.5) == (y > 0.5))
    if y.shape == answers.shape:
        _check((y >= 0).all() and np.allclose(y.sum(axis=-1), 1), "one-hot, for probabilities of classes", y)
        y = y.argmax(axis=-1)
    last = answers.shape[-1] - 1
    _check(((y >= 0) & (y <= last) & (y % 1 == 0)).all(), f"classes from 0 to {last}", y)
    return np.mean(answers.argmax(axis=-1) == y.reshape(answers.shape[:-1]))


def _check(holds, what, y):
    if not holds:
        raise ValueError(f"Targets must be {what}. Received: numbers from {y.min()} to {y.max()}.")


def _of_keras(metric):
    if not isinstance(metric, OF_KERAS):
        return metric
    found = _named(metric) if isinstance(metric, (str, dict)) else metric
    found = found() if isinstance(found, type) else found
    found = _of_metric(found) if isinstance(found, keras.metrics.Metric) else found
    return _named_where_it_fails(found, metric) if callable(found) else found


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
