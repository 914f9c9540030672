"""Writes the packed model of a release, and what it answers: `python tests/saved/make.py`. Old ones stay."""

import pathlib

import keras
import numpy as np
from keras import layers as k

import keras_multiweight as kmw

HERE = pathlib.Path(__file__).parent


def build():
    image, text = keras.Input((6, 6, 1), name="image"), keras.Input((5,), dtype="int32", name="text")
    x = k.Conv2D(3, 3, activation="relu")(image)
    x = k.GlobalAveragePooling2D()(k.BatchNormalization()(x))
    y = k.LSTM(3)(k.Embedding(7, 4, mask_zero=True)(text))
    return keras.Model([image, text], k.Dense(2, activation="softmax")(k.Concatenate()([x, y]) * 2.0))


def inputs():
    rng = np.random.default_rng(0)
    return {"image": rng.normal(size=(4, 6, 6, 1)).astype("float32"), "text": rng.integers(0, 7, (4, 5)).astype("int32")}


if __name__ == "__main__":
    multi = kmw.replicate(build(), 3, seed=0)
    multi.save(HERE / f"packed-{kmw.__version__}.keras")
    np.save(HERE / f"packed-{kmw.__version__}.npy", multi.predict(inputs()))
