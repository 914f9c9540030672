"""Programs of few rows on JAX, which XLA's library for CPUs computes in few passes."""

import keras
import numpy as np
import oracle
import pytest
from keras import layers as k

import keras_multiweight as kmw
from keras_multiweight.prediction import lowerings

pytestmark = pytest.mark.skipif(keras.backend.backend() != "jax", reason="an option of XLA, by JAX")


def build(activation):
    x = inputs = keras.Input((7,))
    for width in (33, 8):
        x = k.LayerNormalization()(k.Dense(width, activation=activation)(x))
    return keras.Model(inputs, [k.Dense(3, activation="softmax")(x), k.Dense(1)(x)])


@pytest.mark.parametrize("activation", ["relu", "gelu", "tanh", "softmax"])
@pytest.mark.parametrize("rows", [1, 5, 256, 257])
def test_products_and_what_is_around_them_are_those_of_the_members(activation, rows):
    models = oracle.members(lambda: build(activation), 5)
    x = np.random.default_rng(0).normal(size=(rows, 7)).astype("float32")
    for mine, theirs in zip(kmw.pack(models).predictor(batch_size=rows)(x), oracle.stacked_predictions(models, x, rows)):
        oracle.assert_close(mine, theirs)


def test_a_version_of_xla_without_the_option_compiles_without(monkeypatch):
    import jax

    def jit(function, compiler_options=None):
        if compiler_options:
            raise jax.errors.JaxRuntimeError("INVALID_ARGUMENT: No such compile option")
        return function

    monkeypatch.setattr(jax, "jit", jit)
    assert lowerings._jit_fused.__wrapped__() is jit
