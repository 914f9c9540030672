"""Choosing and weighting members: against brute force, and against models of them."""

import itertools

import keras
import numpy as np
import oracle
import pytest
from keras import layers as k
from scipy import optimize

import keras_multiweight as kmw
from keras_multiweight import bagging

ROWS, MEMBERS = 60, 5


@pytest.fixture(scope="module")
def numbers():
    rng = np.random.default_rng(0)
    y = rng.normal(size=(ROWS, 2))
    return y[:, None] + rng.normal(size=(ROWS, MEMBERS, 2)) * np.array([0.5, 1.0, 0.6, 2.0, 0.7])[:, None], y


@pytest.fixture(scope="module")
def classes():
    rng = np.random.default_rng(1)
    y = rng.integers(0, 3, ROWS)
    logits = rng.normal(size=(ROWS, MEMBERS, 3)) + 1.5 * np.eye(3)[y][:, None] * np.array([1, 0.2, 1.5, -0.5, 1])[:, None]
    return np.exp(logits) / np.exp(logits).sum(axis=-1, keepdims=True), y


def mse(y, answers):
    return np.mean((y - answers) ** 2)


def test_greedy_selection_is_the_best_first_search(numbers):
    answers, y = numbers
    chosen = [min(range(MEMBERS), key=lambda i: mse(y, answers[:, i]))]
    path = [list(chosen)]
    for _ in range(7):
        chosen.append(min(range(MEMBERS), key=lambda i: mse(y, answers[:, [*chosen, i]].mean(axis=1))))
        path.append(list(chosen))
    expected = min(path, key=lambda members: mse(y, answers[:, members].mean(axis=1)))
    found = bagging.greedy_selection(answers, y, mse, "min", num_steps=8)
    np.testing.assert_allclose(found.weights, np.bincount(expected, minlength=MEMBERS) / len(expected))
    assert found.indices == sorted(set(expected))
    assert found.score == pytest.approx(mse(y, answers[:, expected].mean(axis=1)))
    assert found.score <= min(mse(y, answers[:, i]) for i in range(MEMBERS))


def test_bagged_selection_averages_over_bags(classes):
    answers, y = classes
    found = bagging.greedy_selection(answers, y, "accuracy", "max", bags=20, bag_size=2, num_best=2, num_steps=2, seed=0)
    again = bagging.greedy_selection(answers, y, "accuracy", "max", bags=20, bag_size=2, num_best=2, num_steps=2, seed=0)
    assert (found.weights > 0).sum() > 2 and found.weights.sum() == pytest.approx(1)
    np.testing.assert_array_equal(found.weights, again.weights)
    assert found.score == np.mean(np.tensordot(answers, found.weights, (1, 0)).argmax(axis=1) == y)


def test_best_members_are_those_of_the_best_scores(classes):
    answers, y = classes
    scores = [(answers[:, i].argmax(axis=1) == y).mean() for i in range(MEMBERS)]
    expected = sorted(range(MEMBERS), key=lambda i: (-scores[i], i))[:3]
    assert bagging.best_members(answers, y, "accuracy", "max", 3) == expected


SICK = 2  # of all members the best, but for its NaN


@pytest.mark.parametrize("metric", ["accuracy", "sparse_categorical_accuracy", lambda y, a: (a.argmax(-1) == y).mean()])
def test_a_member_that_answers_nan_is_not_chosen(classes, metric):
    """What is chosen is what is chosen of the others, also by a metric that counts NaN as a class."""
    answers, y = classes[0].copy(), classes[1]
    others = np.delete(np.arange(MEMBERS), SICK)
    answers[y == 0, SICK], answers[y != 0, SICK] = np.nan, np.eye(3)[y[y != 0]]
    assert bagging.best_members(answers, y, metric, "max", 2) == [
        int(others[i]) for i in bagging.best_members(answers[:, others], y, metric, "max", 2)
    ]
    with pytest.raises(ValueError, match="k must be at most the 4 members that do not answer NaN"):
        bagging.best_members(answers, y, metric, "max", MEMBERS)
    for options in ({"num_steps": 6}, {"bags": 5, "seed": 0, "num_steps": 3}):
        found = bagging.greedy_selection(answers, y, metric, "max", **options)
        alone = bagging.greedy_selection(answers[:, others], y, metric, "max", **options)
        np.testing.assert_array_equal(found.weights, np.insert(alone.weights, SICK, 0))
        assert SICK not in found.indices and found.score == alone.score > 0.5


def test_stacking_leaves_out_a_member_that_answers_nan(classes, numbers):
    for (answers, y), loss in ((classes, "log_loss"), (numbers, "mse")):
        answers = answers.copy()
        answers[3, SICK] = np.nan
        alone = bagging.stacking_weights(np.delete(answers, SICK, axis=1), y, loss)
        np.testing.assert_array_equal(bagging.stacking_weights(answers, y, loss), np.insert(alone, SICK, 0))


def test_stacking_by_least_squares_is_the_optimum_of_a_solver(numbers):
    answers, y = numbers
    weights = bagging.stacking_weights(answers, y)
    objective = lambda w: mse(y, np.tensordot(answers, w, (1, 0)))  # noqa: E731
    start, sums_to_one = np.full(MEMBERS, 1 / MEMBERS), {"type": "eq", "fun": lambda w: w.sum() - 1}
    solved = optimize.minimize(objective, start, bounds=[(0, 1)] * MEMBERS, constraints=sums_to_one, tol=1e-12)
    np.testing.assert_allclose(weights, solved.x, atol=1e-5)
    assert weights.sum() == pytest.approx(1) and (weights >= 0).all()


