"""Predictor, and `predict` by it, against the loop over members."""

import concurrent.futures
import math

import keras
import numpy as np
import oracle
import pytest
from keras import layers as k
from keras import ops, tree

import keras_multiweight as kmw
from keras_multiweight.packing import kinds
from keras_multiweight.prediction import Predictor
from keras_multiweight.prediction.batches import EXACT_SIZES, batch_size_for

BACKEND = keras.backend.backend()
SLOW = pytest.mark.slow
WAYS = {
    "tensorflow": (True, False),
    "jax": (True, pytest.param(False, marks=SLOW)),
    "torch": (pytest.param(True, marks=SLOW), False),
}


@keras.saving.register_keras_serializable("tests")
class CountsTraces(k.Layer):
    """Counts how often its Python runs."""

    traces = 0

    def call(self, x):
        CountsTraces.traces += 1
        return x * 1.0


@keras.saving.register_keras_serializable("tests")
class CountsCalls(k.Layer):
    """Has state that moves when it predicts."""

    def build(self, input_shape):
        self.calls = self.add_weight(shape=(), initializer="zeros", trainable=False, name="calls")

    def call(self, x):
        self.calls.assign(self.calls + 1.0)
        return x + self.calls


@keras.saving.register_keras_serializable("tests")
class MinusBatchMean(k.Layer):
    """Rows meet."""

    def call(self, x):
        return x - ops.mean(x, axis=0, keepdims=True)


@keras.saving.register_keras_serializable("tests")
class LooksAtNumbers(k.Layer):
    """Python that needs the numbers, which no program has. TensorFlow runs it at each call."""

    def call(self, x):
        if BACKEND == "tensorflow":
            import tensorflow as tf

            y = tf.py_function(lambda x: x if float(tf.reduce_max(x)) < 1e6 else -x, [x], x.dtype)
            return tf.ensure_shape(y, x.shape)
        return x if float(ops.max(x)) < 1e6 else -x

    def compute_output_spec(self, x):
        return keras.KerasTensor(x.shape, x.dtype)


kmw.register_rule(LooksAtNumbers, kinds.elementwise)  # nothing maps it


def mlp(*inside):
    return keras.Sequential([keras.Input((4,)), k.Dense(5, activation="relu"), *(layer() for layer in inside), k.Dense(2)])


def mixed():
    """Three inputs and outputs in structures; a mask, a recurrent layer, a convolution."""
    inputs = {
        "ids": keras.Input((6,), dtype="int32", name="ids"),
        "parts": [keras.Input((5, 5, 2), name="image"), keras.Input((1,), name="number")],
    }
    words = k.LSTM(3)(k.Embedding(7, 3, mask_zero=True)(inputs["ids"]))
    image = k.Flatten()(k.Conv2D(3, 3, activation="relu")(inputs["parts"][0]))
    joined = k.Concatenate()([words, image, inputs["parts"][1]])
    return keras.Model(inputs, {"class": k.Dense(3, activation="softmax")(joined), "rest": [k.Dense(1)(words), image]})


def mixed_data(rows, seed=0):
    rng = np.random.default_rng(seed)
    image, number = rng.normal(size=(rows, 5, 5, 2)).astype("float32"), rng.normal(size=(rows, 1))  # float64
    return {"ids": rng.integers(0, 7, (rows, 6)), "parts": [image, number]}


def data(rows, seed=0):
    return np.random.default_rng(seed).normal(size=(rows, 4)).astype("float32")


@pytest.fixture(scope="module")
def models():
    return oracle.members(mlp, 3)


@pytest.fixture(scope="module")
def multi(models):
    return kmw.pack(models, verify=False)


@pytest.mark.parametrize("jit_compile", WAYS[BACKEND])
def test_every_way_answers_as_the_members_do(jit_compile):
    models = oracle.members(mixed)
    multi = kmw.pack(models, verify=False)
    ask = multi.predictor(batch_size=4, jit_compile=jit_compile)
    for rows in (4, 7, 1):
        x = mixed_data(rows)
        answers = ask(x)
        tree.assert_same_structure(answers, multi.output)
        expected = oracle.stacked_predictions(oracle.each_in(models[0], models), x, rows)
        for received, wanted in zip(tree.flatten(answers), expected, strict=True):
            oracle.assert_close(received, wanted, f"{rows} rows, {ask!r}")


