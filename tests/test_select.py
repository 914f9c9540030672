"""`select`: a smaller MultiModel whose members are those of the larger one, bit for bit."""

import keras
import numpy as np
import oracle
import pytest
from keras import layers as k
from test_subclassed import Perceptron

import keras_multiweight as kmw
from keras_multiweight.packing.select import join_members


def network(units=5):
    x = keras.Input((3,))
    h = k.BatchNormalization()(k.Dense(units, activation="relu")(x))
    return keras.Model(x, k.Dense(2)(k.Dropout(0.2)(h)))


@pytest.fixture(scope="module")
def case():
    models = oracle.members(network, 4)
    x = np.random.default_rng(0).normal(size=(6, 3)).astype("float32")
    return kmw.pack(models, verify=False), models, x


@pytest.mark.parametrize("indices", [[2], [3, 0], [1, 1, -1], np.array([0, 1, 2, 3])])
def test_selected_members_answer_as_before(case, indices):
    multi, _, x = case
    some = multi.select(indices)
    oracle.assert_close(some.predict(x), multi.predict(x)[:, indices])
    assert some.num_members == len(indices)
    for at, i in enumerate(indices):
        for a, b in zip(some.member_weights(at), multi.member_weights(i), strict=True):
            np.testing.assert_array_equal(a, b)


def test_selected_members_train_and_leave_the_whole_as_it_was(case):
    multi, _, x = case
    before = multi.get_weights()
    some = kmw.select(multi, [1, 3])
    some.compile("sgd", "mse")
    some.fit(x, np.zeros((6, 2)), verbose=0)
    for a, b in zip(before, multi.get_weights()):
        np.testing.assert_array_equal(a, b)


def test_names_and_seeds_go_along():
    multi = kmw.replicate(network, 3, seed=0)
    some = multi.select([2, 0])
    assert some.member_names == [multi.member_names[2], multi.member_names[0]]
    assert some.member_seeds == [multi.member_seeds[2], multi.member_seeds[0]]


def test_what_is_shared_stays_shared():
    trunk = keras.Sequential([keras.Input((3,)), k.Dense(4)])
    trunk.trainable = False

    def head():
        x = keras.Input((3,))
        return keras.Model(x, k.Dense(1)(trunk(x)))

    multi = kmw.pack([head() for _ in range(3)], share="frozen", verify=False)
    some = multi.select([2, 1])
    assert [layer.units for layer in some.shared_layers()] == [4]
    some.check_trainable()


def test_subclassed_and_mixed_members_are_selected(case):
    x = {name: np.ones((2, 3), "float32") for name in ("left", "right")}
    models = [Perceptron() for _ in range(3)]
    for model in models:
        model(x)
    multi = kmw.pack(models, inputs=x, verify=False)
    expected, received = multi.predict(x), multi.select([2, 0]).predict(x)
    for name in expected:
        oracle.assert_close(received[name], expected[name][:, [2, 0]])
    mixed = kmw.pack([network(5), network(6), network(5)], group=True, verify=False)
    oracle.assert_close(mixed.select([2, 1]).predict(case[2]), mixed.predict(case[2])[:, [2, 1]])


def test_members_that_read_rows_of_their_own_answer_one_question(case):
    multi, _, x = case
    apart = multi.select([2, 0], member_inputs=True)
    oracle.assert_close(apart.predict(np.stack([x, -x], axis=1))[:, 0], multi.predict(x)[:, 2])
    oracle.assert_close(apart.predict(np.stack([x, -x], axis=1))[:, 1], multi.predict(-x)[:, 0])
    assert apart.select([1]).member_inputs == [True]
    oracle.assert_close(apart.select([1, 0], member_inputs=False).predict(x), multi.predict(x)[:, [0, 2]])


def test_joined_members_are_those_of_both(case):
    multi, _, x = case
    joined = join_members(multi.select([3]), multi.select([0, 1]))
    oracle.assert_close(joined.predict(x), multi.predict(x)[:, [3, 0, 1]])


@pytest.mark.parametrize(
    ("indices", "error", "message"),
    [
        ([4], IndexError, "from 0 to 3. Received: i=4"),
        ([], ValueError, r"at least one int. Received: indices=\[\]"),
        ([0.5], ValueError, "at least one int"),
        ([True, False, True, True], ValueError, "at least one int"),
        (2, ValueError, "must be a list"),
    ],
)
def test_wrong_indices_are_named(case, indices, error, message):
    with pytest.raises(error, match=message):
        case[0].select(indices)
