"""Dtype policies, of whole models and of single layers."""

import keras
from keras import layers as k

from cases.building import BACKEND, case


def _model(**options):
    """Layers of many kinds; `options` go to each of them."""
    image, ids = keras.Input((6, 6, 2)), keras.Input((5,), dtype="int32")
    x = k.Conv2D(3, 3, **options)(image)
    x = k.PReLU(shared_axes=[1, 2], **options)(k.BatchNormalization(**options)(x))
    x = k.Dense(4, activation="softmax", **options)(k.GlobalAveragePooling2D(**options)(x))
    y = k.Embedding(11, 4, mask_zero=True, **options)(ids)
    y = k.LayerNormalization(**options)(k.MultiHeadAttention(2, 3, **options)(y, y))
    y = k.Bidirectional(k.LSTM(2, **options), **options)(k.RMSNormalization(**options)(y))
    y = k.GroupNormalization(1, **options)(y)  # groups of two numbers that are near each other would amplify rounding
    return keras.Model([image, ids], k.Add(**options)([x, y]))


@case
def policy_float64():
    return _model(dtype="float64")


if BACKEND != "jax":  # whose CPU has no attention in float16

    @case
    def policy_mixed_float16():
        return _model(dtype="mixed_float16")


@case
def policy_mixed_bfloat16():
    return _model(dtype="mixed_bfloat16")


@case
def policy_of_the_process():
    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy("mixed_bfloat16")
    try:
        return keras.Sequential([keras.Input((4, 3)), k.Dense(3, activation="relu"), k.GRU(3), k.Dense(2, dtype="float32")])
    finally:
        keras.config.set_dtype_policy(before)


@case
def policies_that_meet():
    """Layers cast what they are given, and their outputs have dtypes of their own."""
    inputs = keras.Input((4, 3))
    x = k.Dense(3, dtype="mixed_float16")(inputs)
    y = k.Dense(3, dtype="float32")(x)
    z = k.Add(dtype="float32")([k.ReLU(dtype="mixed_bfloat16")(x), y])
    wrapped = k.TimeDistributed(k.Dense(2, dtype="float32"), dtype="mixed_bfloat16")(y)
    return keras.Model(inputs, [k.LSTM(2, dtype="mixed_bfloat16")(z), k.LayerNormalization(dtype="float16")(z), wrapped])
