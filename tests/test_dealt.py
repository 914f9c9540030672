"""Batches that the cores compute beside each other, against the loop over members."""

import concurrent.futures
import threading

import keras
import numpy as np
import oracle
import pytest
from keras import layers as k
from keras import ops, tree
from test_chunks import MEMBERS, data, of_each
from test_predictor import CountsCalls, MinusBatchMean, mixed, mixed_data, mlp

import keras_multiweight as kmw
from keras_multiweight.prediction import lowerings
from keras_multiweight.prediction.batches import beside
from keras_multiweight.prediction.predictor import Predictor

BACKEND = keras.backend.backend()
COMPILES = {"tensorflow": True, "jax": True, "torch": False}[BACKEND]

pytestmark = pytest.mark.skipif(not COMPILES, reason="torch deals what it computes to the cores itself")


@pytest.fixture(scope="module")
def models():
    return oracle.members(mlp, MEMBERS)


@pytest.fixture(autouse=True)
def four_cores(monkeypatch):
    monkeypatch.setattr(lowerings, "cores", lambda: 4)


@pytest.fixture
def two_cores(monkeypatch):
    monkeypatch.setattr(lowerings, "cores", lambda: 2)


def noting_threads(ask, at_once=True):
    """The names of the threads in which programs run from now on; those that run at once wait for another one."""
    names, are_two = set(), threading.Event()
    for key, program in list(ask._programs.items()):

        def run(arrays, run=program.run):
            names.add(threading.current_thread().name)
            if len(names) > 1:
                are_two.set()
            assert are_two.wait(60 if at_once else 0) or not at_once
            return run(arrays)

        ask._programs[key] = program._replace(run=run)
    return names


@pytest.mark.parametrize("rows", [1, 2, 3, 9, 16, 23])
def test_dealt_batches_answer_as_the_members_do_in_order(rows):
    models = oracle.members(mixed, MEMBERS)
    ask = Predictor(kmw.pack(models, verify=False), jit_compile=True, member_chunk=2, most_rows=4, threads=3)
    x = mixed_data(rows)
    for _ in range(2):
        for received, wanted in zip(tree.flatten(ask(x)), of_each(models, x, rows), strict=True):
            oracle.assert_close(received, wanted, f"{rows} rows, {ask!r}")
    assert not ask.failed
    names = noting_threads(ask, at_once=rows > 2)
    ask(x)
    assert "MainThread" in names and (len(names) > 1) == (rows > 2)


def test_a_core_takes_all_its_rows_where_products_are_large_and_memory_allows(two_cores):
    layers = [keras.Input((4,)), k.Dense(64, activation="tanh"), k.Dense(64), k.Dense(1)]
    multi = kmw.replicate(keras.Sequential(layers), 20, seed=0)
    found = {rows: multi.estimate(rows).batch_size for rows in (2048, 4096, 16384, 32768)}
    assert found == {2048: 512, 4096: 2048, 16384: 8192, 32768: 8192}
    small = multi.estimate(16384, memory_limit=4e6)
    assert (small.batch_size, small.threads) == (745, 2) and small.activations <= 4e6


def test_many_rows_of_many_narrow_members_are_dealt_one_member_after_another(two_cores):
    multi = kmw.replicate(keras.Sequential([keras.Input((4,)), k.Dense(64, activation="tanh"), k.Dense(1)]), 20, seed=0)
    estimates = {rows: multi.estimate(rows) for rows in (800, 900, 5000)}
    found = {rows: (e.batch_size, e.member_chunk, e.threads) for rows, e in estimates.items()}
    assert found == {800: (800, 20, 1), 900: (450, 1, 2), 5000: (625, 1, 2)}
    assert "on each of 2 cores" in str(estimates[900])
    assert estimates[900].activations == 2 * Predictor(multi, threads=1, member_chunk=1).estimate(450).activations
    ask, x = multi.predictor(), data(900)
    oracle.assert_close(ask(x), np.stack([member.predict(x, verbose=0) for member in multi.unpack()], 1))
    names = noting_threads(ask)
    oracle.assert_close(multi.predict(x, batch_size=300), ask(x))
    assert len(names) == 2 and "MainThread" in names


