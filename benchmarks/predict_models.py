"""The models that `predict_speed.py` times. Each function gives a fresh Keras model of two or one inputs."""

import itertools
import math

import keras
from keras import layers as k

NUMBERS = itertools.count()  # for names: models side by side must differ in them


def mlp(width=64):
    """32 + 32 features -> Dense -> Dense -> Dense 1."""
    inputs = [keras.Input((32,)), keras.Input((32,))]
    x = k.Concatenate()(inputs)
    x = k.Dense(width, activation="relu")(x)
    x = k.Dense(width, activation="relu")(x)
    return keras.Model(inputs, k.Dense(1)(x))


def cnn():
    """Handwritten digits: 8x8x1 -> Conv 16 -> Conv 32 -> pool -> Dense 10."""
    x = inputs = keras.Input((8, 8, 1))
    x = k.Conv2D(16, 3, padding="same", activation="relu")(x)
    x = k.MaxPooling2D()(k.Conv2D(32, 3, padding="same", activation="relu")(x))
    return keras.Model(inputs, k.Dense(10, activation="softmax")(k.Flatten()(x)))


def lstm():
    """32 steps of 8 features -> LSTM 32 -> Dense 1."""
    inputs = keras.Input((32, 8))
    return keras.Model(inputs, k.Dense(1)(k.LSTM(32)(inputs)))


def transformer():
    """16 tokens of 100 words -> two blocks of width 32 with 4 heads -> Dense 2."""
    inputs = keras.Input((16,), dtype="int32")
    x = k.Embedding(100, 32)(inputs)
    for _ in range(2):
        y = k.LayerNormalization()(x)
        x = k.Add()([x, k.MultiHeadAttention(4, 8)(y, y)])
        y = k.Dense(64, activation="gelu")(k.LayerNormalization()(x))
        x = k.Add()([x, k.Dense(32)(y)])
    return keras.Model(inputs, k.Dense(2)(k.GlobalAveragePooling1D()(x)))


def mobilenet():
    """MobileNetV2 on 96x96x3, random weights."""
    return keras.applications.MobileNetV2((96, 96, 3), weights=None, classes=10, name=f"mobilenet_{next(NUMBERS)}")


def resnet():
    """ResNet50 on 96x96x3, random weights."""
    return keras.applications.ResNet50(weights=None, input_shape=(96, 96, 3), classes=10, name=f"resnet_{next(NUMBERS)}")


def flops(model):
    """Multiplications and additions of a row, of the products and convolutions in a model; few else count."""
    return sum(map(_flops, model.layers))


def _flops(layer):
    kernels = [math.prod(w.shape) for w in layer.weights if len(w.shape) > 1 and not isinstance(layer, k.Embedding)]
    shape = layer.input.shape if isinstance(layer, k.LSTM) else layer.output.shape if kernels else ()
    return 2 * sum(kernels) * math.prod(shape[1:-1])


MODELS = {  # name -> (build, numbers of members, numbers of rows)
    "digits CNN": (cnn, (10, 50), (1, 32, 256)),
    "LSTM": (lstm, (20,), (1, 32, 256)),
    "Transformer": (transformer, (10,), (1, 32, 256)),
    "MobileNetV2": (mobilenet, (3, 5), (1, 16)),
    "ResNet50": (resnet, (3, 5), (1, 16)),
}
