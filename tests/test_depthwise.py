"""Depthwise convolutions of all kinds against the loop over members: answers, and training steps."""

import keras
import numpy as np
import oracle
import pytest
from keras import layers as k

import keras_multiweight as kmw

KINDS = {
    "same, odd": ((7, 6, 3), lambda: k.DepthwiseConv2D(3, padding="same")),
    "same, even": ((7, 6, 3), lambda: k.DepthwiseConv2D((2, 4), padding="same", use_bias=False)),
    "strides": ((7, 6, 3), lambda: k.DepthwiseConv2D(3, strides=2, padding="same")),
    "strides, larger than the kernel": ((8, 9, 3), lambda: k.DepthwiseConv2D(2, strides=3, padding="same")),
    "strides, valid": ((9, 8, 3), lambda: k.DepthwiseConv2D((3, 2), strides=2)),
    "dilated": ((9, 8, 3), lambda: k.DepthwiseConv2D(3, dilation_rate=2, padding="same")),
    "dilated, valid": ((9, 8, 3), lambda: k.DepthwiseConv2D(2, dilation_rate=3, activation="relu")),
    "several a channel": ((6, 5, 2), lambda: k.DepthwiseConv2D(3, depth_multiplier=3, activation="softmax")),
    "many taps": ((5, 5, 2), lambda: k.DepthwiseConv2D(9, padding="same")),
    "one axis": ((7, 3), lambda: k.DepthwiseConv1D(3, strides=2, depth_multiplier=2, padding="same")),
    "one axis, dilated": ((9, 3), lambda: k.DepthwiseConv1D(2, dilation_rate=2)),
    "separable": ((6, 7, 3), lambda: k.SeparableConv2D(4, 3, strides=2, depth_multiplier=2, padding="same")),
    "separable, one axis": ((9, 3), lambda: k.SeparableConv1D(4, 3, dilation_rate=2)),
}
NUM_MEMBERS, ROWS = 3, 4


def network(shape, layer):
    """A shared input, then an input of each member's own."""
    inputs = keras.Input(shape)
    kernel = 3 if len(shape) == 3 else 2
    first = (k.DepthwiseConv2D if len(shape) == 3 else k.DepthwiseConv1D)(kernel, padding="same", name="first")(inputs)
    return keras.Model(inputs, k.Dense(1)(k.Flatten()(layer()(first))))


@pytest.mark.parametrize("kind", KINDS)
def test_depthwise_convolutions_are_each_members_own(kind):
    shape, layer = KINDS[kind]
    models = oracle.members(lambda: network(shape, layer), NUM_MEMBERS)
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(ROWS, *shape)).astype("float32"), rng.normal(size=(ROWS, 1)).astype("float32")
    multi = kmw.pack(models, verify=False)
    oracle.assert_close(multi.predict(x), oracle.stacked_predictions(models, x, ROWS)[0])
    before = [model.get_weights() for model in models]
    multi.compile(keras.optimizers.SGD(0.1), "mse")
    multi.train_on_batch(x, y)
    for i, (model, start) in enumerate(zip(models, before)):
        model.compile(keras.optimizers.SGD(0.1), "mse")
        model.train_on_batch(x, y)
        moved = max(np.abs(after - was).max() for after, was in zip(model.get_weights(), start))
        for wanted, received in zip(model.get_weights(), multi.member(i).get_weights(), strict=True):
            oracle.assert_close(received, wanted, f"weights of member {i}", scale=moved)
