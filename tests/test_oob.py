"""Out-of-bag answers and scores are those of a loop over the members, by hand."""

import keras
import numpy as np
import oracle
import pytest
from keras import layers as k
from sklearn.metrics import r2_score

import keras_multiweight as kmw
from keras_multiweight.metrics import metric_function

ROWS, MEMBERS = 40, 4


def two_outputs():
    x = keras.Input((3,))
    h = k.Dense(5, activation="tanh")(x)
    return keras.Model(x, [k.Dense(1, name="number")(h), k.Dense(3, name="logits")(h)])


@pytest.fixture(scope="module")
def case():
    rng = np.random.default_rng(0)
    models = oracle.members(two_outputs, MEMBERS)
    x, y = rng.normal(size=(ROWS, 3)).astype("float32"), rng.normal(size=(ROWS, 1)).astype("float32")
    classes = rng.integers(0, 3, size=ROWS)
    answers = oracle.stacked_predictions(models, x, ROWS)
    return kmw.pack(models, verify=False), x, [y, classes], answers, kmw.Bootstrap(ROWS, MEMBERS, seed=0)


def by_hand(answers, bootstrap):
    """Rows with an out-of-bag answer, and the answers."""
    rows, means = [], []
    for r in range(ROWS):
        left_out = [answers[r, i] for i in range(MEMBERS) if r not in bootstrap.indices[i]]
        if left_out:
            rows.append(r)
            means.append(np.mean(left_out, axis=0))
    return rows, np.array(means)


def softmax(logits):
    return np.exp(logits) / np.exp(logits).sum(axis=-1, keepdims=True)


def test_answers_are_those_of_the_hand_written_loop(case):
    multi, x, _, answers, bootstrap = case
    rows, _ = by_hand(answers[0], bootstrap)
    assert 0 < len(rows) < ROWS  # some rows have none
    with pytest.warns(UserWarning, match=f"{ROWS - len(rows)} of {ROWS} rows were drawn by every member"):
        received = multi.oob_predict(x, bootstrap)
    for got, every in zip(received, answers):
        oracle.assert_close(got[rows], by_hand(every, bootstrap)[1])
        assert np.isnan(np.delete(got, rows, axis=0)).all()
        assert got.dtype == every.dtype


@pytest.mark.filterwarnings("ignore:.*rows were drawn by every member")
def test_scores_are_those_of_the_hand_written_loop(case):
    multi, x, (y, classes), answers, bootstrap = case
    rows, means = by_hand(answers[0], bootstrap)
    _, shares = by_hand(softmax(answers[1]), bootstrap)
    expected = [r2_score(y[rows], means), np.mean(shares.argmax(axis=1) == classes[rows])]
    received = multi.oob_score(x, [y, classes], bootstrap, [r2_score, "accuracy"], from_logits=True)
    assert received[1] == expected[1]
    assert multi.oob_score(x, [y, classes], bootstrap, [None, "accuracy"], from_logits=True) == [None, expected[1]]
    assert multi.oob_score(x, [y, classes], bootstrap, [r2_score, None])[0] == pytest.approx(expected[0], rel=1e-5)
    for metric in ("mae", keras.losses.MeanAbsoluteError(), keras.metrics.MeanAbsoluteError()):
        got = multi.oob_score(x, [y, classes], bootstrap, [metric, None])[0]
        assert got == pytest.approx(np.abs(means - y[rows]).mean(), rel=1e-5)


