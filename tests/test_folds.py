"""Folds, repeats and settings in one fit are those of the hand-written loop."""

import keras
import numpy as np
import pytest
from keras import layers as k
from sklearn.model_selection import StratifiedKFold

import keras_multiweight as kmw
from keras_multiweight.folds import _weights
from keras_multiweight.seeding import seeded

ROWS = 23
SETTINGS = [{"learning_rate": 0.01}, {"learning_rate": 0.05, "weight_decay": 0.1}]
OPTIONS = {"loss": "mse", "metric": "mae", "epochs": 2, "batch_size": 6, "shuffle": False}


def network():
    x = keras.Input((3,))
    return keras.Model(x, k.Dense(1)(k.Dense(4, activation="tanh")(x)))


@pytest.fixture(scope="module")
def data():
    rng = np.random.default_rng(0)
    x = rng.normal(5, 3, size=(ROWS, 3)).astype("float32")
    return x, (x[:, :1] > 5).astype("float32")


@pytest.fixture(scope="module")
def found(data):
    return kmw.cross_val_fit(network, *data, 3, 2, SETTINGS, normalize=True, **OPTIONS)


def test_members_are_those_of_the_loop(found, data):
    """Seeds are read from the members; everything else is written out here."""
    x, y = data
    assert found.scores.shape == (2, 2, 3) and found.predictions.shape == (2, 2, ROWS, 1)
    for g, r, f in [(0, 0, 1), (1, 1, 2)]:
        test = found.test_rows[r][f]
        train = np.setdiff1d(np.arange(ROWS), test)
        with seeded(found.multi.member_seeds[found.member(g, r, f)]):
            inner = network()
        normalization = k.Normalization()
        normalization.adapt(x[train])
        inputs = keras.Input((3,))
        model = keras.Model(inputs, inner(normalization(inputs)))
        model.compile(keras.optimizers.Adam(**SETTINGS[g]), "mse")
        weights = np.where(np.isin(np.arange(ROWS), train), ROWS / len(train), 0.0)
        model.fit(x, y, sample_weight=weights, batch_size=6, epochs=2, shuffle=False, verbose=0)
        answers = model.predict(x[test], verbose=0)
        np.testing.assert_allclose(found.predictions[g, r, test], answers, atol=1e-5)
        assert found.scores[g, r, f] == pytest.approx(np.abs(answers - y[test]).mean(), abs=1e-5)


def regularised(dropout=0.0, units=4):
    x = keras.Input((3,))
    h = k.Dropout(dropout)(k.Dense(units, activation="tanh")(x))
    return keras.Model(x, k.Dense(1)(h))


def test_rates_of_dropout_are_settings(data):
    """Members without dropout are those of the loop; the others begin with the same weights, and draw for themselves."""
    x, y = data
    settings = [{"dropout": 0.0, "learning_rate": 0.05}, {"dropout": 0.5, "learning_rate": 0.05}]
    found = kmw.cross_val_fit(regularised, x, y, 2, 1, settings, normalize=True, **OPTIONS)
    (rates,) = found.multi.member_settings.values()
    assert rates == [0.0, 0.0, 0.5, 0.5]
    plain = kmw.cross_val_fit(regularised, x, y, 2, 1, [{"learning_rate": 0.05}], normalize=True, **OPTIONS)
    np.testing.assert_allclose(found.predictions[0], plain.predictions[0], atol=1e-6)
    assert np.abs(found.predictions[1] - found.predictions[0]).min(axis=1).max() > 1e-4
    resting = [{**setting, "learning_rate": 0.0} for setting in settings]
    begun = kmw.cross_val_fit(regularised, x, y, 2, 1, resting, **OPTIONS).predictions
    np.testing.assert_array_equal(begun[0], begun[1])
    with pytest.raises(
        kmw.IncompatibleModelsError, match=r"(?s)units=4 in member 0 and units=5 .*params\[1\].*once for each"
    ):
        kmw.cross_val_fit(regularised, x, y, 2, 1, [{}, {"units": 5}], **OPTIONS)


def test_every_row_is_in_one_fold_of_a_repeat(found):
    for folds in found.test_rows:
        assert sorted(np.concatenate(folds)) == list(range(ROWS))
    assert any(not np.array_equal(a, b) for a, b in zip(*found.test_rows))
    assert np.isfinite(found.predictions).all() and "0.05" in str(found)


