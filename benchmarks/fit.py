"""How long does a training step of 50 small networks take: packed, as branches of one model, by hand, and one by one?

    KERAS_BACKEND=tensorflow python benchmarks/fit.py

Each network is 30 -> 10 -> 10 -> 1 (tanh, tanh, sigmoid), trained with Adam and binary cross-entropy. All variants see the
same rows in the same order. Median seconds of an epoch, divided by its steps; the variants have an epoch each in turn, after
one that compiles.
"""

import argparse
import statistics
import time

import keras
import numpy as np
from fit_peers import by_hand
from keras import layers
from predict import header

import keras_multiweight as kmw

RATE = 0.001


def network(width=10):
    inputs = keras.Input((30,))
    x = layers.Dense(width, activation="tanh")(inputs)
    x = layers.Dense(width, activation="tanh")(x)
    return keras.Model(inputs, layers.Dense(1, activation="sigmoid")(x))


def data(rows):
    x = np.random.default_rng(0).standard_normal((rows, 30), "float32")
    return x, (x[:, :1] * x[:, 1:2] > 0).astype("float32")


def branches(models):
    """The networks side by side in one Functional model with the average of their answers, as users build it."""
    inputs = keras.Input((30,))
    return keras.Model(inputs, layers.Average()([model(inputs) for model in models]))


class Clock(keras.callbacks.Callback):
    """Seconds of each epoch."""

    save_freq = "epoch"

    def on_train_begin(self, logs=None):
        self.start, self.seconds = time.perf_counter(), []

    def on_epoch_end(self, epoch, logs=None):
        now = time.perf_counter()
        self.seconds.append(now - self.start)
        self.start = now


def fitting(model, x, y, batch_size, times=1, **compile_args):
    """A function that trains for an epoch by `fit`, and gives its seconds, as many times over."""
    model.compile(keras.optimizers.Adam(RATE), "binary_crossentropy", **compile_args)
    clock = Clock()

    def epoch():
        model.fit(x, y, batch_size=batch_size, shuffle=False, verbose=0, callbacks=[clock])
        return times * clock.seconds[0]

    return epoch


def difference(num_members, width, batch_size):
    """How far 20 packed steps end from those of each member alone, relative to the largest movement of a weight."""
    rows = data(20 * batch_size)
    compiled = {"optimizer": keras.optimizers.Adam(RATE), "loss": "binary_crossentropy", "steps_per_execution": 5}
    fit = {"batch_size": batch_size, "verbose": 0}
    return kmw.testing.assert_trains_alike(lambda: network(width), rows, compiled, fit, num_members=num_members)


def variants(num_members, width, batch_size, rows):
    """Each variant's name, its rows, and a function that makes the function of an epoch."""
    few = max(rows // 50, batch_size * 10)  # slow variants take fewer steps
    models = [network(width) for _ in range(num_members)]
    starts = [np.stack(w) for w in zip(*(model.get_weights() for model in models))]
    pack = lambda: kmw.pack(models, verify=False)  # noqa: E731
    slow = tuple(a[:few] for a in data(rows))
    fast = data(rows)
    auto = {"steps_per_execution": "auto"}
    yield 'packed, `fit`, `steps_per_execution="auto"`', rows, lambda: fitting(pack(), *fast, batch_size, **auto)
    yield "packed, `fit`", few, lambda: fitting(pack(), *slow, batch_size)
    yield "by hand", rows, lambda: by_hand(starts, *fast, batch_size, RATE)
    yield "one by one, `fit`", few, lambda: fitting(network(width), *slow, batch_size, times=num_members)
    yield "branches with `Average`, `fit`", few, lambda: fitting(branches(models), *slow, batch_size)


def table(found, batch_size, repeats):
    """Print the times of variants, the first of which is the reference."""
    runs = {name: make() for name, _, make in found}
    first = {name: run() for name, run in runs.items()}
    turns = [{name: run() for name, run in runs.items()} for _ in range(repeats)]
    steps = {name: -(-rows // batch_size) for name, rows, _ in found}
    times = {name: 1e3 * statistics.median(turn[name] for turn in turns) / steps[name] for name in runs}
    reference = times[found[0][0]]
    print("| variant | ms a step | ratio | first epoch, s |\n| --- | ---: | ---: | ---: |")
    for name, milliseconds in times.items():
        print(f"| {name} | {milliseconds:,.4f} | {milliseconds / reference:,.2f} | {first[name]:,.1f} |", flush=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--members", type=int, default=50)
    parser.add_argument("--width", type=int, default=10)
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--rows", type=int, default=10_000)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--skip", nargs="*", default=[], help="variants to leave out: branches, one, difference")
    options = parser.parse_args()
    print(header(options.members, options.repeats))
    print(f"width {options.width}, batch size {options.batch}, {options.rows} rows\n")
    found = list(variants(options.members, options.width, options.batch, options.rows))
    table([v for v in found if v[0].split()[0] not in options.skip], options.batch, options.repeats)
    if "difference" not in options.skip:
        found = difference(options.members, options.width, options.batch)
        print(f"\nPacked members after 20 steps, against the same alone: {found:.1e} of the largest movement of a weight")


if __name__ == "__main__":
    main()
