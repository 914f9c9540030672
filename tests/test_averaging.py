"""PeriodicModelAveraging on a model of layers with a member axis, against the same arithmetic in NumPy."""

import itertools

import keras
import numpy as np
import pytest
from keras import layers as k
from keras import ops

import keras_multiweight as kmw
from keras_multiweight.merging import PeriodicModelAveraging, SplitDataset

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


ALL_WAYS = itertools.product([1, 4, "auto"], [{}, {"alpha": 0.5}, {"warmup": 3}])
FEW_WAYS = [(1, {"warmup": 3}), (4, {"alpha": 0.5}), ("auto", {})]
WAYS = [pytest.param(*way, marks=() if way in FEW_WAYS else pytest.mark.slow) for way in ALL_WAYS]


@pytest.mark.parametrize(("steps", "options"), WAYS)
def test_a_multi_model_averages_inside_its_training_steps(steps, options):
    """Against the same arithmetic batch by batch. Statistics of batch normalisation are averaged too."""
    (x, y), averaging = data(rows=24), PeriodicModelAveraging(2, **options)
    multi, alone = (packed(steps) for _ in range(2))
    multi.fit(x, y, batch_size=3, shuffle=False, epochs=2, verbose=0, callbacks=[averaging])
    for batch in range(16):
        rows = slice(batch % 8 * 3, batch % 8 * 3 + 3)
        alone.train_on_batch(x[rows], y[rows])
        if batch + 1 > averaging.warmup and (batch + 1 - averaging.warmup) % 2 == 0:
            pull(alone, averaging.alpha)
    for received, expected in zip(all_weights(multi), all_weights(alone), strict=True):
        np.testing.assert_allclose(received, expected, rtol=1e-4, atol=1e-5)


def test_a_later_fit_without_averaging_does_not_average():
    (x, y), multi = data(), packed(2)
    multi.fit(x, y, batch_size=3, verbose=0, callbacks=[PeriodicModelAveraging(2)])
    multi.fit(x, y, batch_size=3, verbose=0)
    kernel = all_weights(multi)[0]
    assert np.abs(kernel - kernel.mean(axis=0)).max() > 1e-4


def packed(steps, **options):
    def build():
        return keras.Sequential([keras.Input((4,)), k.Dense(5, activation="tanh"), k.BatchNormalization(), k.Dense(1)])

    multi = kmw.replicate(build, N, seed=0, **options)
    multi.compile(keras.optimizers.SGD(0.1), "mse", steps_per_execution=steps)
    return multi


def all_weights(multi):
    return [np.stack(group) for group in zip(*(multi.member_weights(i) for i in range(N)))]


def pull(multi, alpha):
    pulled = [alpha * own + (1 - alpha) * own.mean(axis=0) for own in all_weights(multi)]
    for i in range(N):
        multi.set_member_weights(i, [own[i] for own in pulled])


def test_members_see_parts_without_overlap_that_are_drawn_anew():
    x, y = np.arange(22.0)[:, None], np.arange(22)
    split = SplitDataset(x, y, num_members=4, batch_size=2, seed=0)
    epochs = []
    for _ in range(2):
        split.on_epoch_begin()
        batches = [split[i] for i in range(split.num_batches)]
        assert batches[0][0].shape == (2, 4, 1)
        rows = np.concatenate([targets[..., 0] for _, targets in batches])
        assert rows.shape == (5, 4) and len(np.unique(rows)) == 20
        np.testing.assert_array_equal(np.concatenate([inputs for inputs, _ in batches])[..., 0], rows)
        epochs.append([set(part) for part in rows.T])
    assert epochs[0] != epochs[1]
    kept = SplitDataset(x, y, num_members=4, reshuffle=False, seed=0)
    assert [set(part) for part in kept.order(0).T] == [set(part) for part in kept.order(5).T]
    with pytest.raises(ValueError, match="from 1 to the 22 rows"):
        SplitDataset(x, y, num_members=23)


@pytest.mark.parametrize("given", ["dataset", "arrays"])
def test_members_on_parts_of_their_own_train_as_alone_between_averages(given):
    """Arrays for one member are cut by the callback."""
    x, y = data(rows=24)
    y = y[:, 0]
    multi, alone = packed(1, member_inputs=True), packed(1, member_inputs=True)
    parts = SplitDataset(x, y, N, batch_size=4, seed=1)
    averaging, fed = PeriodicModelAveraging(1, "epoch", seed=1), (parts,) if given == "dataset" else (x, y, 4)
    multi.fit(*fed, epochs=2, shuffle=given == "arrays", verbose=0, callbacks=[averaging])
    for epoch in range(2):
        rows = parts.order(epoch)
        for at in range(0, 8, 4):
            alone.train_on_batch(x[rows[at : at + 4]], y[rows[at : at + 4]])
        pull(alone, 0.0)
    for received, expected in zip(all_weights(multi), all_weights(alone), strict=True):
        np.testing.assert_allclose(received, expected, rtol=1e-4, atol=1e-5)


