"""50 small networks on bootstrap samples: how good, and how fast, beside scikit-learn's bagging and a loop of Keras fits?

All three train the same networks, with Adam, batches of one size and as many epochs. Of the loop two networks are trained,
and the time of all is extrapolated from the last; they come first, so that no one's clock has the start of the backend. Over
several splits into training and test rows the out-of-bag score is compared with that of the test rows.
"""

import time

import keras
import numpy as np
from sklearn.datasets import load_breast_cancer
from sklearn.ensemble import BaggingClassifier
from sklearn.model_selection import train_test_split
from sklearn.neural_network import MLPClassifier
from sklearn.preprocessing import StandardScaler

import keras_multiweight as kmw

HIDDEN, BATCH, RATE = (10, 10), 16, 0.002


def breast_cancer(seed=0):
    """Training and test rows of 30 numbers, scaled by the training rows, and their classes."""
    x, y = load_breast_cancer(return_X_y=True)
    x, x_test, y, y_test = train_test_split(x, y, test_size=0.3, random_state=seed, stratify=y)
    scaler = StandardScaler().fit(x)
    return scaler.transform(x), scaler.transform(x_test), y, y_test


def multi_bagging(num_members, epochs):
    return kmw.sklearn.MultiBaggingClassifier(
        kmw.sklearn.MLP(HIDDEN),
        num_members,
        oob_score=True,
        learning_rate=RATE,
        batch_size=BATCH,
        epochs=epochs,
        random_state=0,
        compile_args={"jit_compile": keras.backend.backend() == "jax"},  # XLA for TensorFlow takes as long as the training
    )


def sklearn_bagging(num_members, epochs):
    options = {"batch_size": BATCH, "learning_rate_init": RATE, "alpha": 0.0, "tol": 0.0}
    network = MLPClassifier(HIDDEN, max_iter=epochs, n_iter_no_change=epochs, **options)
    return BaggingClassifier(network, num_members, random_state=0)


def seconds_of_one_keras_fit(x, y, epochs, repeats):
    for _ in range(repeats):
        model = kmw.sklearn.MLP(HIDDEN)(x.shape[1], 2, "softmax")
        model.compile(keras.optimizers.Adam(RATE), "sparse_categorical_crossentropy")
        seconds = timed(lambda model=model: model.fit(x, y, batch_size=BATCH, epochs=epochs, verbose=0))
    return seconds


def timed(function):
    start = time.perf_counter()
    function()
    return time.perf_counter() - start


def accuracies(model, x_test, y_test):
    """On test rows: of the members, on average, and of the ensemble; and out of bag."""
    members = [np.mean(model.classes_[p.argmax(axis=1)] == y_test) for p in np.moveaxis(model.multi_.predict(x_test), 1, 0)]
    return {"mean member": np.mean(members), "ensemble": model.score(x_test, y_test), "out of bag": model.oob_score_}


def over_splits(splits, num_members, epochs):
    found = []
    for seed in range(splits):
        x, x_test, y, y_test = breast_cancer(seed)
        member, ensemble, out_of_bag = accuracies(multi_bagging(num_members, epochs).fit(x, y), x_test, y_test).values()
        found.append((out_of_bag - ensemble, ensemble - member))
    for name, values in zip(("out of bag less held out", "ensemble less mean member"), np.transpose(found)):
        error = values.std(ddof=1) / np.sqrt(splits)
        print(f"accuracy over {splits} splits, {name}: {values.mean():+.4f}, with a standard error of {error:.4f}")


def main(num_members=50, epochs=50, loop_members=2, splits=0):
    """Scores and seconds by name."""
    keras.utils.set_random_seed(0)  # which imports TensorFlow, where it is installed: on no one's clock
    x, x_test, y, y_test = breast_cancer()
    seconds = {}
    if loop_members:
        seconds["Keras loop"] = num_members * seconds_of_one_keras_fit(x, y, epochs, loop_members)
    ours = multi_bagging(num_members, epochs)
    seconds["one fit"] = timed(lambda: ours.fit(x, y))
    scores = accuracies(ours, x_test, y_test)
    if loop_members:
        theirs = sklearn_bagging(num_members, epochs)
        seconds["scikit-learn"] = timed(lambda: theirs.fit(x, y))
        scores["scikit-learn"] = theirs.score(x_test, y_test)
    for name, score in scores.items():
        print(f"accuracy, {name}: {score:.4f}")
    for name, taken in seconds.items():
        extrapolated = f", extrapolated from {loop_members} fits" if name == "Keras loop" else ""
        print(f"{name}: {taken:.1f} s, {taken / seconds['one fit']:.1f} times{extrapolated}")
    if splits:
        over_splits(splits, num_members, epochs)
    return scores, seconds


if __name__ == "__main__":
    main(splits=5)
