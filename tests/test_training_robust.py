"""Whatever ends a training, the model is left usable and consistent."""

import keras
import numpy as np
import pytest
import training_cases as cases

import keras_multiweight as kmw

X, Y = cases.data(cases.mlp)
OPTIONS = {"shuffle": False, "verbose": 0}


def compiled(steps=1, **options):
    multi = kmw.replicate(cases.mlp, 3, seed=0)
    multi.compile("adam", "sparse_categorical_crossentropy", steps_per_execution=steps, **options)
    return multi


class Raises(keras.callbacks.Callback):
    """Raises after a batch of the second epoch."""

    def __init__(self, error, batch):
        super().__init__()
        self.error, self.batch, self.epoch = error, batch, 0

    def on_epoch_begin(self, epoch, logs=None):
        self.epoch = epoch

    def on_train_batch_end(self, batch, logs=None):
        if (self.epoch, batch) == (1, self.batch):
            raise self.error


CUTS = [(RuntimeError("mine"), 1), (KeyboardInterrupt(), 2)]
MORE_CUTS = [pytest.param(error, 3 - steps, marks=pytest.mark.slow) for error, steps in CUTS]


@pytest.mark.parametrize(("error", "steps"), CUTS + MORE_CUTS)
def test_a_fit_that_is_cut_off_keeps_what_it_did_and_goes_on(error, steps):
    """Also with another batch size, and with members that had been stopped."""
    cut, whole = compiled(steps), compiled()
    stopping = kmw.callbacks.MemberEarlyStopping("loss", patience=1, min_delta=[0.0, 0.0, 1e6])
    with pytest.raises(type(error)):
        cut.fit(X, Y, batch_size=5, epochs=3, callbacks=[Raises(error, batch=1), stopping], **OPTIONS)
    whole.fit(X, Y, batch_size=5, epochs=1, callbacks=[], **OPTIONS)
    whole.fit(X[:10], Y[:10], batch_size=5, **OPTIONS)
    for multi in (cut, whole):
        multi.fit(X, Y, batch_size=8, epochs=2, **OPTIONS)
    assert_close(cut.get_weights(), whole.get_weights())
    assert int(cut.optimizer.iterations) == int(whole.optimizer.iterations) == 5 + 2 + 2 * 3
    assert cut.predict(X).shape == (24, 3, 3)


def assert_close(received, expected):
    for a, b in zip(received, expected, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)


@pytest.mark.filterwarnings("ignore:Member")
@pytest.mark.parametrize("steps", [1, 2])
def test_a_member_that_is_sick_in_a_fit_that_is_cut_off_stays_so_and_the_others_go_on(steps):
    """Also with another batch size."""
    sick, well, alone = compiled(steps), compiled(steps), compiled()
    for multi, weight in ((sick, np.nan), (well, 1.0)):
        weights = np.ones((len(X), 3), "float32")
        weights[7, 1] = weight  # in the second batch
        with pytest.raises(KeyboardInterrupt):
            interrupt = Raises(KeyboardInterrupt(), batch=1)
            multi.fit(X, Y, sample_weight=weights, batch_size=5, epochs=3, callbacks=[interrupt], **OPTIONS)
        multi.fit(X, Y, batch_size=8, epochs=2, **OPTIONS)
    alone.fit(X[:5], Y[:5], batch_size=5, **OPTIONS)
    assert sick.optimizer.quarantined.tolist() == [0, 2, 0]
    for i, other in ((0, well), (1, alone), (2, well)):
        assert_close(sick.member_weights(i), other.member_weights(i))
    assert np.isfinite(sick.predict(X)).all()


class Breaks(keras.utils.PyDataset):
    """Three batches, of which the second cannot be read once an epoch was ended."""

    epoch, num_batches = 0, 3

    def __getitem__(self, number):
        if (self.epoch, number) == (1, 1):
            raise RuntimeError("mine")
        return X[number::3], Y[number::3]

    def on_epoch_end(self):
        self.epoch += 1


def test_data_that_cannot_be_read_leave_what_was_learned_before():
    """After as many steps as a single model."""
    multi = compiled(metrics=["accuracy"])
    single = multi.member(1)
    single.compile("adam", "sparse_categorical_crossentropy", metrics=["accuracy"])
    for model in (multi, single):
        with pytest.raises(Exception, match="mine"):  # TensorFlow raises an error of its own
            model.fit(Breaks(), epochs=3, **OPTIONS)
        model.fit(X, Y, batch_size=8, **OPTIONS)
    assert int(multi.optimizer.iterations) == int(single.optimizer.iterations) > 3
    assert_close(multi.member_weights(1), single.get_weights())


