"""Merging members trained on digits: what is left of the barrier, what repair gives, and how long matching takes.

    python benchmarks/merging.py planted groups pair deep attention many time averaging

Each name is one experiment; all of them take some minutes on two cores.
"""

import argparse
import functools
import pathlib
import time

import keras
import numpy as np
from keras import layers as k
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

import keras_multiweight as kmw
from keras_multiweight import merging

PICTURES = pathlib.Path(__file__).parents[1] / "docs" / "pictures"
LOSS = keras.losses.SparseCategoricalCrossentropy(from_logits=True)


@functools.cache
def digits():
    """Training and test images and labels: 1257 and 540 rows."""
    x, y = load_digits(return_X_y=True)
    return train_test_split((x / 16).astype("float32"), y, test_size=0.3, random_state=0)


def mlp(width, depth):
    hidden = [k.Dense(width, activation="relu", kernel_initializer="he_normal", name=f"hidden_{i}") for i in range(depth)]
    return keras.Sequential([keras.Input((64,)), *hidden, k.Dense(10, name="logits")])


def trained(seed, width, depth, rate, decay, epochs):
    """A member: SGD with momentum 0.9, decoupled weight decay, and a learning rate that falls to 0 as a cosine."""
    keras.utils.set_random_seed(seed)
    x, _, y, _ = digits()
    model, batches = mlp(width, depth), len(x) // 64
    schedule = keras.optimizers.schedules.CosineDecay(rate, epochs * batches)
    model.compile(keras.optimizers.SGD(schedule, momentum=0.9, weight_decay=decay), LOSS)
    model.fit(x, y, batch_size=64, epochs=epochs, verbose=0)
    return model


def accuracy(model):
    _, x, _, y = digits()
    return float(np.mean(model.predict(x, verbose=0).argmax(axis=-1) == y))


def row(*cells):
    print("| " + " | ".join(f"{c:.4g}" if isinstance(c, float) else str(c) for c in cells) + " |", flush=True)


def header(title, *cells):
    print(f"\n### {title}\n")
    row(*cells)
    row(*["---"] * len(cells))


# ---- experiments ----


def residual():
    x = inputs = keras.Input((64,))
    x = k.Dense(32)(x)
    for _ in range(4):
        x = k.Add()([x, k.Dense(32)(k.Dense(64, activation="relu")(k.LayerNormalization()(x)))])
    return keras.Model(inputs, k.Dense(10)(k.LayerNormalization()(x)))


def cnn():
    inputs = keras.Input((64,))
    x = k.Reshape((8, 8, 1))(inputs)
    for filters in (16, 32):
        x = k.ReLU()(k.BatchNormalization()(k.Conv2D(filters, 3, use_bias=False)(x)))
    return keras.Model(inputs, k.Dense(10)(k.Flatten()(x)))


def lstm():
    layers = [k.Reshape((8, 8)), k.LSTM(32, return_sequences=True), k.LSTM(32), k.Dense(10)]
    return keras.Sequential([keras.Input((64,)), *layers])


