"""How cases are made and where they are kept."""

import keras
from keras import layers as k
from keras import ops

CASES = {}
BACKEND = keras.backend.backend()


def case(build):
    assert build.__name__ not in CASES, build.__name__
    CASES[build.__name__] = build
    return build


def stack_of(name, shape, *makers, dtype="float32"):
    """A case of layers one after another, made anew for every member."""

    def build():
        inputs = x = keras.Input(shape, dtype=dtype)
        for make in makers:
            x = make()(x)
        return keras.Model(inputs, x)

    build.__name__ = name
    case(build)


def variants(name, shape, *makers, first=None, dtype="float32"):
    """A case of layers side by side: each on the input that all members share, and on what `first` makes of it."""

    def build():
        inputs = keras.Input(shape, dtype=dtype)
        found = [inputs, first()(inputs)] if first else [inputs]
        return keras.Model(inputs, [make()(x) for make in makers for x in found])

    build.__name__ = name
    case(build)


def of(layer_class, *args, **options):
    """A function that makes a layer."""
    return lambda: layer_class(*args, **options)


def dense(units=5, **options):
    return of(k.Dense, units, **options)


def conv(filters=4, size=3, **options):
    return of(k.Conv2D, filters, size, **options)


@keras.saving.register_keras_serializable("tests")
def minus_batch_mean(x):
    """A custom activation that mixes the rows of a batch."""
    return x - ops.mean(x, axis=0)
