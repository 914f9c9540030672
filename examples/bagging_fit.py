"""Bagging: how much better is the average of 20 small networks than one of them, all trained in one `fit`?

Each network sees its own bootstrap sample: rows drawn with replacement, as weights of the rows for each member.
"""

import keras
import numpy as np
from sklearn.datasets import load_diabetes
from sklearn.metrics import r2_score
from sklearn.model_selection import train_test_split
from sklearn.preprocessing import StandardScaler

import keras_multiweight as kmw


def diabetes():
    """Training and test rows of inputs and targets, scaled by the training rows."""
    x, y = load_diabetes(return_X_y=True)
    x, x_test, y, y_test = train_test_split(x, y[:, None], test_size=0.3, random_state=0)
    for_x, for_y = StandardScaler().fit(x), StandardScaler().fit(y)
    return for_x.transform(x), for_x.transform(x_test), for_y.transform(y), for_y.transform(y_test)


def network(features):
    x = inputs = keras.Input((features,))
    for _ in range(2):
        x = keras.layers.Dense(32, activation="relu")(x)
    return keras.Model(inputs, keras.layers.Dense(1)(x))


def bootstrap(rows, num_members, seed=0):
    """How often each member draws each row, (B, N)."""
    rng = np.random.default_rng(seed)
    return rng.multinomial(rows, [1 / rows] * rows, size=num_members).T.astype("float32")


def main(num_members=20, epochs=15):
    """The R2 on test rows: the mean over the members, and that of their average."""
    keras.utils.set_random_seed(0)
    x, x_test, y, y_test = diabetes()
    members = kmw.replicate(network(x.shape[1]), num_members, seed=0)
    members.compile(keras.optimizers.Adam(0.003), "mse", steps_per_execution="auto")
    members.fit(x, y, sample_weight=bootstrap(len(x), num_members), epochs=epochs, verbose=0)

    answers = members.predict(x_test, verbose=0)  # (B, N, 1)
    mean_member = np.mean([r2_score(y_test, answers[:, i]) for i in range(num_members)])
    ensemble = r2_score(y_test, members.average().predict(x_test, verbose=0))
    print(f"R2 on test rows of {num_members} networks, on average: {mean_member:.3f}")
    print(f"R2 on test rows of their average: {ensemble:.3f}")
    return mean_member, ensemble


if __name__ == "__main__":
    main()
