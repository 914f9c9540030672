"""Merged networks: soft and hard matching, repair, batch norm statistics, and the barrier between members."""

import keras
import numpy as np
import pytest
from keras import layers as k
from oracle import assert_close, randomized
from test_matching import ARCHITECTURES, cnn_with_batch_norm, mlp, planted, recurrent, rows

import keras_multiweight as kmw
from keras_multiweight import merging


@pytest.mark.parametrize("build", ARCHITECTURES)
def test_permuted_copies_merge_into_what_they_were(build):
    models, _ = planted(build, 3)
    x = rows(models[0])
    expected = models[0].predict(x, verbose=0)
    assert_close(merging.merge_members(models).predict(x, verbose=0), expected)
    merged = merging.merge_members(kmw.pack(models, verify=False), [1, 2, 3], align="activations", data=x)
    assert_close(merged.predict(x, verbose=0), expected)


def test_soft_matching_is_hard_at_temperature_zero_and_at_top_one():
    models = [randomized(mlp(), seed) for seed in range(3)]
    hard = merging.merge_members(models).get_weights()
    for soft in (merging.SoftMatching(0.0), merging.SoftMatching(0.7, top_k=1), merging.SoftMatching(1e-6)):
        received = merging.merge_members(models, soft=soft).get_weights()
        for a, b in zip(received, hard, strict=True):
            np.testing.assert_allclose(a, b, atol=1e-4 if soft.temperature == 1e-6 else 0)


def test_soft_matching_averages_units_that_resemble_each_other():
    soft = merging.SoftMatching(temperature=0.5)
    similarity = np.array([[3.0, 3, 0], [3, 3, 0], [0, 0, 3]])
    weights = soft.map_of(similarity)
    np.testing.assert_allclose(weights.sum(axis=1), 1)
    np.testing.assert_allclose(weights[:2, :2], weights[0, 0])
    assert weights[2, 2] > 0.7 and weights[0, 0] > 0.4
    two = merging.SoftMatching(temperature=0.5, top_k=2).map_of(similarity)
    assert (np.count_nonzero(two, axis=1) == 2).all() and two[2, 2] > 0.8
    near = np.array([[4.0, 3, 2, 1], [3, 4, 0, 0], [2, 0, 4, 0], [1, 0, 0, 4]])
    three = merging.SoftMatching(temperature=1.0, top_k=3).map_of(near)[0]  # the matched unit, and the two most similar
    assert three[0] > three[1] > three[2] > 0 == three[3] and three.sum() == pytest.approx(1)
    models = [randomized(mlp(), seed) for seed in range(2)]
    mixed = merging.merge_members(models, align="activations", data=rows(models[0]), soft=soft)
    assert not np.array_equal(mixed.get_weights()[0], merging.merge_members(models).get_weights()[0])


def moments(model, x, name):
    """The means and standard deviations over data of a layer's output, for each unit."""
    y = keras.Model(model.inputs, model.get_layer(name).output).predict(x, verbose=0)
    y = y.reshape(-1, y.shape[-1])
    return np.stack([y.mean(axis=0), y.std(axis=0)])


def plain(dimensions):
    shape, first = ((10,), k.Dense(12, name="a")) if dimensions == 0 else ((7, 6, 3), k.Conv2D(12, 3, name="a"))
    second = k.Dense(9, name="b") if dimensions == 0 else k.DepthwiseConv2D(2, depth_multiplier=2, name="b")
    return keras.Sequential([keras.Input(shape), first, k.ReLU(), second, k.Flatten(), k.Dense(3, name="c")])


@pytest.mark.parametrize("dimensions", [0, 2])
def test_repair_restores_the_members_means_and_deviations(dimensions):
    models = [randomized(plain(dimensions), seed) for seed in range(3)]
    x, weights = rows(models[0], 200), np.array([0.5, 0.25, 0.25])
    merged = merging.uniform_soup(models, weights)
    before = merged.get_weights()
    repaired = merging.repair(merged, models, x, weights)
    assert all(np.array_equal(a, b) for a, b in zip(before, merged.get_weights()))
    for name in "abc":
        expected = np.tensordot(weights, np.stack([moments(m, x, name) for m in models]), 1)
        assert_close(moments(repaired, x, name), expected, name, tolerance=1e-4)
        assert np.abs(moments(merged, x, name) - expected).max() > 0.05


