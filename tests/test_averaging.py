"""PeriodicModelAveraging on a model of layers with a member axis, against the same arithmetic in NumPy."""

import keras
import numpy as np
import pytest
from keras import ops

import keras_multiweight as kmw
from keras_multiweight.merging import PeriodicModelAveraging

N = 3


def model():
    keras.utils.set_random_seed(0)
    inputs = keras.Input((4,))
    x = kmw.MultiDense(5, num_members=N, shared_input=True, activation="tanh")(inputs)
    built = keras.Model(inputs, kmw.MultiDense(1, num_members=N)(x))
    built.compile(keras.optimizers.SGD(0.1), "mse", loss_weights=[N])
    return built


def data(rows=12):
    rng = np.random.default_rng(0)
    return rng.normal(size=(rows, 4)).astype("float32"), rng.normal(size=(rows, N, 1)).astype("float32")


def stacked(built):
    return [ops.convert_to_numpy(w) for layer in built.layers[1:] for w in layer.stacked_weights]


def fit(callbacks=(), epochs=1):
    built, (x, y) = model(), data()
    built.fit(x, y, batch_size=3, epochs=epochs, shuffle=False, verbose=0, callbacks=list(callbacks))
    return stacked(built)


def mean(weights):
    return [np.broadcast_to(w.mean(axis=0), w.shape) for w in weights]


def assert_close(received, expected):
    for a, b in zip(received, expected, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("period, unit", [(4, "batch"), (1, "epoch"), (2, "batch")])
def test_members_are_replaced_by_their_average(period, unit):
    found = fit([PeriodicModelAveraging(period, unit)])
    assert_close(found, mean(found))
    if period != 2:  # one averaging, at the end
        assert_close(found, mean(fit()))


def test_alpha_pulls_members_towards_their_average():
    alone = fit()
    expected = [0.75 * own + 0.25 * average for own, average in zip(alone, mean(alone))]
    assert_close(fit([PeriodicModelAveraging(1, "epoch", alpha=0.75)]), expected)


def test_averaging_begins_a_period_after_the_warmup():
    alone = fit()
    assert_close(fit([PeriodicModelAveraging(2, "batch", warmup=3)]), alone)
    found = fit([PeriodicModelAveraging(2, "batch", warmup=2)])
    assert_close(found, mean(alone))


def test_outer_optimizer_steps_along_the_way_of_the_average():
    start = [w.mean(axis=0) for w in stacked(model())]
    moved = [w[0] for w in mean(fit())]
    outer = keras.optimizers.SGD(0.5, momentum=0.9, nesterov=True)
    found = fit([PeriodicModelAveraging(1, "epoch", outer_optimizer=outer)])
    for received, a, b in zip(found, start, moved):
        gradient = a - b  # Nesterov's first step: momentum * velocity - rate * gradient, with velocity -rate * gradient
        expected = a - 0.5 * gradient * 1.9
        np.testing.assert_allclose(received, np.broadcast_to(expected, received.shape), rtol=1e-3, atol=1e-5)


def test_training_goes_on_from_the_average():
    """On JAX an assignment inside an epoch is lost, unless the state is synchronised before."""
    two = fit([PeriodicModelAveraging(2, "batch")], epochs=2)
    assert_close(two, mean(two))
    assert not np.allclose(two[0], fit([PeriodicModelAveraging(4, "batch")], epochs=2)[0], atol=1e-6)


@pytest.mark.parametrize(
    "options", [{"period": 0}, {"unit": "step"}, {"alpha": 2}, {"warmup": -1}, {"alpha": 0.5, "outer_optimizer": "sgd"}]
)
def test_wrong_arguments_are_named(options):
    with pytest.raises(ValueError, match="period must be at least 1"):
        PeriodicModelAveraging(**{"period": 1, **options})


def test_model_without_members_is_refused():
    built = keras.Sequential([keras.Input((4,)), keras.layers.Dense(1)])
    built.compile("sgd", "mse")
    x, y = data()
    with pytest.raises(ValueError, match="layers that have a member axis"):
        built.fit(x, y[:, 0], verbose=0, callbacks=[PeriodicModelAveraging(1)])
