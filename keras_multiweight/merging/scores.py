"""How good a set of weights is on data."""

import numpy as np
from keras import tree

from keras_multiweight.metrics import metric_function


def check_rows(model, x, what="data"):
    """Refuse inputs that a model does not take, in words of its own. Returns the inputs as float or int arrays.

    Raises:
        ValueError: Another number of inputs, another shape, no rows, or NaN or infinite numbers.
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
        if not np.isfinite(np.asarray(array, "float64")).all():
            raise ValueError(f"{what} for input '{expected.name}' must be finite. Received: NaN or infinite numbers.")
    return x


def _check_targets(x, y):
    rows = len(tree.flatten(x)[0])
    for target in tree.flatten(y):
        count = len(target) if np.ndim(target) else 0
        if count != rows:
            raise ValueError(f"There must be a target for each of the {rows} rows to score on. Received: {count} targets.")


class Scorer:
    """Scores sets of weights of one architecture on one data set; the model is compiled once.

    Args:
        template: A Keras model, whose weights are set here.
        data: `(x, y)`.
        metric: As for `metric_function`.
        batch_size: int, for `predict`.
    """

    def __init__(self, template, data, metric, batch_size=256):
        if not isinstance(data, (tuple, list)) or len(data) != 2:
            raise ValueError(f"Data to score on must be a pair (x, y). Received: a {type(data).__name__}.")
        self.model, (self.x, self.y), self.batch_size = template, data, batch_size
        check_rows(template, self.x)
        _check_targets(self.x, self.y)
        self.metric = metric_function(metric)

    def __call__(self, weights):
        return self.of_answers(self.answers(weights))

    def answers(self, weights):
        """What the model with these weights predicts."""
        self.model.set_weights(weights)
        return self.model.predict(self.x, batch_size=self.batch_size, verbose=0)

    def of_answers(self, answers):
        """The score of predictions, a float."""
        return self.metric(self.y, answers)