def test_wrong_data_leaves_the_model_as_it_was():
    multi = compiled(metrics=["accuracy"])
    multi.fit(X, Y, batch_size=8, **OPTIONS)
    for method in ("fit", "evaluate", "train_on_batch", "test_on_batch"):
        before = multi.get_weights()
        options = {"verbose": 0} if method in ("fit", "evaluate") else {}
        with pytest.raises(ValueError, match="Targets must have a member axis in all calls after one compile"):
            getattr(multi, method)(X, np.stack([Y] * 3, axis=1)[..., None], **options)
        for received, expected in zip(multi.get_weights(), before):
            np.testing.assert_array_equal(received, expected, method)
        multi.fit(X, Y, batch_size=8, **OPTIONS)


@pytest.mark.parametrize("steps", [4, "auto"])
def test_arrays_of_other_lengths_are_refused(steps):
    """Where rows are taken on the device, which gives the last one for a row that is not there."""
    multi = compiled(steps)
    calls = [
        (lambda: multi.fit(X, Y[:-1], **OPTIONS), "24 inputs, 23 targets"),
        (lambda: multi.fit(X[:10], Y, **OPTIONS), "10 inputs, 24 targets"),
        (lambda: multi.fit(X, Y, sample_weight=np.ones(1), **OPTIONS), "24 inputs, 24 targets, 1 sample weights"),
        (lambda: multi.fit(X, Y, validation_data=(X, Y[:5]), **OPTIONS), "24 inputs, 5 targets"),
        (lambda: multi.evaluate(X, Y[:5], verbose=0), "24 inputs, 5 targets"),
    ]
    before = multi.get_weights()
    for call, found in calls:
        with pytest.raises(ValueError, match=f"for each row of the inputs. Received: {found}"):
            call()
    for received, expected in zip(multi.get_weights(), before):
        np.testing.assert_array_equal(received, expected)


@pytest.mark.parametrize("steps", [1, 4])
@pytest.mark.parametrize("is_fresh", [True, False])
def test_no_rows_are_refused_but_as_validation_data_and_have_no_answers(steps, is_fresh):
    multi, nothing = compiled(steps, metrics=["accuracy"]), (X[:0], Y[:0])
    if not is_fresh:
        multi.fit(X, Y, validation_data=(X, Y), **OPTIONS)
        multi.train_on_batch(X, Y)
    before = multi.get_weights()
    for method in ("fit", "evaluate", "train_on_batch", "test_on_batch"):
        with pytest.raises(ValueError, match="at least one row"):
            getattr(multi, method)(*nothing)
    for received, expected in zip(multi.get_weights(), before):
        np.testing.assert_array_equal(received, expected)
    assert multi.predict(X[:0]).shape == multi.predict_on_batch(X[:0]).shape == (0, 3, 3)
    history = multi.fit(X, Y, validation_data=nothing, **OPTIONS).history
    assert sorted(history) == ["accuracy", "ensemble_accuracy", "loss"]


def test_a_member_of_nan_weights_is_scored_as_it_is_alone():
    multi = compiled()
    multi.set_member_weights(1, [np.full(w.shape, np.nan) for w in multi.member_weights(1)])
    y, loss = np.eye(3)[Y], "categorical_crossentropy"
    scores = lambda: ["accuracy", "mae", keras.metrics.TopKCategoricalAccuracy(2, name="top")]  # noqa: E731
    multi.compile("sgd", loss, metrics=scores())
    logs = multi.evaluate(X, y, batch_size=10, verbose=0, return_dict=True)
    received = multi.member_metrics()
    for i, model in enumerate(multi.unpack()):
        model.compile("sgd", loss, metrics=scores())
        alone = model.evaluate(X, y, batch_size=10, verbose=0, return_dict=True)
        assert {key: values[i] for key, values in received.items()} == pytest.approx(alone, abs=1e-5, nan_ok=True)
        assert np.isnan(alone["loss"]) == np.isnan(alone["mae"]) == (i == 1)
    assert np.isfinite([logs["loss"], logs["mae"]]).all() and np.isnan(logs["ensemble_mae"])


def test_members_that_are_sick_since_an_earlier_fit_are_named():
    multi = compiled()
    multi.optimizer.build(multi.trainable_variables)
    multi.optimizer.sick.assign([0, 3, 0])
    with pytest.warns(UserWarning, match=r"Members \[1\] are not trained.*compile again"):
        multi.fit(X, Y, batch_size=len(X), **OPTIONS)
