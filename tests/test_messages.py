"""What newcomers stumble over is said in words: what must hold, what came, and what to do."""

import warnings

import keras
import numpy as np
import pytest
from keras import layers as k

import keras_multiweight as kmw
from keras_multiweight import merging


def network(units=4):
    x = keras.Input((6,))
    return keras.Model(x, k.Dense(1)(k.Dense(units)(x)))


@pytest.fixture(scope="module")
def multi():
    multi = kmw.replicate(network, 3, seed=0)
    multi.compile("sgd", "mse")
    return multi


X, Y = np.zeros((8, 6), "float32"), np.zeros((8, 1), "float32")
OF_MEMBERS = np.zeros((8, 3, 6), "float32")


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda m: m.predict(OF_MEMBERS), r"(?s)found shape.*length 3, as if it held.*member_inputs=True to pack"),
        (lambda m: m.fit(OF_MEMBERS, Y, verbose=0), "member_inputs=True to pack"),
        (lambda m: m.fit(X, Y, sample_weight=np.ones((8, 2)), verbose=0), r"hold the 3 members. Received: shape \(B, 2\)"),
        (lambda m: m.estimate(X), r"rows must be an int.*Received: rows=a ndarray of shape \(8, 6\)"),
        (lambda m: m.plan(rows="a"), "rows must be an int.*Received: rows=a str"),
        (lambda m: m.tune(X[:0]), "tune needs at least one row"),
        (lambda m: m.predict(X, memory_limit="1MB"), "memory_limit must be a number of bytes.*Received: memory_limit='1MB'"),
        (lambda m: merging.loss_barrier(network(), network(), (X, Y[:3]), loss="mse"), "8 rows to score on. Received: 3"),
        (lambda m: merging.greedy_soup(m, (X, Y[:3]), "mse", mode="min"), "8 rows to score on. Received: 3"),
        (lambda m: merging.uniform_soup([network(), network(5)]), r"(?s)of the members 0; 1.*average\(\)"),
    ],
)
def test_errors_say_what_to_do(multi, call, message):
    with pytest.raises(ValueError, match=message):
        call(multi)


def test_an_estimator_needs_a_function_that_builds():
    sklearn = pytest.importorskip("keras_multiweight.sklearn")
    with pytest.raises(ValueError, match=r"build must be None or a function.*Received: build='x'"):
        sklearn.MultiBaggingClassifier("x").fit(X, [0, 1] * 4)


def test_objects_show_themselves_in_a_line():
    bootstrap = kmw.Bootstrap(8, 3, seed=0)
    temperature = kmw.bagging.Temperature().fit(np.array([[2.0, 0.0], [0.0, 2.0], [1.0, 0.0]]), [0, 1, 1])
    shown = [
        (bootstrap, "<Bootstrap: 3 members, each of 8 of 8 rows>"),
        (kmw.BaggingDataset(X, Y, bootstrap, 4), "<BaggingDataset: batches of 4 rows of each member, <Bootstrap"),
        (kmw.bagging.Temperature(), "Temperature(per_member=False, not fitted)"),
        (temperature, "Temperature(per_member=False, temperature="),
        (merging.weight_matching([network(), network()]), "<Alignment of 2 members in 1 groups of units: [0, "),
    ]
    for thing, text in shown:
        assert repr(thing).startswith(text) and len(repr(thing)) < 200


class Own(keras.Model):
    def __init__(self):
        super().__init__()
        self.dense = k.Dense(2)

    def call(self, x):
        return self.dense(x)


def test_warnings_name_the_line_of_the_caller(multi):
    own = Own()
    own(X)
    everyone = np.array([[True] * 3] + [[False] * 3] * 7)
    for call in (lambda: multi.oob_predict(X, everyone), lambda: kmw.pack([own])):
        with warnings.catch_warnings(record=True) as found:
            warnings.simplefilter("always")
            call()
        ours = [w for w in found if "rule of its own" in str(w.message) or "out-of-bag" in str(w.message)]
        assert ours and {w.filename for w in ours} == {__file__}


def test_unpack_takes_a_path(multi, tmp_path):
    multi.save(tmp_path / "packed.keras")
    for a, b in zip(kmw.unpack(tmp_path / "packed.keras"), multi.unpack(), strict=True):
        np.testing.assert_array_equal(a.get_weights()[0], b.get_weights()[0])


def test_a_clone_of_a_compiled_model_predicts_and_has_no_loss(multi):
    clone = keras.models.clone_model(multi)
    clone.set_weights(multi.get_weights())
    np.testing.assert_allclose(clone.predict(X, verbose=0), multi.predict(X), atol=1e-6)
    assert clone.loss is None
