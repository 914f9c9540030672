"""How long does it take to get the weights of 100 saved models: by Keras, one after another, and into one pack?

    KERAS_BACKEND=tensorflow python benchmarks/loading.py

The files of a row hold the same weights. `pack` without its self-check is the reading and the making of the packed model.
"""

import argparse
import datetime
import os
import pathlib
import platform
import tempfile

import keras
import numpy as np
from predict import version
from timing import interleaved

import keras_multiweight as kmw
from keras_multiweight.packing.files import ModelFiles
from keras_multiweight.packing.pack import collect_weights

FORMATS = (".keras", ".h5", ".weights.h5")
BASELINE = "loop of `load_model`"


def mlp():
    x = keras.Input((30,))
    y = keras.layers.Dense(64, activation="relu")(keras.layers.Dense(64, activation="relu")(x))
    return keras.Model(x, keras.layers.Dense(1)(y))


def cnn():
    """Batch normalisation and a residual: 22 layers."""
    x = keras.Input((16, 16, 3))
    y = keras.layers.Conv2D(16, 3, padding="same")(x)
    for _ in range(5):
        z = keras.layers.ReLU()(keras.layers.BatchNormalization()(y))
        y = keras.layers.Add()([y, keras.layers.Conv2D(16, 3, padding="same")(z)])
    return keras.Model(x, keras.layers.Dense(10)(keras.layers.GlobalAveragePooling2D()(y)))


def save_all(build, count, folder):
    """The same models in every format: `{ending: paths}`, and one of them."""
    paths = {ending: [folder / f"{i}{ending}" for i in range(count)] for ending in FORMATS}
    for i in range(count):
        model = build()
        for ending in FORMATS:
            (model.save_weights if ending == ".weights.h5" else model.save)(paths[ending][i])
    return paths, model


def read(paths, template=None):
    """The weights of all members, stacked, without a packed model."""
    source = ModelFiles(paths, template=template)
    return collect_weights(source, source.template())


def variants(paths, template):
    """The ways to get all weights, as functions without arguments."""
    whole = {"loop of `load_model`": lambda: [keras.models.load_model(path, compile=False) for path in paths[".keras"]]}
    one_by_one = {"loop of `load_weights`": lambda: [template.load_weights(path) for path in paths[".weights.h5"]]}
    reads = {f"read `{ending}`": lambda ending=ending: read(paths[ending], template) for ending in FORMATS}
    packs = {
        f"`pack` of `{ending}`": lambda ending=ending: kmw.pack(paths[ending], template=template, verify=False)
        for ending in FORMATS
    }
    return {**whole, **one_by_one, **reads, **packs}


def check(paths):
    """What is packed is what Keras loads."""
    multi = kmw.pack(paths[".keras"], verify=False)
    for i in (0, len(paths[".keras"]) - 1):
        loaded = keras.models.load_model(paths[".keras"][i], compile=False)
        assert all(np.array_equal(a, b) for a, b in zip(multi.member_weights(i), loaded.get_weights(), strict=True))


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--files", type=int, default=100)
    parser.add_argument("--repeats", type=int, default=5)
    options = parser.parse_args()
    backend = keras.backend.backend()
    machine = f"{os.cpu_count()} CPU cores, {platform.machine()}, keras {keras.__version__}, {backend} {version(backend)}"
    print(f"{options.files} files, median of {options.repeats} interleaved turns. {datetime.date.today()}. {machine}.\n")
    print("| seconds | MLP, 6 weights | ratio | CNN, 34 weights | ratio |\n| --- | ---: | ---: | ---: | ---: |")
    columns = []
    for build in (mlp, cnn):
        with tempfile.TemporaryDirectory() as folder:
            paths, template = save_all(build, options.files, pathlib.Path(folder))
            check(paths)
            columns.append(interleaved(variants(paths, template), options.repeats))
    for name in columns[0]:
        cells = (f"{seconds[name]:.2f} | {seconds[name] / seconds[BASELINE]:.2f}" for seconds in columns)
        print(f"| {name} | {' | '.join(cells)} |")


if __name__ == "__main__":
    main()
