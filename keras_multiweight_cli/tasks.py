"""The demo's tasks, on data that comes with scikit-learn.

Handwritten digits, classified by small CNNs, and the progress of diabetes, regressed by small MLPs.
"""

import dataclasses
from collections.abc import Callable

import numpy as np


@dataclasses.dataclass(frozen=True)
class Task:
    """Data, an architecture, and how its answers are scored.

    Attributes:
        load: Gives inputs and targets.
        build: Gives a new model.
        loss: Keras's name of the loss.
        steps, rows: Training steps, and the rows of each.
        metric, score: What the score is called, and `score(targets, answers)`; more is better.
    """

    name: str
    load: Callable
    build: Callable
    loss: str
    steps: int
    rows: int
    metric: str
    score: Callable


# ---- data ----


def _digits():
    data = _datasets().load_digits()
    return _shuffled(data.images[..., None] / 16, data.target)


def _diabetes():
    data = _datasets().load_diabetes()
    x, y = _shuffled(data.data, data.target[:, None])
    return (x - x.mean(axis=0)) / x.std(axis=0), (y - y.mean()) / y.std()


def _datasets():
    try:
        from sklearn import datasets
    except ImportError as error:
        raise ImportError(
            'The demo needs scikit-learn for its data sets. Install it: pip install "keras-multiweight[demo]"'
        ) from error
    return datasets


def _shuffled(x, y):
    order = np.random.default_rng(0).permutation(len(x))
    return x[order].astype("float32"), y[order].astype("float32")


# ---- models ----


def _cnn():
    import keras
    from keras import layers as k

    return keras.Sequential(
        [
            keras.Input((8, 8, 1)),
            k.Conv2D(8, 3, activation="relu"),
            k.Conv2D(16, 3, activation="relu"),
            k.Flatten(),
            k.Dense(10, activation="softmax"),
        ],
        name="cnn",
    )


def _mlp():
    import keras
    from keras import layers as k

    return keras.Sequential(
        [keras.Input((10,)), k.Dense(64, activation="relu"), k.Dense(64, activation="relu"), k.Dense(1)], name="mlp"
    )


# ---- scores ----


def _accuracy(y, answers):
    return float(np.mean(answers.argmax(axis=-1) == y))


def _r2(y, answers):
    return float(1 - np.mean((y - answers) ** 2) / np.var(y))


TASKS = [
    Task("digits", _digits, _cnn, "sparse_categorical_crossentropy", 50, 128, "accuracy", _accuracy),
    Task("diabetes", _diabetes, _mlp, "mse", 60, 64, "R²", _r2),
]