def looks_up(computed):
    """Ids that are looked up, of 7, and numbers beside them. Of ids that the model computes the predictor sees nothing."""
    inputs = {"ids": keras.Input((6,), dtype="int32", name="ids"), "other": keras.Input((1,), name="other")}
    words = k.Embedding(7, 3)(inputs["ids"] + 0 if computed else inputs["ids"])
    return keras.Model(inputs, k.Dense(2)(k.Concatenate()([k.Flatten()(words), inputs["other"]])))


@pytest.mark.skipif(BACKEND != "tensorflow", reason="the others compile in predict as Keras does, or not at all")
@pytest.mark.parametrize("computed", [False, True])
def test_predict_of_ids_is_compiled_and_an_id_out_of_range_is_the_error_that_it_is_in_keras(computed):
    models = oracle.members(lambda: looks_up(computed))
    multi = kmw.pack(models, verify=False)
    rng = np.random.default_rng(0)
    x = {"ids": rng.integers(-7, 7, (4, 6)), "other": 100 * rng.normal(size=(4, 1)).astype("float32")}
    for model in (multi, multi.average()):
        received, expected = model.predict(x), oracle.stacked_predictions(models, x, 4)[0]
        oracle.assert_close(received, expected if model is multi else expected.mean(axis=1))
        assert ("XLA" in repr(model._own_predictor(x, None))) == (not computed)
        for wrong in (7, -8):
            ids = x["ids"].copy()
            ids[3, 5] = wrong
            for refuses in (model, models[0]):
                with pytest.raises(Exception, match="is not in"):
                    refuses.predict({**x, "ids": ids}, verbose=0)
        oracle.assert_close(model.predict(x), received)


@pytest.mark.parametrize("batch_size", [None, 3])
def test_any_number_of_rows_is_answered(models, multi, batch_size):
    ask = multi.predictor(batch_size)
    x = data(40)
    expected = oracle.stacked_predictions(models, x, 40)[0]
    for rows in (1, 2, 3, 4, 7, 40):
        oracle.assert_close(ask(x[:rows]), expected[:rows], f"{rows} rows")
    assert ask(x[:0]).shape == (0, 3, 2)


@pytest.mark.parametrize("limit", [64, 1024, 3000])
def test_programs_for_many_sizes_are_few_and_compute_little_more_than_there_is(limit):
    known = {1, 32}  # as `predict` meets when it is asked for a row, for a few, and then for many
    for rows in (1024, *range(1, 6000, 7)):
        size = batch_size_for(rows, limit, known)
        batches = math.ceil(rows / size)
        assert size <= limit
        assert batches <= max(2 * math.ceil(rows / limit), 1)
        assert batches * size <= 1.25 * rows + 1
        known.add(size)
    assert len(known) <= EXACT_SIZES + 4 * math.log2(limit)


def test_many_sizes_share_programs(multi):
    ask = multi.predictor()
    x = data(60)
    expected = ask(x)
    for rows in range(1, 60):
        oracle.assert_close(ask(x[:rows]), expected[:rows], f"{rows} rows")
    assert ask.num_programs <= 12


def test_a_last_batch_with_fewer_rows_is_not_traced_again():
    multi = kmw.replicate(mlp(CountsTraces), 2, seed=0)
    x = data(23)
    ask = multi.predictor(batch_size=8)
    for predict in (ask, lambda x: multi.predict(x, batch_size=8)):
        predict(x)
        before = CountsTraces.traces
        for rows in (23, 22, 20):
            assert predict(x[:rows]).shape == (rows, 2, 2)
        eager = BACKEND == "torch" and predict is not ask  # until it pays to trace
        assert eager or CountsTraces.traces == before


def test_changed_weights_are_seen(models):
    multi = kmw.pack(models, verify=False)
    x, y = data(10), np.zeros((10, 2), "float32")
    ask = multi.predictor(batch_size=16)
    ask(x)
    multi.set_member_weights(1, [w + 0.5 for w in multi.member_weights(1)])
    oracle.assert_close(ask(x), ops.convert_to_numpy(multi(x)))
    seen = []
    see = keras.callbacks.LambdaCallback(on_train_batch_end=lambda batch, logs: seen.append(ask(x)))
    multi.compile("sgd", "mse")
    multi.fit(x, y, batch_size=5, epochs=2, callbacks=[see], verbose=0)
    assert len({answers.tobytes() for answers in seen}) == 4
    oracle.assert_close(ask(x), ops.convert_to_numpy(multi(x)))
    np.testing.assert_array_equal(ask(x), seen[-1])