def test_parts_that_the_callback_cuts_need_targets_of_each_member():
    x = data(rows=24)[0]
    multi = kmw.replicate(lambda: keras.Sequential([keras.Input((4,)), k.Dense(5)]), N, member_inputs=True)
    multi.compile("sgd", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    labels = np.arange(24) % 5
    with pytest.raises(ValueError, match=r"compile\(..., member_targets=True\). Received: member_targets=None"):
        multi.fit(x, labels, verbose=0, callbacks=[PeriodicModelAveraging(1)])
    multi.compile("sgd", multi.loss, member_targets=True)
    multi.fit(x, labels, batch_size=4, verbose=0, callbacks=[PeriodicModelAveraging(2, reshuffle=False)])
    kernel = all_weights(multi)[0]
    np.testing.assert_allclose(kernel, np.broadcast_to(kernel.mean(axis=0), kernel.shape), atol=1e-6)  # 2 batches of 8 rows


@pytest.mark.parametrize("steps", [2, *(pytest.param(steps, marks=pytest.mark.slow) for steps in (1, "auto"))])
def test_outer_optimizer_steps_inside_the_training_steps(steps, tmp_path):
    """Against the same arithmetic batch by batch; a model that is saved meanwhile does not have the callback's variables."""
    (x, y), outer = data(rows=24), keras.optimizers.SGD(0.7, momentum=0.9)
    multi, alone = (packed(steps) for _ in range(2))
    anchor = [w.mean(axis=0) for w in all_weights(alone)]
    velocity = [np.zeros_like(w) for w in anchor]
    save = keras.callbacks.LambdaCallback(on_epoch_end=lambda *_: multi.save(tmp_path / "multi.keras"))
    averaging = PeriodicModelAveraging(3, outer_optimizer=outer)
    multi.fit(x, y, batch_size=3, shuffle=False, epochs=2, verbose=0, callbacks=[averaging, save])
    for batch in range(16):
        rows = slice(batch % 8 * 3, batch % 8 * 3 + 3)
        alone.train_on_batch(x[rows], y[rows])
        if (batch + 1) % 3 == 0:
            velocity = [0.9 * v - 0.7 * (a - w.mean(axis=0)) for v, a, w in zip(velocity, anchor, all_weights(alone))]
            anchor = [a + v for a, v in zip(anchor, velocity)]
            for i in range(N):
                alone.set_member_weights(i, anchor)
    assert_close(all_weights(multi), all_weights(alone))
    loaded = keras.models.load_model(tmp_path / "multi.keras")
    assert_close(loaded.optimizer.variables, multi.optimizer.variables[: len(loaded.optimizer.variables)])


def test_outer_optimizer_steps_along_the_way_of_the_average():
    start = [w.mean(axis=0) for w in stacked(model())]
    moved = [w[0] for w in mean(fit())]
    outer = keras.optimizers.SGD(0.5, momentum=0.9, nesterov=True)
    found = fit([PeriodicModelAveraging(1, "epoch", outer_optimizer=outer)])
    for received, a, b in zip(found, start, moved):
        gradient = a - b  # Nesterov's first step: momentum * velocity - rate * gradient, with velocity -rate * gradient
        expected = a - 0.5 * gradient * 1.9
        np.testing.assert_allclose(received, np.broadcast_to(expected, received.shape), rtol=1e-3, atol=1e-5)


def test_outer_optimizer_goes_on_in_a_later_fit():
    built, (x, y) = model(), data()
    averaging = PeriodicModelAveraging(1, "epoch", outer_optimizer=keras.optimizers.SGD(0.5, momentum=0.9))
    for _ in range(2):
        built.fit(x, y, batch_size=3, shuffle=False, verbose=0, callbacks=[averaging])
    whole = model()
    outer = keras.optimizers.SGD(0.5, momentum=0.9)
    options = {"batch_size": 3, "epochs": 2, "shuffle": False, "verbose": 0}
    whole.fit(x, y, **options, callbacks=[PeriodicModelAveraging(1, "epoch", outer_optimizer=outer)])
    assert_close(stacked(built), stacked(whole))


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
