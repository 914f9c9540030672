"""Programs that know the weights, on JAX: right before and after these change."""

import gc
import weakref

import keras
import numpy as np
import oracle
import pytest
from keras import layers as k

import keras_multiweight as kmw
from keras_multiweight.prediction import batches, calls, steady

pytestmark = pytest.mark.skipif(keras.backend.backend() != "jax", reason="programs of other backends hold variables")


def build():
    return keras.Sequential([keras.Input((3,)), k.Dense(4, activation="relu"), k.BatchNormalization(), k.Dense(2)])


@pytest.fixture
def models():
    return oracle.members(build, 3)


@pytest.fixture
def x():
    return np.random.default_rng(0).normal(size=(5, 3)).astype("float32")


def steady_call(model, x):
    import jax

    return steady.SteadyCall(calls.PureCall(calls.ModelCall(model, batches.Arrays(x).form)), jax.jit)


def test_a_program_that_knows_the_weights_answers_as_the_members(models, x):
    multi = kmw.pack(models)
    known = steady_call(multi, x)
    (answers,), updates = known.function([x])
    assert known.serves() and not updates
    oracle.assert_close(np.asarray(answers), oracle.stacked_predictions(models, x, 5)[0])


def test_it_serves_no_longer_once_one_weight_changes(models, x):
    multi = kmw.pack(models)
    known = steady_call(multi, x)
    bias = multi.weights[1]
    bias.assign(bias.value)  # the same numbers, in the same array
    assert known.serves()
    bias.assign(bias + 1.0)
    assert not known.serves()


def test_each_number_of_rows_sees_what_changed_between_its_calls(models, x):
    multi = kmw.pack(models)
    ask = multi.predictor()
    for rows in (1, 5):
        ask(x[:rows])
    for step in range(3):
        multi.set_member_weights(1, [w + 0.1 * step for w in multi.member_weights(1)])
        for rows in (1, 5):
            expected = np.stack([multi.member(i).predict(x[:rows], verbose=0) for i in range(3)], axis=1)
            oracle.assert_close(ask(x[:rows]), expected)


def test_it_answers_after_fit_took_the_arrays_and_caches_are_cleared(models, x):
    import jax

    multi = kmw.pack(models)
    ask, aside = multi.predictor(), multi.predictor()
    before = ask(x)
    oracle.assert_close(aside(x), before)
    multi.compile("sgd", "mse")
    multi.fit(x, np.ones((5, 2), "float32"), batch_size=5, verbose=0)
    jax.clear_caches()
    expected = np.stack([multi.member(i).predict(x, verbose=0) for i in range(3)], axis=1)
    oracle.assert_close(ask(x), expected)
    oracle.assert_close(aside(x), expected)


@pytest.fixture
def made(monkeypatch):
    """Weak references to what predictors make."""
    references = []

    class Noted(steady.SteadyCall):
        def __init__(self, pure, jit):
            super().__init__(pure, jit)
            references.append(weakref.ref(self))

    monkeypatch.setattr(kmw.prediction.lowerings, "SteadyCall", Noted)
    return references


def test_what_served_is_let_go_once_the_weights_changed(models, x, made):
    multi = kmw.pack(models)
    ask = multi.predictor()
    ask(x)
    gc.collect()
    assert [known() is not None for known in made] == [True]
    multi.weights[0].assign(multi.weights[0] * 2.0)
    ask(x)
    gc.collect()
    assert [known() for known in made] == [None]


def test_predict_large_models_and_many_rows_take_weights_as_arguments(models, x, made):
    kmw.pack(models).predict(x)
    kmw.pack(models).predictor()(np.repeat(x, 30, axis=0))
    kmw.replicate(keras.Sequential([keras.Input((600,)), k.Dense(900)]), 2).predictor()(np.zeros((1, 600), "float32"))
    assert not made
    kmw.pack(models).predictor()(x)
    assert len(made) == 1
