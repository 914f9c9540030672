"""Two identical networks were trained on two halves of a data set: how do their weight matrices become one network?

Four ways, beside the two members and their ensemble. Averaging the weights as they are fails, because unit 7 of one network
is another feature than unit 7 of the other. Either (A) the networks are averaged every so often while they train, or (B) the
units are matched first: by their weights, or by their activations, and the average is repaired.

    python examples/merge_two_networks.py barrier.png

draws the loss on the line between the two, before and after matching, if Matplotlib is installed.
"""

import sys

import keras
import numpy as np
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

from keras_multiweight import merging

LOSS = keras.losses.SparseCategoricalCrossentropy(from_logits=True)


def digits():
    """Training and test images and labels."""
    x, y = load_digits(return_X_y=True)
    return train_test_split((x / 16).astype("float32"), y, test_size=0.3, random_state=0)


def network(width):
    hidden = [keras.layers.Dense(width, activation="relu") for _ in range(2)]
    return keras.Sequential([keras.Input((64,)), *hidden, keras.layers.Dense(10)])


def compiled(model, batches):
    """Weight decay and a high learning rate that falls to zero: with these, members can be merged."""
    rate = keras.optimizers.schedules.CosineDecay(0.1, batches)
    model.compile(keras.optimizers.SGD(rate, momentum=0.9, weight_decay=0.02), LOSS)
    return model


def halves(rows, rng):
    return np.array_split(rng.permutation(rows), 2)


def trained_alone(x, y, width, epochs):
    """Each network trains on its own half."""
    models = []
    for rows in halves(len(x), np.random.default_rng(0)):
        models.append(compiled(network(width), epochs * -(-len(rows) // 32)))
        models[-1].fit(x[rows], y[rows], batch_size=32, epochs=epochs, verbose=0)
    return models


def averaged_while_training(x, y, width, epochs):
    """Way A: after every epoch both go on from their average, each on a new random half."""
    rng, models = np.random.default_rng(1), [compiled(network(width), epochs * -(-len(x) // 64)) for _ in range(2)]
    for _ in range(epochs):
        for model, rows in zip(models, halves(len(x), rng)):
            model.fit(x[rows], y[rows], batch_size=32, verbose=0)
        average = merging.uniform_soup(models).get_weights()
        for model in models:
            model.set_weights(average)
    return models[0]


def accuracy(answers, y):
    return float(np.mean(np.argmax(answers, axis=-1) == y))


def draw(lines, path):
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(5.5, 3.4), layout="constrained")
    for name, line in lines.items():
        axes.plot(line.positions, line.losses, label=name)
    axes.set(xlabel="from one network (0) to the other (1)", ylabel="loss on test images", ylim=(0, None))
    axes.legend(title="matched")
    figure.savefig(path, dpi=120)


def main(width=512, epochs=60, plot=None):
    """The accuracy on test images of the members, their ensemble, and the merged networks."""
    keras.utils.set_random_seed(0)
    x, x_test, y, y_test = digits()
    a, b = trained_alone(x, y, width, epochs)
    by_weights, by_activations = merging.weight_matching([a, b]), merging.activation_matching([a, b], x)
    networks = {
        "network trained on one half": a,
        "network trained on the other half": b,
        "average as they are": merging.uniform_soup([a, b]),
        "A: averaged while training": averaged_while_training(x, y, width, epochs),
        "B: matched by weights": merging.merge_members([a, b], align=by_weights),
        "B: matched by activations, repaired": merging.merge_members([a, b], align=by_activations, repair=x),
    }
    answers = {name: model.predict(x_test, verbose=0) for name, model in networks.items()}
    answers["ensemble of the two"] = sum(keras.ops.convert_to_numpy(keras.ops.softmax(m.predict(x_test, verbose=0)))
                                         for m in (a, b))  # fmt: skip
    found = {name: accuracy(answer, y_test) for name, answer in answers.items()}
    for name, value in found.items():
        print(f"{name:36} {value:.4f}")

    pairs = {"not at all": [a, b], "by weights": by_weights.models(), "by activations": by_activations.models()}
    lines = {name: merging.loss_barrier(*pair, (x_test, y_test), loss=LOSS, steps=25) for name, pair in pairs.items()}
    print("Loss above the straight line between the two, at most:")
    for name, line in lines.items():
        print(f"{name:36} {line.barrier:.4f}")
    if plot:
        draw(lines, plot)
    return found, {name: line.barrier for name, line in lines.items()}


if __name__ == "__main__":
    main(plot=sys.argv[1] if len(sys.argv) > 1 else None)
