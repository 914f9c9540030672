"""Stopped members are taken out of the computation, and nothing else changes."""

import keras
import numpy as np
import oracle
import pytest
import training_cases as cases
from keras import layers as k

import keras_multiweight as kmw
from keras_multiweight.training import running

MEMBERS, ROWS, EPOCHS = 4, 20, 6
STOPS = [1, 2, 4, 100]  # after which epoch each member stops, from 0: two are computed from epoch 3 on, one from 5 on


def network():
    x = keras.Input((6, 6, 2))
    h = k.BatchNormalization()(k.Dense(4, use_bias=False, activation="tanh")(k.Flatten()(x)))
    return keras.Model(x, k.Dense(3, activation="softmax", kernel_regularizer="l2")(h))


def data():
    """Inputs for all, targets and weights of each member."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=(ROWS, 6, 6, 2)).astype("float32")
    return x, rng.integers(0, 3, (ROWS, MEMBERS, 1)), rng.integers(0, 3, (ROWS, MEMBERS)).astype("float32")


class Part(keras.callbacks.Callback):
    """How many members each epoch computed, and what it said."""

    def on_train_begin(self, logs=None):
        self.computed, self.logs = [], []

    def on_epoch_end(self, epoch, logs=None):
        part = self.model.train_function
        self.computed.append(part.model.num_members if isinstance(part, running.Part) else self.model.num_members)
        self.logs.append(dict(logs))


def stopping_early():
    return kmw.callbacks.MemberEarlyStopping("loss", patience=STOPS, min_delta=1e6, restore_best_weights=False)


def fitted(optimizer, worth, monkeypatch, fit_options=None, **options):
    """A model after a training in which members stop one by one; taking them out must save `worth`."""
    monkeypatch.setattr(running, "WORTH", worth)
    x, y, weights = data()
    multi = kmw.replicate(network, MEMBERS, seed=0)
    multi.compile(optimizer(), "sparse_categorical_crossentropy", weighted_metrics=["accuracy"], **options)
    stopping, seen = stopping_early(), Part()
    fit = {"batch_size": 8, "epochs": EPOCHS, "shuffle": False, "verbose": 0, "callbacks": [stopping, seen]}
    multi.fit(x, y, sample_weight=weights, validation_split=0.25, **{**fit, **(fit_options or {})})
    return multi, seen, stopping


OPTIMIZERS = {
    "one": lambda: keras.optimizers.Adam(0.01, use_ema=True, clipnorm=0.5),
    "mixed": lambda: [cases.mixed(i) for i in range(MEMBERS)],
}


@pytest.mark.parametrize(("name", "steps"), [("one", 2), pytest.param("mixed", 1, marks=pytest.mark.slow)])
def test_stopped_members_are_taken_out_and_nothing_else_changes(name, steps, monkeypatch):
    options = {"steps_per_execution": steps}
    whole, all_computed, _ = fitted(OPTIMIZERS[name], np.inf, monkeypatch, **options)
    taken, some_computed, stopping = fitted(OPTIMIZERS[name], 0, monkeypatch, **options)
    assert all_computed.computed == [4] * 6
    assert some_computed.computed == [4, 4, 4, 2, 2, 1]
    assert stopping.stopped_epoch.tolist() == [1, 2, 4, -1]
    for i in range(MEMBERS):
        for received, expected in zip(taken.member_weights(i), whole.member_weights(i), strict=True):
            oracle.assert_close(received, expected, f"member {i}")
        for received, expected in zip(taken.optimizer.member_state(i), whole.optimizer.member_state(i), strict=True):
            oracle.assert_close(received, expected, f"state of member {i}")
    assert set(taken.member_history) == set(whole.member_history) == {"loss", "accuracy", "val_loss", "val_accuracy"}
    for key, expected in whole.member_history.items():
        oracle.assert_close(taken.member_history[key], expected, key)
        assert (expected[3:, 0] == expected[2, 0]).all(), "the numbers of a stopped member stay as they were"
    for received, expected in zip(some_computed.logs, all_computed.logs):
        assert received == pytest.approx(expected, rel=1e-5)
    assert int(taken.optimizer.iterations) == int(whole.optimizer.iterations) == EPOCHS * 2


class Interrupts(keras.callbacks.Callback):
    """Ctrl-C in the first batches of the epoch that computes two members for the second time."""

    save_freq = "epoch"  # it need not see every batch

    def on_epoch_begin(self, epoch, logs=None):
        self.epoch = epoch

    def on_train_batch_end(self, batch, logs=None):
        if self.epoch == 4:
            raise KeyboardInterrupt


@pytest.mark.parametrize("steps", [1, pytest.param(2, marks=pytest.mark.slow)])
def test_a_fit_that_is_cut_off_while_members_are_out_of_it_leaves_a_whole_model(steps, monkeypatch):
    """With moving averages, which only the end of a `fit` makes the weights."""
    found = []
    for worth in (np.inf, 0):
        seen = Part()
        with pytest.raises(KeyboardInterrupt):
            options = {"callbacks": [stopping_early(), seen, Interrupts()]}
            fitted(OPTIMIZERS["one"], worth, monkeypatch, options, steps_per_execution=steps)
        found.append((seen.computed, seen.model))
    (all_computed, whole), (some_computed, taken) = found
    assert (all_computed, some_computed) == ([4] * 4, [4, 4, 4, 2])
    assert not isinstance(taken.train_function, running.Part)
    assert not taken.optimizer.resting.any(), "in the next fit all train"
    for again in (False, True):
        assert int(taken.optimizer.iterations) == int(whole.optimizer.iterations) == 4 * 2 + steps + again
        for received, expected in zip(taken.get_weights(), whole.get_weights(), strict=True):
            oracle.assert_close(received, expected)
        for i in range(MEMBERS):
            for received, expected in zip(taken.optimizer.member_state(i), whole.optimizer.member_state(i), strict=True):
                oracle.assert_close(received, expected, f"state of member {i}")
        for multi in (whole, taken):
            multi.train_on_batch(*data())