def test_few_rows_of_members_whose_weights_outweigh_them_are_not_dealt(two_cores):
    multi = kmw.replicate(keras.Sequential([keras.Input((512,)), k.Dense(64), k.Dense(1)]), 600, seed=0)
    found = {rows: multi.estimate(rows) for rows in (90, 93)}
    assert [(e.member_chunk == 600, e.threads) for e in found.values()] == [(True, 1), (False, 2)]


def test_large_products_few_members_and_little_memory_are_not_dealt(two_cores):
    def threads(width, members, **options):
        model = keras.Sequential([keras.Input((width,)), k.Dense(width, activation="relu"), k.Dense(1)])
        return Predictor(kmw.replicate(model, members, seed=0), **options).estimate(1024).threads

    assert threads(64, 40) == 2
    assert threads(160, 20) == 1  # XLA deals each product
    assert threads(64, 8) == 1  # all of it stays in the caches
    assert threads(64, 40, memory_limit=500_000) == 1
    assert threads(64, 40, batch_size=512) == threads(64, 40, threads=1) == 1
    assert threads(64, 40, batch_size=512, threads=2) == threads(64, 40, threads=1000) == 2


@pytest.mark.skipif(BACKEND != "jax", reason="TensorFlow's own convolutions keep all cores busy")
def test_few_rows_of_large_images_are_dealt(two_cores):
    image = keras.Sequential([keras.Input((64, 64, 3)), k.Conv2D(32, 3), k.GlobalMaxPooling2D()])
    multi = kmw.replicate(image, 3, seed=0)
    found = {rows: multi.estimate(rows) for rows in (1, 4)}
    assert [(e.batch_size, e.threads) for e in found.values()] == [(1, 1), (2, 2)]
    x = np.random.default_rng(0).normal(size=(4, 64, 64, 3)).astype("float32")
    oracle.assert_close(multi.predict(x), np.stack([member.predict(x, verbose=0) for member in multi.unpack()], 1))


@keras.saving.register_keras_serializable("test_dealt")
class NeedsDigits(keras.layers.Layer):
    """The rest of a division, some hundredths off in float32."""

    def call(self, x):
        return ops.cast((1e6 * ops.cast(x, "float64")) % 1.0, "float32")


@pytest.mark.skipif(BACKEND != "jax", reason="the others have no settings of a thread")
@pytest.mark.filterwarnings("ignore:Explicitly requested dtype", "ignore:Layer")
@pytest.mark.parametrize("is_first_without", [True, False])
def test_what_is_set_in_the_callers_thread_holds_for_all_batches(is_first_without):
    """The scopes of JAX are the caller's alone; under one of them the caller computes all batches."""
    import jax

    enable_x64 = jax.enable_x64 if hasattr(jax, "enable_x64") else jax.experimental.enable_x64
    multi = kmw.replicate(keras.Sequential([keras.Input((4,)), NeedsDigits(), k.Dense(2)]), 4, seed=0)
    ask = Predictor(multi, member_chunk=1, most_rows=2, threads=2)
    if is_first_without:
        without = ask(data(16))
    with enable_x64(True):
        received = ask(data(16))
        expected = np.stack([member.predict_on_batch(data(16)) for member in multi.unpack()], 1)
    without = without if is_first_without else ask(data(16))
    oracle.assert_close(received, expected)
    assert (np.abs(without - expected).max(axis=(1, 2)) > 1e-3).any()
    names = noting_threads(ask)
    ask(data(16))
    assert len(names) == 2


@pytest.mark.parametrize("rows", [2, 4, 12])
def test_rows_that_meet_are_cut_as_keras_cuts_them(rows):
    models = oracle.members(lambda: mlp(MinusBatchMean), 3)
    ask = Predictor(kmw.pack(models, verify=False), member_chunk=1, most_rows=8, threads=4)
    oracle.assert_close(ask(data(rows)), oracle.stacked_predictions(models, data(rows), 8)[0])


