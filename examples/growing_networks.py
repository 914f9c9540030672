"""An algorithm trains one more network at every step: can all of them answer at once, at every step?

Each network learns what the sum of those before it leaves over. The packed model is made again at every step, and
answers for all networks so far, in the order in which they were trained.
"""

import time

import keras
import numpy as np

import keras_multiweight as kmw


def network():
    """Two inputs, one answer."""
    a, b = keras.Input((3,), name="position"), keras.Input((2,), name="state")
    x = keras.layers.Concatenate()([a, b])
    x = keras.layers.Dense(32, activation="relu")(x)
    return keras.Model([a, b], keras.layers.Dense(1)(x))


def trained(x, y, epochs):
    model = network()
    model.compile(keras.optimizers.Adam(0.01), "mse")
    model.fit(x, y, epochs=epochs, batch_size=128, verbose=0)
    return model


def timed(run, *args, **kwargs):
    start = time.perf_counter()
    return run(*args, **kwargs), time.perf_counter() - start


def main(num_networks=10, epochs=5):
    """The largest difference between the packed answers and those of the networks alone."""
    keras.utils.set_random_seed(0)
    rng = np.random.default_rng(0)
    x = [rng.normal(size=(512, 3)).astype("float32"), rng.normal(size=(512, 2)).astype("float32")]
    y = np.sin(2 * x[0][:, :1]) + x[0][:, 1:2] * x[1][:, :1]
    networks, rest = [], y
    for t in range(1, num_networks + 1):
        model, training = timed(trained, x, rest, epochs)
        networks.append(model)
        multi, packing = timed(kmw.pack, networks, verify=False)  # packing's self-check takes longer than packing
        answers = multi.predict(x)  # (rows, t, 1): the networks in the order of t
        rest = y - answers.sum(axis=1)
        error = np.mean(rest**2)
        print(f"t = {t:2}: trained in {training:.2f} s, packed in {packing:.2f} s, mean squared error {error:.3f}")

    sample = [a[:1] for a in x]
    for _ in range(2):  # the first compiles
        packed, seconds = timed(multi.predict, sample)
        alone, loop = timed(lambda: [model.predict(sample, verbose=0) for model in networks])
    difference = float(np.abs(packed - np.stack(alone, axis=1)).max())
    print(f"One sample, {num_networks} networks: {1e3 * seconds:.1f} ms packed, {1e3 * loop:.0f} ms one after another.")
    print(f"Largest difference: {difference:.1e}")
    return difference


if __name__ == "__main__":
    main()