@pytest.mark.parametrize("jit_compile", ("auto", False))
def test_programs_are_made_in_the_middle_of_fit(models, jit_compile):
    multi = kmw.pack(models, verify=False)
    x, seen, ask = data(12), [], multi.predictor(jit_compile=jit_compile)
    middle = multi.average().predictor(jit_compile=jit_compile)
    see = keras.callbacks.LambdaCallback(on_train_batch_end=lambda batch, logs: seen.append((ask(x), middle(x))))
    multi.compile("sgd", "mse")
    multi.fit(data(6), np.zeros((6, 2), "float32"), batch_size=3, callbacks=[see], verbose=0)
    (first, _), (answers, mean) = seen
    assert not np.array_equal(first, answers)
    oracle.assert_close(answers, ops.convert_to_numpy(multi(x)))
    oracle.assert_close(mean, answers.mean(axis=1))


def test_statistics_adapted_anew_are_seen():
    norm = k.Normalization()
    norm.adapt(data(20))
    model = keras.Sequential([keras.Input((4,)), norm, k.Dense(2)])
    multi = kmw.pack([model] * 2, verify=False)
    ask = multi.predictor()
    ask(data(3))
    for shared in [layer for layer in multi.layers if isinstance(layer, k.Normalization)]:
        shared.adapt(5 + 3 * data(20, 1))
    oracle.assert_close(ask(data(3)), ops.convert_to_numpy(multi(data(3))))


def test_state_that_moves_when_predicting_moves():
    multi = kmw.replicate(mlp(CountsCalls), 2, seed=0)
    ask = multi.predictor(batch_size=4)
    x = data(4)
    first, second = ask(x), ask(x)
    assert np.abs(second - first).max() > 1e-3
    calls = [v for v in multi.variables if v.name == "calls"]
    np.testing.assert_array_equal(ops.convert_to_numpy(calls[0]), [2.0, 2.0])


def test_threads_get_their_own_answers(models, multi):
    ask = multi.predictor()
    inputs = [data(1 + seed % 5, seed) for seed in range(40)]
    expected = [oracle.stacked_predictions(models, x, 10)[0] for x in inputs[:5]]
    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(ask, inputs))
    for received, wanted in zip(answers, expected):
        oracle.assert_close(received, wanted)
    for received, x in zip(answers, inputs):
        np.testing.assert_array_equal(received, ask(x))


def test_answers_are_the_callers_to_change(multi):
    ask = multi.predictor()
    x = data(4)
    answers = ask(x)
    expected = answers.copy()
    answers += 1.0
    np.testing.assert_array_equal(ask(x), expected)


def reads_results_twice():
    """Results, inputs and weights that are read again after something elementwise was made of them."""
    x = keras.Input((6,))
    h = k.Dense(6)(x)
    a = k.Add()([h, k.Activation("relu")(h)])
    b = k.Multiply()([k.Activation("tanh")(a), x])
    c = k.Reshape((3, 2))(k.Activation("sigmoid")(k.Dense(6)(b)))
    d = k.Add()([k.Dense(6, use_bias=False)(b), x])  # no bias, whatever the number of rows
    e = k.EinsumDense("bts,sij->btij", (3, 2, 2), bias_axes="ij")(k.Dense(2)(c))
    return keras.Model(x, [k.Flatten()(c), k.Subtract()([k.Flatten()(c), h]), h, d, e])


@pytest.mark.parametrize("rows", [5, 3, 1])
def test_what_is_read_again_is_not_written_over(rows):
    models = oracle.members(reads_results_twice, 3)
    ask = kmw.pack(models, verify=False).predictor()
    x = np.random.default_rng(0).normal(size=(rows, 6)).astype("float32")
    before = x.copy()
    for _ in range(2):
        for received, wanted in zip(ask(x), oracle.stacked_predictions(models, x, 5), strict=True):
            oracle.assert_close(received, wanted)
    np.testing.assert_array_equal(x, before)


@pytest.mark.parametrize("rows", [10, 12])
def test_rows_that_meet_are_batched_as_keras_batches_them(rows):
    models = oracle.members(lambda: mlp(MinusBatchMean), 2)
    multi = kmw.pack(models, verify=False)
    x = data(rows)
    expected = oracle.stacked_predictions(models, x, 8)[0]
    ask = multi.predictor(batch_size=8)
    ask(np.zeros_like(x))  # a warm-up whose rows are all alike
    oracle.assert_close(ask(x), expected, "predictor")
    oracle.assert_close(multi.predict(x, batch_size=8), expected, "predict")