def test_what_moves_when_predicting_is_not_dealt():
    multi, other = (kmw.replicate(mlp(CountsCalls), 3, seed=0) for _ in range(2))
    ask = Predictor(multi, member_chunk=1, most_rows=2, threads=4)
    oracle.assert_close(ask(data(16)), Predictor(other, most_rows=2, threads=1)(data(16)))
    assert "chunks of members" in ask.failed


def test_an_error_in_a_thread_reaches_the_caller_and_nothing_stays_behind(models):
    ask = Predictor(kmw.pack(models, verify=False), member_chunk=1, most_rows=2, threads=2)
    expected = ask(data(8))
    key, program = next(iter(ask._programs.items()))
    calls = iter(range(100))

    def run(arrays):
        if next(calls) == 1:
            raise MemoryError("none left")
        return program.run(arrays)

    ask._programs[key] = program._replace(run=run)
    with pytest.raises(MemoryError, match="none left"):
        ask(data(8))
    oracle.assert_close(ask(data(8)), expected)


def test_threads_ask_for_dealt_batches(models):
    ask = Predictor(kmw.pack(models, verify=False), member_chunk=2, most_rows=4, threads=2)
    inputs = [data(30, seed) for seed in range(12)]
    ask(inputs[0])
    with concurrent.futures.ThreadPoolExecutor(6) as pool:
        answers = list(pool.map(ask, inputs))
    for received, x in zip(answers, inputs):
        oracle.assert_close(received, of_each(models, x, 30)[0])


def test_no_more_than_the_threads_and_one_are_held_at_once():
    begun = []
    results = beside(lambda item: begun.append(item) or item, range(100), threads=3)
    assert next(results) == 0 and len(begun) <= 4
    assert list(results) == list(range(1, 100))


def test_the_caller_computes_what_no_thread_has_begun():
    by, has_done_two = [], threading.Event()

    def compute(item):
        by.append(threading.current_thread().name)
        if by.count("MainThread") == 2:
            has_done_two.set()
        assert by[-1] == "MainThread" or has_done_two.wait(60)
        return item

    assert list(beside(compute, range(3), threads=2)) == [0, 1, 2]


def test_tune_tries_both_ways(models, monkeypatch, two_cores):
    from keras_multiweight.prediction.tuning import Tuner

    tried = []
    is_faster = lambda self, ask: tried.append(ask.threads) or ask.threads == 2  # noqa: E731
    monkeypatch.setattr(Tuner, "_is_faster", is_faster)
    monkeypatch.setattr(Tuner, "_seconds", lambda self, one, other: (2.0, 1.0))
    multi = kmw.pack(models, verify=False)
    found = multi.tune(data(64), verbose=False, jit_compile=[True])
    assert 2 in tried and found.threads == 2 and "on each of 2 cores" in str(found)
    assert multi.estimate(64).threads == 2
    oracle.assert_close(multi.predict(data(64)), of_each(models, data(64), 64)[0])


KINDS = {
    "recurrent": lambda x: k.LSTM(5)(x),
    "attention": lambda x: k.GlobalAveragePooling1D()(k.MultiHeadAttention(2, 3)(x, x)),
    "convolution": lambda x: k.Flatten()(k.Conv1D(5, 3)(x)),
}


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_of_layer_is_dealt(kind):
    inputs = keras.Input((6, 4))
    models = oracle.members(lambda: keras.Model(inputs, k.Dense(2)(KINDS[kind](inputs))))
    ask = Predictor(kmw.pack(models, verify=False), jit_compile=True, member_chunk=1, most_rows=2, threads=2)
    x = np.random.default_rng(0).normal(size=(9, 6, 4)).astype("float32")
    oracle.assert_close(ask(x), oracle.stacked_predictions(models, x, 9)[0])
    assert not ask.failed