def test_stacking_by_log_loss_is_the_optimum_of_a_grid(classes):
    answers, y = classes
    three = answers[:, [0, 2, 4]]
    weights = bagging.stacking_weights(three, y, "log_loss")
    likelihood = three[np.arange(ROWS), :, y]
    grid = [w for w in itertools.product(np.linspace(0, 1, 101), repeat=2) if sum(w) <= 1]
    best = min(grid, key=lambda w: -np.log(likelihood @ [*w, 1 - sum(w)]).mean())
    np.testing.assert_allclose(weights[:2], best, atol=0.011)


def test_weights_and_members_make_a_model():
    def network():
        x = keras.Input((3,))
        return keras.Model(x, k.Dense(1)(k.Dense(4, activation="tanh")(x)))

    multi = kmw.pack(oracle.members(network, 4), verify=False)
    x = np.random.default_rng(0).normal(size=(20, 3)).astype("float32")
    answers = multi.predict(x)
    y = 0.7 * answers[:, 1] + 0.3 * answers[:, 3]
    weights = bagging.stacking_weights(answers, y)
    np.testing.assert_allclose(weights, [0, 0.7, 0, 0.3], atol=1e-5)
    small = multi.select([1, 3]).average(member_weights=weights[[1, 3]])
    oracle.assert_close(small.predict(x, verbose=0), y)


def test_diversity_is_that_of_the_loops(classes, numbers):
    answers, y = classes
    report = bagging.diversity(answers, y, "log_loss")
    choices, true = answers.argmax(axis=2), answers[np.arange(ROWS), :, y]
    for i, j in itertools.product(range(MEMBERS), repeat=2):
        assert report.disagreement[i, j] == pytest.approx(np.mean(choices[:, i] != choices[:, j]))
        assert report.error_correlation[i, j] == pytest.approx(np.corrcoef(true[:, i], true[:, j])[0, 1])
    np.testing.assert_allclose(report.member_loss, -np.log(true).mean(axis=0))
    for i in range(MEMBERS):
        rest = np.delete(true, i, axis=1).mean(axis=1)
        assert report.left_out_loss[i] == pytest.approx(-np.log(rest).mean())
    assert report.duplicates == [] and "loss without it" in str(report)
    answers, y = numbers
    report = bagging.diversity(np.concatenate([answers, answers[:, 1:2]], axis=1), y)
    assert report.duplicates == [(1, 5)] and report.disagreement[1, 5] == 0
    assert report.error_correlation[1, 5] == pytest.approx(1)
    assert report.ensemble_loss == pytest.approx(mse(y, np.concatenate([answers, answers[:, 1:2]], axis=1).mean(axis=1)))


def test_one_probability_stands_for_two_classes(classes):
    p = classes[0][:, :, :1]
    y = classes[1] == 1
    both = np.concatenate([1 - p, p], axis=-1)
    np.testing.assert_allclose(
        bagging.stacking_weights(p, y, "log_loss"), bagging.stacking_weights(both, y.astype(int), "log_loss")
    )
    one, two = bagging.diversity(p, y, "log_loss"), bagging.diversity(both, y.astype(int), "log_loss")
    np.testing.assert_allclose(one.disagreement, two.disagreement)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda a, y: bagging.greedy_selection(a, y, "accuracy", "best"), 'mode must be "max" or "min"'),
        (lambda a, y: bagging.greedy_selection(a, y, "goodness", "max"), "metric must be 'accuracy'"),
        (lambda a, y: bagging.greedy_selection(a[:, 0, 0], y, "accuracy", "max"), r"Answers must be \(B, N, ...\)"),
        (lambda a, y: bagging.greedy_selection(a, y[:5], "accuracy", "max"), "one for each of the 60 rows. Received: 5"),
        (lambda a, y: bagging.best_members(a, y, "accuracy", "max", 9), "k must be at most the 5 members"),
        (lambda a, y: bagging.best_members(a * np.nan, y, "mse", "min", 1), "NaN from each of the 5 members"),
        (lambda a, y: bagging.stacking_weights(a, y, "hinge"), "loss must be 'mse' or 'log_loss'"),
        (
            lambda a, y: bagging.stacking_weights(a, y + 1, "log_loss"),
            "integer classes from 0 to 2. Received: numbers from 1",
        ),
        (lambda a, y: bagging.diversity(a, y - 0.5, "log_loss"), "integer classes from 0 to 2"),
        (lambda a, y: bagging.diversity(a, y, "hinge"), "loss must be one of"),
        (lambda a, y: bagging.diversity(np.log(a), y, "log_loss"), "Probabilities must be from 0 to 1.*keras.ops.softmax"),
        (lambda a, y: bagging.stacking_weights(np.log(a), y, "log_loss"), "Probabilities must be from 0 to 1"),
        (lambda a, y: bagging.stacking_weights(a, y), r"Received: targets \(60,\) and answers \(60, 3\).*loss='log_loss'"),
        (lambda a, y: bagging.diversity(a, y), "the shape of a member's answers"),
        (lambda a, y: bagging.greedy_selection(a, y, "accuracy", "max", seed=-1), "seed must be an int of at least 0"),
    ],
)
def test_wrong_data_is_named(classes, call, message):
    with pytest.raises(ValueError, match=message):
        call(*classes)
