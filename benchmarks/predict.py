"""How long do 50 two-input MLPs take to answer: one after another, as branches of one model, and packed?

    KERAS_BACKEND=tensorflow python benchmarks/predict.py

All variants give the same numbers for the same rows, in one batch.
"""

import argparse
import datetime
import importlib.metadata
import logging
import os
import platform

import keras
import numpy as np
from rich.console import Console
from rich.table import Table
from timing import interleaved

import keras_multiweight as kmw

PACKED = "packed `predict`"


def mlp(name):
    """Inputs of 32 and 32 features, concatenated -> Dense 64 -> Dense 64 -> Dense 1."""
    inputs = [keras.Input((32,)), keras.Input((32,))]
    x = keras.layers.Concatenate()(inputs)
    x = keras.layers.Dense(64, activation="relu")(x)
    x = keras.layers.Dense(64, activation="relu")(x)
    return keras.Model(inputs, keras.layers.Dense(1)(x), name=name)


def branches(models):
    """The models side by side on the same inputs, in one Functional model with one output each."""
    inputs = [keras.Input(x.shape[1:]) for x in models[0].inputs]
    return keras.Model(inputs, [model(inputs) for model in models])


def variants(models, side_by_side, multi, x):
    """The ways to ask all models, as functions without arguments."""
    options = {"batch_size": len(x[0]), "verbose": 0}
    return {
        "loop of `predict`": lambda: [model.predict(x, **options) for model in models],
        "loop of `predict_on_batch`": lambda: [model.predict_on_batch(x) for model in models],
        "branches, `predict`": lambda: side_by_side.predict(x, **options),
        "branches, `predict_on_batch`": lambda: side_by_side.predict_on_batch(x),
        PACKED: lambda: multi.predict(x, **options),
        "packed `predict_on_batch`": lambda: multi.predict_on_batch(x),
    }


def difference(models, multi, x):
    """The largest difference between a packed and a single answer, relative to the largest number."""
    single = np.stack([model.predict_on_batch(x) for model in models], axis=1)
    return np.abs(multi.predict(x) - single).max() / np.abs(single).max()


def measure(num_members, rows, repeats):
    """Seconds of each variant for each number of rows, and the largest relative difference."""
    keras.utils.set_random_seed(0)
    models = [mlp(f"mlp_{i}") for i in range(num_members)]
    side_by_side, multi = branches(models), kmw.pack(models)
    seconds, differences = {}, []
    for b in rows:
        x = [np.random.default_rng(i).standard_normal((b, 32), "float32") for i in range(2)]
        seconds[b] = interleaved(variants(models, side_by_side, multi, x), repeats)
        differences.append(difference(models, multi, x))
    return seconds, max(differences)


def header(num_members, repeats):
    backend = keras.backend.backend()
    versions = ", ".join(f"{name} {version(name)}" for name in ("keras-multiweight", "keras", "numpy", backend))
    return (
        f"{num_members} members, median of {repeats} interleaved turns. Backend {backend}. {datetime.date.today()}. "
        f"{os.cpu_count()} CPU cores, {platform.machine()}, Python {platform.python_version()}, {versions}."
    )


def version(package):
    """The version of an installed package; TensorFlow has a name of its own for machines without a GPU."""
    if package == "keras-multiweight":
        return kmw.__version__
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return importlib.metadata.version(f"{package}-cpu")


def cells(seconds):
    """The table's rows: a variant, then milliseconds and the ratio to packed `predict` for each number of rows."""
    for name in next(iter(seconds.values())):
        pairs = [(f"{1e3 * s[name]:,.2f}", f"{s[name] / s[PACKED]:,.1f}x") for s in seconds.values()]
        yield name, *(cell for pair in pairs for cell in pair)


def columns(seconds):
    return ["milliseconds", *(c for b in seconds for c in (f"{b:,} row{'s' * (b > 1)}", "ratio"))]


def print_table(seconds, title):
    table = Table(title=title, title_justify="left")
    for i, name in enumerate(columns(seconds)):
        table.add_column(name, justify="right" if i else "left", no_wrap=True)
    for name, *numbers in cells(seconds):
        table.add_row(name.replace("`", ""), *numbers, style="bold" if name == PACKED else None)
    Console(width=max(Console().width, 110)).print(table)


def markdown_table(seconds):
    head = columns(seconds)
    lines = [head, ["---", *["---:"] * (len(head) - 1)], *cells(seconds)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--members", type=int, default=50)
    parser.add_argument("--rows", type=int, nargs="+", default=[1, 32, 1024])
    parser.add_argument("--repeats", type=int, default=9)
    parser.add_argument("--markdown", action="store_true", help="print a Markdown table")
    options = parser.parse_args()
    logging.getLogger("tensorflow").setLevel(logging.ERROR)  # it warns of the many models
    seconds, largest = measure(options.members, options.rows, options.repeats)
    title = header(options.members, options.repeats)
    if options.markdown:
        print(f"{title}\n\n{markdown_table(seconds)}\n")
    else:
        print_table(seconds, title)
    print(f"Largest relative difference between packed and single answers: {largest:.1e}")


if __name__ == "__main__":
    main()