def test_rows_of_a_fold_have_no_part_in_its_training(data):
    """What leaks would change an answer: here the targets and inputs of one fold become absurd."""
    x, y = data
    folds = list(StratifiedKFold(3).split(x, y[:, 0]))
    before = kmw.cross_val_fit(network, x, y, StratifiedKFold(3), normalize=True, **OPTIONS)
    x, y = x.copy(), y.copy()
    x[folds[1][1]], y[folds[1][1]] = 1e3, -1e3
    after = kmw.cross_val_fit(network, x, y, folds, normalize=True, **OPTIONS)
    for a, b in zip(before.multi.member_weights(1), after.multi.member_weights(1)):
        np.testing.assert_array_equal(a, b)
    assert not np.array_equal(before.multi.member_weights(0)[-1], after.multi.member_weights(0)[-1])


def test_folds_are_masks_and_may_share_rows_to_test(data):
    """A row of two folds has the mean of two answers, one of none has NaN; a row that is named twice counts twice."""
    x, y = data
    first, second = np.arange(ROWS) < 4, (np.arange(ROWS) > 1) & (np.arange(ROWS) < 8)
    masks = [(~part, part) for part in (first, second)]
    found = kmw.cross_val_fit(network, x, y, iter(masks), **OPTIONS)
    answers, (predictions,) = found.multi.predict(x), found.predictions[0]
    assert [rows.tolist() for rows in found.test_rows[0]] == [[0, 1, 2, 3], [2, 3, 4, 5, 6, 7]]
    np.testing.assert_array_equal(predictions[:2], answers[:2, 0])
    np.testing.assert_allclose(predictions[2:4], answers[2:4].mean(axis=1), rtol=1e-6)
    assert np.isnan(predictions[8:]).all()
    weights = _weights(np.array([0, 0, 2]), 4)
    np.testing.assert_allclose(weights, [8 / 3, 0, 4 / 3, 0], rtol=1e-6)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"params": [{"dropout": 0.5}]}, r"settings of the optimizer, Adam, or arguments.*Received: \['dropout'\]"),
        ({"folds": 1}, "folds must be from 2 to the 23 rows"),
        ({"folds": 2.5}, r"folds must be an int, a splitter .* or a list of pairs.*Received: folds=2\.5"),
        ({"folds": []}, r"folds must be an int.*Received: folds=\[\]"),
        ({"folds": [[0, 1], [2, 3, 4]]}, r"list of pairs .rows to train on, rows to test.*Received: folds=\[\[0, 1"),
        ({"folds": [([0, 1], [99])]}, r"numbers of rows, 0 to 22.*Received: array\(\[99\]\)"),
        ({"folds": [([0, 1], [])]}, "none empty"),
        ({"folds": [([0, 1], [True, False])]}, "masks of 23 bools"),
        ({"folds": [([0, 1, 2], [2, 1, 5])]}, "must not be among those to train on.* has 2 rows in both, such as row 1"),
        ({"params": []}, r"params must be a list of dicts.*Received: params=\[\]"),
        ({"params": {"learning_rate": 0.1}}, r"params must be a list of dicts.*Received: params=\{'learning_rate': 0.1\}"),
        ({"params": [["learning_rate", 0.1]]}, "params must be a list of dicts.*ParameterGrid"),
        ({"y": [np.ones((ROWS, 1)), np.ones((ROWS, 2))]}, "Targets must be one array, of one output"),
        ({"batch_size": 32.0}, r"batch_size must be an int of at least 1\. Received: batch_size=32\.0"),
        ({"epochs": 0}, "epochs must be an int of at least 1"),
        ({"seed": -1}, r"seed must be an int of at least 0, or None\. Received: seed=-1"),
        ({"y": np.full((ROWS, 1), "high")}, r"Targets must be numbers\. Received: \['high'\].*np\.unique\(labels"),
        ({"repeats": 0}, "repeats must be an int of at least 1"),
        ({"metric": "goodness"}, "metric must be 'accuracy'"),
        ({"y": np.full((ROWS, 1), np.nan)}, "Targets must not be NaN"),
    ],
)
def test_wrong_arguments_are_named(data, change, message):
    with pytest.raises(ValueError, match=message):
        kmw.cross_val_fit(**{"build": network, "x": data[0], "y": data[1], **OPTIONS, **change})