def transformer(width=32):
    """The rows of an image are the words."""
    inputs = keras.Input((64,))
    x = k.Dense(width)(k.Reshape((8, 8))(inputs))
    for _ in range(2):
        x = k.Add()([x, k.MultiHeadAttention(4, width // 4)(*[k.LayerNormalization()(x)] * 2)])
        x = k.Add()([x, k.Dense(width)(k.Dense(2 * width, activation="gelu")(k.LayerNormalization()(x)))])
    return keras.Model(inputs, k.Dense(10)(k.Flatten()(x)))


def small_mlp():
    return mlp(128, 3)


SMALL = [small_mlp, cnn, residual, lstm, transformer]


def planted(seeds=20, epochs=15):
    """A trained model, and itself with all units permuted."""
    columns = ("accuracy", "groups", "recovered exactly", "most sweeps")
    header(f"Planted permutations of trained models, {seeds} seeds", "model", *columns)
    for build in SMALL:
        model, twin, exact, sweeps = trained_by_adam(build, 0, epochs), build(), 0, 0
        spec = merging.PermutationSpec.from_model(model)
        for seed in range(seeds):
            twin.set_weights(spec.permute(model.get_weights(), spec.random(seed)))
            found = merging.weight_matching([model, twin], spec=spec, seed=seed)
            exact += all(np.array_equal(a[0], a[1]) for a in found.arrays())
            sweeps = max(sweeps, found.sweeps)
        row(build.__name__, accuracy(model), len(spec.groups), f"{exact} of {seeds}", sweeps)


def trained_by_adam(build, seed, epochs, decay=0.0):
    keras.utils.set_random_seed(seed)
    x, _, y, _ = digits()
    model, batches = build(), -(-len(x) // 32)
    schedule = keras.optimizers.schedules.CosineDecay(0.003, epochs * batches)
    model.compile(keras.optimizers.AdamW(schedule, weight_decay=decay), LOSS)
    model.fit(x, y, batch_size=32, epochs=epochs, verbose=0)
    return model


def groups():
    """What permuting all groups at random changes, relative to the largest output; weights disturbed at random."""
    header("All groups permuted at random", "model", "groups", "held fast", "largest difference")
    for build in SMALL:
        print_groups(build.__name__, build())
    for name in ("MobileNetV2", "MobileNetV3Small", "ResNet50V2", "DenseNet121", "EfficientNetB0"):
        build = getattr(keras.applications, name)
        print_groups(name, build(weights=None, input_shape=(32, 32, 3), classes=10, classifier_activation=None))


def print_groups(name, model):
    spec = merging.PermutationSpec.from_model(model)
    row(name, len(spec.groups), len(spec.frozen), spec.validate())


def attention(epochs=60, decay=0.2, width=128):
    """Two Transformers and two LSTMs: what REPAIR gives to their layers."""
    header(f"Two members from different seeds, AdamW {epochs} epochs, weight decay {decay}", "", "average", "repaired")
    x = digits()[0]
    for build in (lambda: transformer(width), lstm):
        a, b = (trained_by_adam(build, seed, epochs, decay) for seed in (1, 2))
        row(f"members: {a.name}", f"{accuracy(a):.4f}, {accuracy(b):.4f}", "")
        for align in (None, "weights", "activations"):
            merged = (merging.merge_members([a, b], align=align, data=x, repair=data) for data in (None, x))
            row(align, *map(accuracy, merged))


def pair(rate=0.1, decay=0.05, epochs=100):
    """Two members of 64-512-512-512-10 from different seeds: the barrier of the test loss between them."""
    header(
        f"64-512-512-512-10, SGD {rate}, weight decay {decay}, {epochs} epochs", "", "barrier", "removed", "middle: accuracy"
    )
    a, b = (trained(seed, 512, 3, rate, decay, epochs) for seed in (1, 2))
    _, x, _, y = digits()
    train = digits()[0]
    row("members", "", "", f"{accuracy(a):.4f}, {accuracy(b):.4f}")
    ways = {
        "as they are": lambda: [a, b],
        "weights": lambda: merging.weight_matching([a, b]).models(),
        "weights, identity first": lambda: merging.weight_matching([a, b], init="identity").models(),
        "activations": lambda: merging.activation_matching([a, b], train).models(),
    }
    naive = None
    for name, way in ways.items():
        found = merging.loss_barrier(*way(), (x, y), loss=LOSS, metric="accuracy")
        naive = naive or found.barrier
        row(name, found.barrier, f"{1 - found.barrier / naive:.1%}", float(found.scores[12]))


def deep(rate=0.05, decay=0.02, epochs=60):
    """Ten layers of width 128: what REPAIR gives."""
    header(f"64-10x128-10, SGD {rate}, weight decay {decay}, {epochs} epochs", "aligned by", "average", "repaired")
    a, b = (trained(seed, 128, 10, rate, decay, epochs) for seed in (1, 2))
    row("members", f"{accuracy(a):.4f}, {accuracy(b):.4f}", "")
    x = digits()[0]
    for align in (None, "weights", "activations"):
        row(align, *(accuracy(merging.merge_members([a, b], align=align, data=x, repair=data)) for data in (None, x)))


def many(rate=0.1, epochs=60):
    """Five members of 64-512-512-10 merged, with and without weight decay."""
    columns = ("weight decay", "members", "uniform", *merging.METHODS, "share of members", "mergemany, repaired", "ensemble")
    header(f"Five members of 64-512-512-10, SGD {rate}, {epochs} epochs", *columns)
    train, x, _, y = digits()
    for decay in (0.0, 0.05):
        models = [trained(seed, 512, 2, rate, decay, epochs) for seed in range(5)]
        mean = float(np.mean([accuracy(model) for model in models]))
        together = np.mean([model.predict(x, verbose=0) for model in models], axis=0).argmax(axis=-1)
        merged = {method: accuracy(merging.merge_members(models, method=method)) for method in merging.METHODS}
        mended = accuracy(merging.merge_members(models, repair=train))
        share = f"{merged['mergemany'] / mean:.1%}"
        row(
            decay,
            mean,
            accuracy(merging.uniform_soup(models)),
            *merged.values(),
            share,
            mended,
            float(np.mean(together == y)),
        )


def timing(counts=(2, 4, 8, 12, 16)):
    """Seconds of the processor, which other programs slow less, to match N members of random weights."""
    columns = [*merging.METHODS, "rounds of mergemany", "seconds a round"]
    header("Seconds of the processor to match N members of 64-512-512-512-10", "N", *columns)
    times = []
    for count in counts:
        models = []
        for seed in range(count):
            keras.utils.set_random_seed(seed)
            models.append(mlp(512, 3))
        seconds, rounds = {}, 1
        for method in merging.METHODS:
            start = time.process_time()
            found = merging.weight_matching(models, method=method)
            seconds[method] = time.process_time() - start
            rounds = max(rounds, found.rounds)
        seconds["mergemany, a round"] = seconds["mergemany"] / rounds
        row(count, *(seconds[method] for method in merging.METHODS), rounds, seconds["mergemany, a round"])
        times.append(seconds)
    plot_times(counts, times)


def plot_times(counts, times):
    """Seconds against N for each method, into the guide."""
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(5.5, 3.4), layout="constrained")
    for name in times[0]:
        axes.plot(counts, [seconds[name] for seconds in times], marker="o", label=name)
    axes.set(
        xlabel="members",
        ylabel="seconds of the processor",
        title="Matching 64-512-512-512-10",
        xlim=(0, None),
        ylim=(0, None),
    )
    axes.legend()
    PICTURES.mkdir(parents=True, exist_ok=True)
    figure.savefig(PICTURES / "merging_time.png", dpi=120)


def averaging(count=4, epochs=60):
    """Test accuracy: members on parts of the data, alone and averaged while they train, and one network on all of it."""
    x, _, y, _ = digits()

    def build():
        return mlp(128, 2)

    def trained_members(reshuffle, callbacks):
        multi = kmw.replicate(build, count, seed=0, member_inputs=True)
        start = multi.member_weights(0)  # local SGD begins at one point
        for i in range(count):
            multi.set_member_weights(i, start)
        multi.compile(keras.optimizers.SGD(0.05, momentum=0.9), LOSS, member_targets=True)
        data = merging.SplitDataset(x, y, count, batch_size=16, reshuffle=reshuffle, seed=0)
        multi.fit(data, epochs=epochs, shuffle=False, verbose=0, callbacks=callbacks)
        return kmw.unpack(multi)

    header(f"{count} members of 64-128-128-10 on {count} parts of the digits, {epochs} epochs", "", "mean member", "average")
    period = merging.PeriodicModelAveraging
    for name, reshuffle, callbacks in (
        ("alone, parts kept", False, []),
        ("alone, parts drawn anew", True, []),
        ("averaged each epoch, parts kept", False, [period(1, "epoch")]),
        ("averaged each epoch, parts drawn anew", True, [period(1, "epoch")]),
        ("averaged every 4 batches, parts drawn anew", True, [period(4)]),
        ("pulled by 0.9 every 4 batches, parts drawn anew", True, [period(4, alpha=0.9)]),
    ):
        members = trained_members(reshuffle, callbacks)
        row(name, float(np.mean([accuracy(m) for m in members])), accuracy(merging.uniform_soup(members)))
    keras.utils.set_random_seed(0)
    one = build()
    one.compile(keras.optimizers.SGD(0.05, momentum=0.9), LOSS)
    one.fit(x, y, batch_size=16 * count, epochs=epochs, verbose=0)
    row("one network on all rows", accuracy(one), "")


EXPERIMENTS = {
    "planted": planted,
    "groups": groups,
    "pair": pair,
    "deep": deep,
    "attention": attention,
    "many": many,
    "time": timing,
    "averaging": averaging,
}

if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("experiments", nargs="*", metavar="EXPERIMENT", help="which; all, if left out")
    for name in parser.parse_args().experiments or EXPERIMENTS:
        EXPERIMENTS[name]()