def test_what_does_not_compile_runs_all_the_same():
    models = oracle.members(lambda: mlp(LooksAtNumbers), 2)
    multi = kmw.pack(models, verify=False)
    ask = multi.predictor(jit_compile=True) if BACKEND != "torch" else multi.predictor()
    x = data(5)
    oracle.assert_close(ask(x), np.stack([ops.convert_to_numpy(model(x)) for model in models], axis=1))
    compiled, plain = {"tensorflow": ("XLA", "graph"), "jax": ("jit", "eager"), "torch": ("traced", "eager")}[BACKEND]
    assert f": {plain}, 1 programs, no {compiled} because of " in repr(ask)


@pytest.mark.skipif(BACKEND != "tensorflow", reason="the others have no tensors of strings")
def test_strings_are_answered():
    def build():
        inputs = keras.Input((2,), dtype="string")
        return keras.Model(inputs, k.Dense(2)(k.StringLookup(vocabulary=["a", "b"], output_mode="multi_hot")(inputs)))

    models = oracle.members(build, 2)
    multi = kmw.pack(models, verify=False)
    x = np.array([["a", "b"], ["b", "c"], ["a", "a"]], dtype=object)
    oracle.assert_close(multi.predictor(batch_size=2)(x), oracle.stacked_predictions(models, x, 3)[0])


def test_a_way_that_failed_in_the_first_batch_is_not_gone_again():
    models = oracle.members(mlp)
    ask = Predictor(kmw.pack(models, verify=False), batch_size=4)
    last, tried = ask._ways[-1], []

    def fails(call, arrays):
        tried.append("first")
        raise NotImplementedError("no such operation")

    def runs(call, arrays):
        tried.append("second")
        return last.build(call, arrays)

    ask._ways = [last._replace(name="first", build=fails), last._replace(name="second", build=runs, fixed_rows=True)]
    oracle.assert_close(ask(data(20)), oracle.stacked_predictions(models, data(20), 20)[0])
    assert tried == ["first", "second"] and "first" in ask.failed


def test_other_dtypes_ranks_and_tensors_are_taken_as_keras_takes_them():
    models = oracle.members(lambda: keras.Sequential([keras.Input((1,)), k.Dense(3)]), 2)
    multi = kmw.pack(models, verify=False)
    ask = multi.predictor()
    whole = np.arange(6)
    expected = oracle.stacked_predictions(models, whole[:, None].astype("float32"), 6)[0]
    for x in (whole, whole[:, None].astype("float64"), ops.convert_to_tensor(whole[:, None]), whole[::-1][::-1]):
        oracle.assert_close(ask(x), expected)
        oracle.assert_close(multi.predict(x), expected)
    read_only = whole[:, None].astype("float32")
    read_only.flags.writeable = False
    oracle.assert_close(ask(read_only), expected)


def test_other_models_are_predicted_too(multi):
    average = multi.average()
    x = data(9)
    oracle.assert_close(Predictor(average, batch_size=4)(x), multi.predict(x).mean(axis=1))


def test_predict_answers_alike_before_and_after_it_is_traced(models):
    fresh = kmw.pack(models, verify=False)
    x = data(30)
    expected = oracle.stacked_predictions(models, x, 30)[0]
    for _ in range(2):
        oracle.assert_close(fresh.predict(x, batch_size=1), expected)


def test_wrong_inputs_are_named_and_leave_the_predictor_as_it_was(multi):
    ask = multi.predictor()
    for x, message in (
        (data(4)[:, :3], r"must have shape \(None, 4\). Received: shape \(4, 3\)"),
        ([data(4), data(4)], "takes 1 inputs, .* Received: 2"),
        (np.array(1.0), r"batch axis first, of equally many rows. Received: shapes \(\)"),
        ([1.0, 2.0], "takes NumPy arrays, .* Received: a float"),
    ):
        with pytest.raises(ValueError, match=message):
            ask(x)
    with pytest.raises(ValueError, match=r"at least 1. Received: batch_size=0"):
        multi.predictor(batch_size=0)
    before = repr(ask)
    assert "because" not in before and "0 programs" in before
    assert ask(data(4)).shape == (4, 3, 2)


def test_inputs_of_different_rows_are_refused():
    a, b = keras.Input((2,)), keras.Input((2,))
    multi = kmw.replicate(keras.Model([a, b], k.Dense(1)(k.Concatenate()([a, b]))), 2, seed=0)
    with pytest.raises(ValueError, match=r"equally many rows. Received: shapes \(3, 2\), \(4, 2\)"):
        multi.predictor()([np.zeros((3, 2)), np.zeros((4, 2))])