@pytest.mark.parametrize("align", ["weights", "activations"])
def test_repair_of_permuted_copies_changes_nothing(align):
    """The statistics of a unit are those of the units that it was averaged from, wherever these were."""
    models, _ = planted(mlp, 3)
    x = rows(models[0], 200)
    repaired = merging.merge_members(models, align=align, repair=x)
    assert_close(repaired.predict(x, verbose=0), models[0].predict(x, verbose=0), tolerance=1e-4)


def test_repair_sees_pre_activations_behind_which_a_function_is_fused():
    models = [randomized(mlp(), seed) for seed in range(2)]
    x = rows(models[0], 200)
    apart = [keras.Sequential([keras.Input((10,))]) for _ in models]
    for model, other in zip(models, apart):
        for i, layer in enumerate(model.layers):
            other.add(k.Dense(layer.units, name=f"linear_{i}"))
            other.add(k.Activation(layer.activation))
        other.set_weights(model.get_weights())
    fused, split = (merging.repair(merging.uniform_soup(m), m, x).get_weights() for m in (models, apart))
    for a, b in zip(fused, split, strict=True):
        assert_close(a, b, tolerance=1e-4)


class Scale(k.Layer):
    """One factor for each channel."""

    def build(self, shape):
        self.factor = self.add_weight(shape=shape[-1:], initializer="uniform")

    def call(self, x):
        return x * self.factor


