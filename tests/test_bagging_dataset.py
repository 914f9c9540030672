"""Members that are fed rows of their own end where separate fits on those rows end."""

import itertools

import keras
import numpy as np
import pytest
from keras import layers as k

import keras_multiweight as kmw
from keras_multiweight.testing import assert_trains_alike
from keras_multiweight.training import programs

ROWS, MEMBERS = 22, 3


def optimizer():
    return keras.optimizers.Adam(0.02, clipnorm=0.5)


def network(features=4):
    x = keras.Input((features,))
    return keras.Model(x, k.Dense(1)(k.Dense(5, activation="tanh", kernel_regularizer="l2")(x)))


def two_inputs():
    a, b = keras.Input((4,), name="a"), keras.Input((2, 3), name="b")
    h = k.Dense(5, activation="tanh")(k.Concatenate()([a, k.Flatten()(b)]))
    return keras.Model({"a": a, "b": b}, k.Dense(1)(h))


@pytest.fixture(scope="module")
def rows():
    rng = np.random.default_rng(0)
    return rng.normal(size=(ROWS, 4)).astype("float32"), rng.normal(size=(ROWS, 1)).astype("float32")


def alone(model, dataset, i, x, y, epochs, weights):
    """Keras's own `fit` of one model on the rows of member i, in the order of each epoch."""
    for epoch in range(epochs):
        seen = dataset.order(epoch)[:, i]
        model.fit(x[seen], y[seen], sample_weight=weights[seen], batch_size=5, shuffle=False, verbose=0)


@pytest.mark.parametrize("steps", [1, 2])
def test_members_end_where_fits_on_their_rows_and_features_end(rows, steps):
    x, y = rows
    bootstrap = kmw.Bootstrap(ROWS, MEMBERS, max_samples=0.6, num_features=4, max_features=3, seed=0)
    weights = np.random.default_rng(1).random(ROWS).astype("float32")
    multi = kmw.replicate(network(3), MEMBERS, seed=0, member_inputs=True)
    single, start = multi.member(1), multi.member_weights(1)
    multi.compile(optimizer(), "mse", steps_per_execution=steps)
    dataset = kmw.BaggingDataset(x, y, bootstrap, 5, sample_weight=weights, seed=0)
    multi.fit(dataset, epochs=2, verbose=0)
    single.compile(optimizer(), "mse")
    alone(single, dataset, 1, x[:, bootstrap.features[1]], y, 2, weights)
    moved = max(np.abs(a - b).max() for a, b in zip(start, single.get_weights()))
    for a, b in zip(single.get_weights(), multi.member_weights(1)):
        np.testing.assert_allclose(a, b, atol=1e-4 * moved)


def test_several_inputs_train_as_separate_fits():
    rng = np.random.default_rng(0)
    x = {"a": rng.normal(size=(ROWS, 4)).astype("float32"), "b": rng.normal(size=(ROWS, 2, 3)).astype("float32")}
    y = rng.normal(size=(ROWS, 1)).astype("float32")
    bootstrap = kmw.Bootstrap(ROWS, MEMBERS, seed=0)
    dataset = kmw.BaggingDataset(x, y, bootstrap, 5, shuffle=False)

    def data(i):
        if i is None:
            return (dataset,)
        seen = bootstrap.indices[i]
        return {name: part[seen] for name, part in x.items()}, y[seen]

    options = {"optimizer": optimizer(), "loss": "mse", "steps_per_execution": 2}
    assert_trains_alike(two_inputs, data, options, {"batch_size": 5, "epochs": 2}, member_inputs=True)


def test_targets_of_one_axis_are_those_of_one_column(rows):
    x, _ = rows
    column = np.arange(len(x), dtype="float32")[:, None]
    bootstrap = kmw.Bootstrap(len(x), 3, seed=0)
    flat, whole = (kmw.BaggingDataset(x, own, bootstrap, 5, seed=0)[0][1] for own in (column[:, 0], column))
    assert flat.shape == (5, 3, 1)
    np.testing.assert_array_equal(flat, whole)


