"""Maximum pooling against the loop over members: the same bits, and the same gradients where numbers are equal."""

import keras
import numpy as np
import oracle
import pytest
from keras import layers as k

import keras_multiweight as kmw

NUM_MEMBERS, ROWS = 3, 6
KINDS = {
    "two by two": ((8, 6, 2), lambda: k.MaxPooling2D()),
    "what is left over": ((9, 7, 2), lambda: k.MaxPooling2D(2)),
    "overlapping": ((9, 8, 2), lambda: k.MaxPooling2D(3, strides=2)),
    "oblong": ((9, 8, 2), lambda: k.MaxPooling2D((2, 3), strides=(3, 1))),
    "same": ((9, 8, 2), lambda: k.MaxPooling2D(3, strides=2, padding="same")),
    "large": ((9, 8, 2), lambda: k.MaxPooling2D(5, strides=1)),
    "one axis": ((9, 2), lambda: k.MaxPooling1D(3, strides=2)),
    "three axes": ((4, 5, 6, 2), lambda: k.MaxPooling3D(2)),
    "whole numbers": ((8, 6, 2), lambda: k.MaxPooling2D(2, dtype="int32")),
}


def network(shape, layer):
    """A pool of what all members share, and of what each has of its own."""
    inputs = keras.Input(shape)
    shared = layer()(inputs)
    own = layer()(k.Dense(4, activation="relu")(inputs))
    return keras.Model(inputs, [shared, own, k.Dense(1)(k.Flatten()(own))])


@pytest.mark.parametrize("kind", KINDS)
def test_pooled_numbers_are_each_members_own_bits(kind):
    shape, layer = KINDS[kind]
    models = oracle.members(lambda: network(shape, layer), NUM_MEMBERS)
    x = np.random.default_rng(0).integers(-3, 4, (ROWS, *shape)).astype("float32")
    x[0, 0] = np.nan
    multi = kmw.pack(models, verify=False)
    assert sum(type(layer).__name__.startswith("Windowed") for layer in multi.layers) == 2
    assert not any(type(layer).__name__.startswith("Windowed") for layer in multi.member(0).layers)
    for received, expected in zip(multi.predictor()(x)[:2], oracle.stacked_predictions(models, x, ROWS), strict=False):
        oracle.assert_close(received[1:], expected[1:])
    np.testing.assert_array_equal(multi.predictor()(x)[0], oracle.stacked_predictions(models, x, ROWS)[0])


@pytest.mark.parametrize("kind", ["two by two", "overlapping", "one axis"])
def test_of_equal_numbers_the_same_is_trained(kind):
    shape, layer = KINDS[kind]

    def trained():
        x = inputs = keras.Input(shape)
        x = layer()(k.Dense(4)(x))
        return keras.Model(inputs, k.Dense(1)(k.Flatten()(x)))

    models = oracle.members(trained, NUM_MEMBERS)
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(ROWS, *shape)).astype("float32"), rng.normal(size=(ROWS, 1))
    x[..., 0] = 1.0
    for model in models:  # all numbers of a window are equal, what they come from is not
        kernel, *others = model.get_weights()
        kernel[1] = 0.0
        model.set_weights([kernel, *others])
    multi = kmw.pack(models, verify=False)
    multi.compile(keras.optimizers.SGD(0.01), "mse")
    multi.train_on_batch(x, y)
    for i, model in enumerate(models):
        model.compile(keras.optimizers.SGD(0.01), "mse")
        model.train_on_batch(x, y)
        for received, expected in zip(multi.member_weights(i), model.get_weights(), strict=True):
            oracle.assert_close(received, expected)
