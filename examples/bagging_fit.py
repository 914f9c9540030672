"""Bagging for numbers: how good is the average of 25 small networks, trained in one `fit`, and how sure is it?

Each network sees its own bootstrap sample. The rows that it did not draw say how good the average is without holding rows
out; over several splits into training and test rows both scores are compared. Timed beside scikit-learn's bagging and a loop
of Keras fits, of which two networks are trained first, and the time of all is extrapolated from the last.
"""

import time

import keras
import numpy as np
from sklearn.datasets import load_diabetes
from sklearn.ensemble import BaggingRegressor
from sklearn.metrics import r2_score
from sklearn.model_selection import train_test_split
from sklearn.neural_network import MLPRegressor
from sklearn.preprocessing import StandardScaler

import keras_multiweight as kmw

HIDDEN, BATCH, RATE = (32, 32), 32, 0.0005  # scikit-learn fails where a batch holds no drawn row


def diabetes(seed=0):
    """Training and test rows of inputs and targets, scaled by the training rows."""
    x, y = load_diabetes(return_X_y=True)
    x, x_test, y, y_test = train_test_split(x, y[:, None], test_size=0.3, random_state=seed)
    for_x, for_y = StandardScaler().fit(x), StandardScaler().fit(y)
    return for_x.transform(x), for_x.transform(x_test), for_y.transform(y), for_y.transform(y_test)


def network(features):
    x = inputs = keras.Input((features,))
    for units in HIDDEN:
        x = keras.layers.Dense(units, activation="relu")(x)
    return keras.Model(inputs, keras.layers.Dense(1)(x))


def bagged(x, y, num_members, epochs):
    """The members in one model, trained, and the rows that each drew."""
    bootstrap = kmw.Bootstrap(len(x), num_members, seed=0)
    members = kmw.replicate(network(x.shape[1]), num_members, seed=0)
    xla = keras.backend.backend() == "jax"  # for TensorFlow it takes as long as the training
    members.compile(keras.optimizers.Adam(RATE), "mse", steps_per_execution="auto", jit_compile=xla)
    members.fit(x, y, sample_weight=bootstrap.weights, batch_size=BATCH, epochs=epochs, verbose=0)
    return members, bootstrap


def sklearn_bagging(x, y, num_members, epochs):
    options = {"batch_size": BATCH, "learning_rate_init": RATE, "alpha": 0.0, "tol": 0.0}
    single = MLPRegressor(hidden_layer_sizes=HIDDEN, max_iter=epochs, n_iter_no_change=epochs, **options)
    return BaggingRegressor(single, num_members, random_state=0).fit(x, y[:, 0])


def keras_fit(x, y, epochs):
    model = network(x.shape[1])
    model.compile(keras.optimizers.Adam(RATE), "mse")
    model.fit(x, y, batch_size=BATCH, epochs=epochs, verbose=0)


def timed(function, *args):
    start = time.perf_counter()
    result = function(*args)
    return result, time.perf_counter() - start


def compare(x, x_test, y, y_test, num_members, epochs, seconds_of_ours, seconds_of_keras):
    theirs, seconds = timed(sklearn_bagging, x, y, num_members, epochs)
    print(f"R2 on test rows, scikit-learn: {r2_score(y_test, theirs.predict(x_test)):.3f}")
    print(f"one fit: {seconds_of_ours:.1f} s; scikit-learn: {seconds:.1f} s, {seconds / seconds_of_ours:.1f} times")
    loop = num_members * seconds_of_keras
    print(f"loop of Keras fits, extrapolated from 2: {loop:.1f} s, {loop / seconds_of_ours:.1f} times")


def over_splits(splits, num_members, epochs):
    """The differences of two R2 over splits: out of bag less held out, and held out less that of the mean member."""
    found = []
    for seed in range(splits):
        x, x_test, y, y_test = diabetes(seed)
        members, bootstrap = bagged(x, y, num_members, epochs)
        answers = members.predict(x_test, verbose=0)
        held_out = r2_score(y_test, answers.mean(axis=1))
        alone = np.mean([r2_score(y_test, answers[:, i]) for i in range(num_members)])
        found.append((members.oob_score(x, y, bootstrap, r2_score) - held_out, held_out - alone))
    for name, values in zip(("out of bag less held out", "average less mean member"), np.transpose(found)):
        error = values.std(ddof=1) / np.sqrt(splits)
        print(f"R2 over {splits} splits, {name}: {values.mean():+.3f}, with a standard error of {error:.3f}")


def main(num_members=25, epochs=100, side_by_side=True, splits=0):
    """The R2 on test rows: the mean over the members, and that of their average; and that of the rows left out."""
    keras.utils.set_random_seed(0)
    x, x_test, y, y_test = diabetes()
    seconds_of_keras = [timed(keras_fit, x, y, epochs)[1] for _ in range(2 * side_by_side)]
    (members, bootstrap), seconds = timed(bagged, x, y, num_members, epochs)

    answers = members.predict(x_test, verbose=0)  # (B, N, 1)
    new = answers.mean(axis=1)
    mean_member = np.mean([r2_score(y_test, answers[:, i]) for i in range(num_members)])
    ensemble = r2_score(y_test, members.average().predict(x_test, verbose=0))
    out_of_bag = members.oob_score(x, y, bootstrap, r2_score)
    print(f"R2 on test rows of {num_members} networks, on average: {mean_member:.3f}")
    noise = np.std([r2_score(y_test[rows], new[rows]) for rows in kmw.Bootstrap(len(new), 200, seed=0).indices])
    print(f"R2 on test rows of their average: {ensemble:.3f}, with a standard error of {noise:.3f}")
    print(f"R2 on the rows left out: {out_of_bag:.3f}")

    held = len(x_test) // 2
    intervals = kmw.bagging.ConformalIntervals(alpha=0.1).fit(new[:held], y_test[:held])
    low, high = intervals.predict(new[held:])
    inside = np.mean((low <= y_test[held:]) & (y_test[held:] <= high))
    print(f"intervals of {2 * intervals.radius.item():.2f} standard deviations hold {inside:.0%} of new rows, for 90% asked")
    if side_by_side:
        compare(x, x_test, y, y_test, num_members, epochs, seconds, seconds_of_keras[-1])
    if splits:
        over_splits(splits, num_members, epochs)
    return mean_member, ensemble, out_of_bag


if __name__ == "__main__":
    main(splits=5)