def test_every_epoch_has_the_rows_drawn_in_another_order(rows):
    bootstrap = kmw.Bootstrap(ROWS, MEMBERS, seed=0)
    dataset = kmw.BaggingDataset(*rows, bootstrap, 5, seed=0)
    dataset.on_epoch_begin()
    first = np.concatenate([dataset[k][1] for k in range(dataset.num_batches)])
    dataset.on_epoch_begin()
    second = np.concatenate([dataset[k][1] for k in range(dataset.num_batches)])
    for i, drawn in enumerate(bootstrap.indices):
        assert sorted(first[:, i, 0]) == sorted(second[:, i, 0]) == sorted(rows[1][drawn, 0])
        assert not np.array_equal(first[:, i], second[:, i])
    assert not np.array_equal(np.argsort(first[:, 0, 0]), np.argsort(first[:, 1, 0]))


@pytest.mark.parametrize("own_rows", [False, True])
def test_every_epoch_in_compiled_steps_has_another_order(rows, own_rows, monkeypatch):
    """With a seed Keras's own pipeline of arrays, on TensorFlow, has the same order at every epoch."""
    seen, next_rows = [], programs.next_rows
    monkeypatch.setattr(programs, "next_rows", lambda source: seen.append(next_rows(source)) or seen[-1])
    keras.utils.set_random_seed(0)
    multi = kmw.replicate(network(), MEMBERS, member_inputs=own_rows)
    multi.compile("sgd", "mse", steps_per_execution=2)
    bootstrap = kmw.Bootstrap(ROWS, MEMBERS, seed=0)
    data = (kmw.BaggingDataset(*rows, bootstrap, 6, seed=0),) if own_rows else rows
    multi.fit(*data, batch_size=None if own_rows else 6, epochs=3, verbose=0)
    orders = [np.concatenate(seen[2 * epoch : 2 * epoch + 2]) for epoch in range(3)]
    drawn = np.stack(bootstrap.indices, axis=1) if own_rows else np.arange(ROWS)
    assert len(seen) == 6 and all(np.array_equal(np.sort(order, axis=0), np.sort(drawn, axis=0)) for order in orders)
    assert not any(np.array_equal(a, b) for a, b in itertools.combinations(orders, 2))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"x": np.zeros((3, 4))},
            "x, y and the bootstrap .* same rows.* Received: x of 3, y of 22 and a bootstrap of 22 rows",
        ),
        ({"y": np.zeros((3, 1))}, "Received: x of 22, y of 3 and a bootstrap of 22 rows"),
        ({"sample_weight": np.ones(9)}, "Received: x of 22, y of 22, sample_weight of 9 and a bootstrap of 22 rows"),
        ({"y": list(range(ROWS))}, "Received: x of 22, y of 1 and a bootstrap of 22 rows"),
        ({"y": np.full(ROWS, "cat")}, r"Targets must be numbers. Received: \['cat'\] of dtype <U3. .*np.unique\(labels"),
        ({"batch_size": 32.0}, "batch_size must be an int of at least 1. Received: batch_size=32.0"),
        ({"seed": -1}, "seed must be an int of at least 0, or None. Received: seed=-1"),
        ({"y": np.full((ROWS, 1), np.nan)}, "Targets must not be NaN"),
        ({"batch_size": 0}, "batch_size must be an int of at least 1"),
        ({"bootstrap": kmw.Bootstrap(ROWS, 9, groups=[0] * 20 + [1, 2], seed=0)}, "must draw as many rows each"),
    ],
)
def test_wrong_data_is_named(rows, change, message):
    arguments = {"x": rows[0], "y": rows[1], "bootstrap": kmw.Bootstrap(ROWS, MEMBERS, seed=0), "batch_size": 4, **change}
    with pytest.raises(ValueError, match=message):
        kmw.BaggingDataset(**arguments)