def test_a_member_that_drew_a_row_does_not_spoil_it():
    answers = np.array([[[1.0], [np.nan]], [[np.inf], [3.0]]])
    means = kmw.bagging.oob.masked_mean(answers, np.array([[True, False], [False, True]]))
    assert means.tolist() == [[1.0], [3.0]]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"bootstrap": kmw.Bootstrap(ROWS, 3, seed=0)},
            r"of the 40 rows and 4 members .* Received: bool of shape \(40, 3\)",
        ),
        ({"bootstrap": kmw.Bootstrap(ROWS, MEMBERS, replace=False)}, "every member draws every row"),
        ({"bootstrap": np.zeros((ROWS, MEMBERS))}, "Received: float64 of shape"),
        ({"metric": "goodness"}, "metric must be 'accuracy'.*Received: metric='goodness'"),
        ({"metric": 3}, "Received: metric=3"),
        ({"y": np.zeros((ROWS - 1, 1))}, "one for each of the 40 rows. Received: 39"),
        ({"y": np.full((ROWS, 1), np.nan)}, "Targets must not be NaN. Received: 40"),
        ({"y": np.full(ROWS, "cat", object)}, r"Targets must be numbers. Received: \['cat'\] of dtype object.*np.unique"),
        (
            {"y": [np.zeros((ROWS, 1)), np.full(ROWS, 3)], "metric": [None, "accuracy"]},
            "Targets must be classes from 0 to 2. Received: numbers from 3 to 3",
        ),
        ({}, "1 metrics, 1 targets and 2 outputs"),
    ],
)
@pytest.mark.filterwarnings("ignore:.*rows were drawn by every member")
def test_wrong_data_is_named(case, change, message):
    multi, x, (y, _), _, bootstrap = case
    with pytest.raises(ValueError, match=message):
        multi.oob_score(**{"x": x, "y": y, "bootstrap": bootstrap, "metric": "mse", **change})


def test_tables_of_pandas_train_and_score_as_arrays():
    pandas = pytest.importorskip("pandas")
    rng, bootstrap = np.random.default_rng(0), kmw.Bootstrap(ROWS, MEMBERS, seed=0)
    x, y = rng.normal(size=(ROWS, 3)).astype("float32"), rng.normal(size=ROWS).astype("float32")
    found = []
    for data in ((x, y), (pandas.DataFrame(x, columns=list("abc")), pandas.Series(y))):
        multi = kmw.replicate(keras.Sequential([keras.Input((3,)), k.Dense(1)]), MEMBERS, seed=0)
        multi.compile("sgd", "mse", steps_per_execution="auto")
        multi.fit(*data, sample_weight=bootstrap.weights, shuffle=False, verbose=0)
        found.append([multi.evaluate(*data, verbose=0), multi.oob_score(*data, bootstrap, "mae"), *multi.get_weights()])
    for of_arrays, of_tables in zip(*found):
        np.testing.assert_array_equal(of_arrays, of_tables)


def test_targets_without_the_last_axis_of_their_answers_meet_them():
    y, answers = np.array([0.0, 1.0, 1.0]), np.array([[0.1], [0.8], [0.3]])
    for target in (y, y[:, None]):
        assert metric_function(lambda y, answers: np.mean((y - answers) ** 2))(target, answers) == pytest.approx(0.18)
        assert metric_function("mse")(target, answers) == pytest.approx(0.18)
        assert metric_function("accuracy")(target, answers) == pytest.approx(2 / 3)
    for metric in ("accuracy", "binary_accuracy", keras.metrics.AUC()):  # Keras counts NaN as a class, or fails
        assert np.isnan(metric_function(metric)(y, np.array([[0.1], [np.nan], [0.3]])))


@pytest.mark.parametrize(
    ("metric", "y", "outputs", "message"),
    [
        ("mse", np.eye(3), 1, r"shape of the answers.*Received: targets \(3, 3\) and answers \(3, 1\)"),
        ("accuracy", np.eye(3), 1, "shape of the answers"),
        ("accuracy", np.array([0, 1, 7]), 1, "0 or 1, for one probability. Received: numbers from 0 to 7"),
        ("accuracy", np.array([0, 1, 7]), 2, "classes from 0 to 1. Received: numbers from 0 to 7"),
        ("accuracy", np.array([0.5, 1.0, 0.0]), 2, "classes from 0 to 1"),
        ("accuracy", np.ones((3, 2)), 2, "one-hot, for probabilities of classes"),
        (lambda y, a: np.ones(4), np.zeros(3), 2, r"one number, or one for each row.*shape \(4,\) from.*average='macro'"),
        (keras.metrics.F1Score(), np.eye(3)[:, :2], 2, r"one number, or one for each row.*shape \(2,\)"),
        (keras.metrics.AUC(), np.array([0, 1, 1]), 2, r"one-hot.*Received: targets \(3,\) and answers \(3, 2\)"),
    ],
)
def test_targets_that_a_metric_cannot_mean_are_refused(metric, y, outputs, message):
    with pytest.raises(ValueError, match=message):
        metric_function(metric)(y, np.full((3, outputs), 1 / outputs))