class Residual(k.Layer):
    """A block as users write it, with layers of its own."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.inner = k.Dense(8, activation="gelu")

    def build(self, shape):
        self.inner.build(shape)

    def call(self, x):
        return x + self.inner(x)


def text_transformer():
    x = inputs = keras.Input((6,), dtype="int32")
    x = k.Embedding(20, 8, name="table")(x)
    y = k.LayerNormalization(name="norm")(x)
    x = k.Add()([x, k.MultiHeadAttention(2, 3, name="attention")(y, y)])
    x = k.EinsumDense("abc,cde->abed", (6, 4, 3), bias_axes="ed", activation="relu", name="einsum")(Residual(name="own")(x))
    return keras.Model(inputs, k.Dense(3, name="c")(k.Flatten()(x)))


def in_text_transformer(model, x):
    """The pre-activations of each layer, with the units last."""

    names = ("table", "norm", "attention", "own", "einsum")
    table, norm, attention, own, einsum = (model.get_layer(name) for name in names)
    at = keras.Model(model.inputs, [table.output, norm.output, attention.output, own.input, own.output])([x])
    embedded, y, attended, into, out = map(keras.ops.convert_to_numpy, at)
    queries, keys, values, _ = np.array_split(np.array(attention.get_weights(), dtype=object), 4)
    found = [np.einsum("btc,chd->bthd", y, kernel.astype("float32")) + bias for kernel, bias in (queries, keys, values)]
    kernel, bias = einsum.get_weights()
    found.append(np.einsum("btc,cde->bted", out, kernel) + bias)
    kernel, bias = own.get_weights()
    return [embedded, *found, attended, into @ kernel + bias]


def reused():
    dense = k.Dense(10, activation="tanh", name="twice")
    inputs = keras.Input((10,))
    return keras.Model(inputs, k.Dense(3)(dense(dense(inputs))))


def in_reused(model, x):
    """Over both calls."""
    kernel, bias = model.get_layer("twice").get_weights()
    first = x @ kernel + bias
    return [np.concatenate([first, np.tanh(first) @ kernel + bias])]


def in_recurrent(model, x):
    """The gates at every step, from what the layer gave at the step before."""
    kernel, state_kernel, bias = model.layers[0].get_weights()
    h = keras.ops.convert_to_numpy(keras.Model(model.inputs, model.layers[0].output)([x]))
    before = np.concatenate([np.zeros_like(h[:, :1]), h[:, :-1]], axis=1)
    return [x @ kernel + before @ state_kernel + bias]


REPAIRED = {
    "attention, einsum, embedding and a layer within a custom one": (text_transformer, in_text_transformer, 1e-3),
    "a layer that is used twice": (reused, in_reused, 0.05),
    "the gates of an LSTM": (recurrent, in_recurrent, 0.05),
}


@pytest.mark.parametrize("name", REPAIRED)
def test_repair_restores_the_pre_activations_of(name):
    build, look, tolerance = REPAIRED[name]
    keras.utils.set_random_seed(0)
    models = [randomized(build(), seed) for seed in range(2)]
    x = np.random.default_rng(0).integers(0, 20, (200, 6)) if build is text_transformer else rows(models[0], 200)
    soup = merging.uniform_soup(models)
    repaired = merging.repair(soup, models, x)
    for own, expected, before in zip(look(repaired, x), zip(*(look(m, x) for m in models)), look(soup, x), strict=True):
        goal, deviation = np.mean([unit_moments(y) for y in expected], axis=0), np.std(expected)
        assert np.abs(unit_moments(own) - goal).max() < tolerance * deviation
        assert np.abs(unit_moments(before) - goal).max() > 0.2 * deviation


def unit_moments(y):
    """Over the rows and the steps, or the rows alone."""
    others = (0, 1) if y.ndim > 2 else 0
    return np.stack([y.mean(axis=others), y.std(axis=others)])


def test_repair_names_the_layers_that_it_leaves():
    def build():
        return keras.Sequential([keras.Input((10,)), k.Dense(6), Scale(name="scaled"), k.LayerNormalization(), k.Dense(3)])

    models = [randomized(build(), seed) for seed in range(2)]
    with pytest.warns(UserWarning, match=r"leaves them as they are: 'scaled' \(Scale\)\.$") as caught:
        merging.repair(merging.uniform_soup(models), models, rows(models[0]))
    assert sum("leaves them" in str(warning.message) for warning in caught) == 1


def test_update_batch_norm_sets_the_statistics_of_the_data():
    model = randomized(cnn_with_batch_norm(), 0)
    x = rows(model, 100)
    updated = merging.update_batch_norm(model, x)
    norms = [layer for layer in updated.layers if isinstance(layer, k.BatchNormalization)]
    for layer in norms:
        y = keras.Model(updated.inputs, layer.input).predict(x, verbose=0).astype("float64")
        assert_close(keras.ops.convert_to_numpy(layer.moving_mean), y.mean(axis=(0, 1, 2)), tolerance=1e-4)
        assert_close(keras.ops.convert_to_numpy(layer.moving_variance), y.var(axis=(0, 1, 2)), tolerance=1e-4)
    assert not np.allclose(norms[0].moving_mean, model.layers[2].moving_mean) and updated.trainable


def test_models_that_are_merged_stay_as_they_are():
    models = [randomized(cnn_with_batch_norm(), seed) for seed in range(2)]
    before, x = [m.get_weights() for m in models], rows(models[0])
    data = x, models[0].predict(x, verbose=0)
    merged = merging.merge_members(models, align="activations", soft=merging.SoftMatching(0.3, top_k=2), repair=x)
    merging.update_batch_norm(models[0], x)
    merging.greedy_soup(models, data, "mse", "min")
    merging.loss_barrier(*models, data, steps=3, loss="mse")
    merging.PermutationSpec.from_model(models[0]).validate()
    for model, weights in zip(models, before):
        assert all(np.array_equal(a, b) for a, b in zip(model.get_weights(), weights, strict=True))
        assert model.trainable and not any(a is b for a in merged.weights for b in model.weights)


def test_barrier_is_zero_between_equal_members_and_high_between_permuted_ones():
    models, _ = planted(mlp, 2)
    x = rows(models[0])
    data = x, models[0].predict(x, verbose=0)
    same = merging.loss_barrier(models[0], models[0], data, loss="mse", steps=5)
    assert abs(same.barrier) < 1e-6 and same.losses.shape == (5,) and same.scores is None
    apart = merging.loss_barrier(*models, data, loss="mse", steps=5, metric="mae")
    assert apart.barrier > 0.05 and apart.scores.shape == (5,) and apart.losses.argmax() in (1, 2, 3)
    matched = merging.loss_barrier(*merging.weight_matching(models).models(), data, loss="mse", steps=5)
    assert abs(matched.barrier) < 1e-6
    models[0].compile("sgd", "mse")
    assert merging.loss_barrier(*models, data, steps=5).barrier == pytest.approx(apart.barrier)


def test_barrier_of_many_members_is_towards_their_average():
    models, _ = planted(mlp, 3)
    x = rows(models[0])
    data = x, models[0].predict(x, verbose=0)
    found = merging.loss_barrier(kmw.pack(models, verify=False), None, data, loss="mse", steps=4)
    assert found.losses.shape == (3, 4)
    soup = merging.uniform_soup(models).predict(x, verbose=0)
    np.testing.assert_allclose(found.losses[:, -1], np.mean(np.square(soup - data[1])), rtol=1e-4)
    np.testing.assert_allclose(found.barrier, (found.losses - found.losses[:, :1]).max(), rtol=0.1)
