"""Averages of weights as they are: uniform, weighted and greedy."""

import keras
import numpy as np
import pytest
from keras import layers as k
from oracle import members
from sklearn.datasets import load_digits

import keras_multiweight as kmw
from keras_multiweight import merging


def digits():
    x, y = load_digits(return_X_y=True)
    return x.astype("float32") / 16, y


def mlp(units=16):
    return keras.Sequential([keras.Input((64,)), k.Dense(units, activation="relu"), k.Dense(10, activation="softmax")])


@pytest.fixture(scope="module")
def tunes():
    """Three fine-tunes of one start, of which the last is spoilt."""
    keras.utils.set_random_seed(0)
    x, y = digits()
    models = [mlp() for _ in range(3)]
    models[0].compile("adam", "sparse_categorical_crossentropy")
    models[0].fit(x, y, epochs=3, verbose=0)
    rng = np.random.default_rng(0)
    start = models[0].get_weights()
    for model, noise in zip(models, (0.03, 0.03, 1.0)):
        model.set_weights([w + noise * rng.normal(size=w.shape) for w in start])
    return models


def assert_equal(received, expected):
    for a, b in zip(received, expected, strict=True):
        np.testing.assert_array_equal(a, b)


def test_uniform_soup_is_the_mean_of_the_weights_of_models_and_of_a_packed_model():
    models = members(mlp)
    expected = [
        np.mean(group, axis=0, dtype="float64").astype("float32") for group in zip(*(m.get_weights() for m in models))
    ]
    for source in (models, kmw.pack(models, verify=False)):
        soup = merging.uniform_soup(source)
        assert type(soup) is keras.Sequential
        for a, b in zip(soup.get_weights(), expected, strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-6, atol=1e-7)


def test_weights_of_members_are_taken_in_proportion():
    models = members(mlp)
    soup = merging.uniform_soup(models, weights=[3, 0, 1])
    first, _, last = (m.get_weights() for m in models)
    for a, b, c in zip(soup.get_weights(), first, last):
        np.testing.assert_allclose(a, 0.75 * b + 0.25 * c, rtol=1e-5, atol=1e-6)
    assert_equal(merging.uniform_soup(models, weights=[0, 5, 0]).get_weights(), models[1].get_weights())


class Counter(k.Layer):
    def build(self, shape):
        self.count = self.add_weight(shape=(), dtype="int32", trainable=False)

    def call(self, x):
        return x


def test_integers_and_seeds_are_not_averaged():
    models = [keras.Sequential([keras.Input((4,)), Counter(), k.Dropout(0.5, seed=i), k.Dense(2)]) for i in range(2)]
    for value, model in zip((4, 9), models):
        model.layers[0].count.assign(value)
    assert int(merging.uniform_soup(models).layers[0].count) == 4
    soup = merging.uniform_soup(models, weights=[1, 2])
    assert int(soup.layers[0].count) == 9
    seed = [keras.ops.convert_to_numpy(m.layers[1].seed_generator.state) for m in (soup, models[0])]
    assert seed[0].dtype == seed[1].dtype and np.array_equal(*seed)


def test_inputs_are_never_changed(tunes):
    before = [m.get_weights() for m in tunes]
    merging.uniform_soup(tunes)
    merging.greedy_soup(tunes, digits())
    for weights, model in zip(before, tunes):
        assert_equal(model.get_weights(), weights)


@pytest.mark.parametrize(
    "metric, mode, score",
    [
        ("accuracy", "max", lambda y, p: np.mean(p.argmax(-1) == y)),
        ("sparse_categorical_crossentropy", "min", lambda y, p: -np.mean(np.log(p[np.arange(len(y)), y] + 1e-7))),
        (lambda y, p: np.mean(p[np.arange(len(y)), y]), "max", lambda y, p: np.mean(p[np.arange(len(y)), y])),
    ],
)
def test_greedy_soup_is_never_below_the_best_member(tunes, metric, mode, score):
    x, y = digits()
    soup, chosen = merging.greedy_soup(tunes, (x, y), metric, mode, return_members=True)
    sign = 1 if mode == "max" else -1
    best = max(sign * score(y, m.predict(x, verbose=0)) for m in tunes)
    assert sign * score(y, soup.predict(x, verbose=0)) >= best - 1e-6
    assert 2 not in chosen and chosen


def test_metric_of_keras_and_its_object_agree(tunes):
    x, y = digits()
    objects = keras.metrics.SparseCategoricalAccuracy()
    a, b = (merging.greedy_soup(tunes, (x, y), metric, return_members=True)[1] for metric in ("accuracy", objects))
    assert a == b


@pytest.mark.parametrize(
    "call, message",
    [
        (lambda m: merging.uniform_soup(m[:1]), "at least two members"),
        (lambda m: merging.uniform_soup([m[0], mlp(8)]), "equal configs"),
        (lambda m: merging.uniform_soup(m, weights=[1, 2]), "weights must be 3 numbers"),
        (lambda m: merging.uniform_soup(m, weights=[1, -2, 3]), "none below zero"),
        (lambda m: merging.greedy_soup(m, digits()[0]), r"pair \(x, y\). Received: a ndarray"),
        (lambda m: merging.greedy_soup(m, (np.zeros((3, 5)), np.zeros(3))), r"shape \(None, 64\).*Received: shape \(3, 5\)"),
        (lambda m: merging.greedy_soup(m, digits(), mode="up"), "mode must be"),
        (lambda m: merging.uniform_soup(kmw.pack([m[0], mlp(8)], group=True)), "Received: a MixedMultiModel"),
    ],
)
def test_wrong_arguments_are_named(call, message):
    with pytest.raises(ValueError, match=message):
        call(members(mlp))


def test_nan_among_the_weights_is_refused():
    models = members(mlp)
    models[1].layers[0].bias.assign(np.full(16, np.nan))
    with pytest.raises(ValueError, match=r"finite weights.*bias' of member 1"):
        merging.uniform_soup(models)
