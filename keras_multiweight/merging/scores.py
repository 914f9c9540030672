"""How good a set of weights is on data."""

import keras
import numpy as np
from keras import ops, tree


def check_rows(model, x, what="data"):
    """Refuse inputs that a model does not take, in words of its own. Returns the inputs as float or int arrays.

    Raises:
        ValueError: Another number of inputs, another shape, or no rows.
    """
    if isinstance(x, dict):
        return x
    arrays, inputs = tree.flatten(x), model.inputs
    if len(arrays) != len(inputs):
        raise ValueError(f"{what} must have {len(inputs)} input array(s). Received: {len(arrays)}.")
    for array, expected in zip(arrays, inputs):
        shape = tuple(np.shape(array))
        fits = len(shape) == len(expected.shape) and all(w in (None, g) for w, g in zip(expected.shape[1:], shape[1:]))
        if not fits or not shape[0]:
            raise ValueError(
                f"{what} for input '{expected.name}' must have shape {tuple(expected.shape)} and at least one row. "
                f"Received: shape {shape}."
            )
    return x


class Scorer:
    """Scores sets of weights of one architecture on one data set; the model is compiled once.

    Args:
        template: A Keras model, whose weights are set here.
        data: `(x, y)`.
        metric: `"accuracy"`, the name or an instance of any Keras metric or loss, or a function `metric(y, answers)` of
            whole arrays, as those of `sklearn.metrics`.
        batch_size: int, for `predict`.
    """

    def __init__(self, template, data, metric, batch_size=256):
        if not isinstance(data, (tuple, list)) or len(data) != 2:
            raise ValueError(f"Data to score on must be a pair (x, y). Received: a {type(data).__name__}.")
        self.model, (self.x, self.y), self.batch_size = template, data, batch_size
        check_rows(template, self.x)
        self.metric = _function(metric)

    def __call__(self, weights):
        return self.of_answers(self.answers(weights))

    def answers(self, weights):
        """What the model with these weights predicts."""
        self.model.set_weights(weights)
        return self.model.predict(self.x, batch_size=self.batch_size, verbose=0)

    def of_answers(self, answers):
        """The score of predictions, a float."""
        return float(np.mean(ops.convert_to_numpy(self.metric(self.y, answers))))


def accuracy(y, answers):
    """The share of rows whose class is right: integer classes or one-hot `y`, or 0 and 1 against one probability."""
    y, answers = np.asarray(y), np.asarray(answers)
    if answers.shape[-1] == 1 or answers.ndim == y.ndim - 1:
        return np.mean((answers.reshape(len(y), -1) > 0.5) == (y.reshape(len(y), -1) > 0.5))
    classes = y.argmax(axis=-1) if y.shape == answers.shape else y.reshape(answers.shape[:-1])
    return np.mean(answers.argmax(axis=-1) == classes)


def _function(metric):
    if metric in ("accuracy", "acc"):
        return accuracy
    if isinstance(metric, (str, dict)):
        metric = keras.metrics.get(metric)
        metric = metric() if isinstance(metric, type) else metric
    return _of_metric(metric) if isinstance(metric, keras.metrics.Metric) else metric


def _of_metric(metric):
    def score(y, answers):
        metric.reset_state()
        metric.update_state(y, answers)
        return metric.result()

    return score
