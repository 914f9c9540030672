"""Which layers are bit-equal packed and alone, and which only up to rounding? Prints a table for the backend in use."""

import os
import sys

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras
import numpy as np
from keras import layers as k

import keras_multiweight as kmw

CASES = {
    "Dense": ((32,), lambda: [k.Dense(64, activation="relu"), k.Dense(10)]),
    "Dense, shared input only": ((32,), lambda: [k.Dense(64)]),
    "Dense on sequences": ((12, 32), lambda: [k.Dense(64, activation="gelu"), k.Dense(10)]),
    "Conv2D": ((16, 16, 3), lambda: [k.Conv2D(8, 3, activation="relu"), k.Conv2D(8, 3)]),
    "Conv2D, BatchNormalization": ((16, 16, 3), lambda: [k.Conv2D(8, 3), k.BatchNormalization(), k.ReLU()]),
    "DepthwiseConv2D": ((16, 16, 8), lambda: [k.DepthwiseConv2D(3), k.DepthwiseConv2D(3)]),
    "LayerNormalization": ((12, 32), lambda: [k.Dense(16), k.LayerNormalization()]),
    "LSTM": ((12, 8), lambda: [k.LSTM(16, return_sequences=True), k.LSTM(16)]),
    "GRU": ((12, 8), lambda: [k.GRU(16, return_sequences=True), k.GRU(16)]),
    "Embedding": ((12,), lambda: [k.Embedding(5, 16), k.Flatten()]),
    "pooling and softmax": ((16, 16, 3), lambda: [k.MaxPooling2D(), k.GlobalAveragePooling2D(), k.Softmax()]),
}


def network(shape, layers):
    x = inputs = keras.Input(shape)
    for layer in layers:
        x = layer(x)
    return keras.Model(inputs, x)


def main(num_members=10, rows=64):
    rng = np.random.default_rng(0)
    print(f"{keras.backend.backend()}, {num_members} members, {rows} rows, float32, eager / compiled")
    for title, (shape, make) in CASES.items():
        models = [network(shape, make()) for _ in range(num_members)]
        x = rng.integers(0, 5, (rows, *shape)) if title == "Embedding" else rng.normal(size=(rows, *shape))
        multi, x = kmw.pack(models, verify=False), x.astype("float32")
        eager = kmw.verify(multi, models, x).worst.difference
        packed, single = multi.predict(x), np.stack([m.predict_on_batch(x) for m in models], axis=1)
        compiled = np.abs(packed - single).max() / np.abs(single).max()
        print(f"  {title:30} {eager:.1e} / {compiled:.1e}")


if __name__ == "__main__":
    sys.exit(main())
